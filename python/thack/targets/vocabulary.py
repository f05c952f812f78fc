"""The rule for padded vocabularies: ids that the tokenizer does not have take no part.

Models pad their LM heads (151,936 rows for 151,669 tokens), each to its own width. Models that share a tokenizer are
compared on the tokenizer's ids, renormalised there, also where their heads are equally wide. A cache keeps those ids
alone. An added token for which one of the models has no row takes no part either (`Tokenizer.for_rows`); a head that
lacks other tokens is refused. Nothing is ever padded with logit 0, which would be mass.
"""

from __future__ import annotations

import torch
from torch import Tensor

from thack.errors import MismatchError


def common_width(tokenizer_size: int, **widths: int) -> int:
    """The number of ids that are compared: those of the tokenizer, which every head must hold.

    Args:
        tokenizer_size: number of the tokenizer's ids.
        widths: number of rows of each LM head, named by role, such as student=32000, teacher=32064.

    Raises:
        MismatchError: a head has fewer rows than the tokenizer has ids.

    Example:
        >>> common_width(151_669, student=151_936, teacher=152_064)
        151669
    """
    width = min(widths.values())
    if width < tokenizer_size:
        raise MismatchError(
            f"a vocabulary of {width:,} rows cannot hold this tokenizer's ids",
            details=[
                *(f"{role:<9} {rows:,} rows" for role, rows in widths.items()),
                f"tokenizer {tokenizer_size:,} tokens",
            ],
            hint="use models that have a row for each of the tokenizer's tokens",
        )
    return tokenizer_size


def log_probs(logits_NV: Tensor, width: int) -> Tensor:
    """log_softmax of the first `width` columns, in float32 at least."""
    dtype = torch.promote_types(logits_NV.dtype, torch.float32)
    return torch.log_softmax(logits_NV[:, :width].to(dtype), dim=1)
