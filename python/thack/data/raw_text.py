"""Raw texts, trained on as a whole: cut into pieces, each of whose tokens is predicted once."""

from __future__ import annotations

import numpy as np

from thack.data.chat import Pair
from thack.data.control_tokens import encode_text
from thack.data.tokenizer import Tokenizer


def pieces(text: str, tokenizer: Tokenizer, most: int) -> list[Pair]:
    """Pieces of at most `most` tokens; the last one is closed by EOS.

    A piece needs a token to begin from. That is the BOS that the tokenizer puts before a text and, but for the first
    piece, the token before it. Where there is no BOS, the text's first token is not predicted.
    """
    ids = tokenizer.ends.close(encode_text(tokenizer, [text])[0])
    start = tokenizer.as_prompt(np.empty(0, dtype=np.int32)) if not tokenizer.facts.encoder_decoder else ids[:0]
    first = 0 if len(start) else 1
    found = []
    for begin in range(first, len(ids), most):
        before = ids[max(begin - 1, 0) : begin]
        found.append(Pair(np.concatenate([start, before]), ids[begin : begin + most]))
    return found
