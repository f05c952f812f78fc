"""The adapter for transformers' models."""
