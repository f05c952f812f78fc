"""Responses to prompts: sampled from a model, offline or online."""

from thack.generation.sampler import GenerationRequest, generate, respond

__all__ = ["GenerationRequest", "generate", "respond"]
