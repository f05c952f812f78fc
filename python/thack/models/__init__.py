"""Oracle, teacher and student: one protocol, a native decoder, and an adapter for transformers."""
