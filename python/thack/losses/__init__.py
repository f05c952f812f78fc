"""Divergences between a student's logits and what is known of the teacher, with exact gradients."""

from thack.losses.dispatch import (
    cross_entropy,
    divergence,
    forward_kl,
    jsd,
    reverse_kl,
    skewed_kl,
    token_losses,
    total_variation,
)

__all__ = [
    "cross_entropy",
    "divergence",
    "forward_kl",
    "jsd",
    "reverse_kl",
    "skewed_kl",
    "token_losses",
    "total_variation",
]
