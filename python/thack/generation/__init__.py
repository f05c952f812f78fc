"""Who writes the responses, and when: prompts in, responses out."""

from thack.generation.sampler import generate

__all__ = ["generate"]
