"""The rule for heads of different width: ids that only one of two models has are nobody's tokens.

Models pad their heads (151,936 rows for 151,669 tokens), each to its own width. Models that share a
tokenizer are compared on the ids below `common_width`, renormalised there; a width below the
tokenizer's size is refused, and nothing is ever padded with logit 0, which would be mass.
"""

from __future__ import annotations

import torch
from torch import Tensor

from thack.errors import MismatchError


def common_width(tokenizer_size: int, **widths: int) -> int:
    """The narrowest head; raises MismatchError if that does not hold the tokenizer's ids.

    `widths` are named by role, such as student=32000, teacher=32064.
    """
    width = min(widths.values())
    if width < tokenizer_size:
        raise MismatchError(
            f"a vocabulary of {width:,} rows cannot hold this tokenizer's ids",
            details=[
                *(f"{role:<9} {rows:,} rows" for role, rows in widths.items()),
                f"tokenizer {tokenizer_size:,} tokens",
            ],
            hint="resize the model's embeddings, or use the tokenizer it was trained with",
        )
    return width


def log_probs(logits_NV: Tensor, width: int) -> Tensor:
    """log_softmax of the first `width` columns, in float32 at least."""
    dtype = torch.promote_types(logits_NV.dtype, torch.float32)
    return torch.log_softmax(logits_NV[:, :width].to(dtype), dim=1)
