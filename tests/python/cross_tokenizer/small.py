"""Small tokenizers: byte-level BPEs trained on a few lines, with different texts and splitters."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

from tokenizers import Tokenizer as Backend
from tokenizers import pre_tokenizers

from thack.data.tokenizer import Tokenizer

TEXT = (
    "the quick brown fox jumps over the lazy dog; she said: \"don't — it's 12,345 times\"\n"
    "def f(x):\n    return x ** 2 + 31415\n\n"
    "Größe, déjà vu, 日本語の文, 日本人, 🙂🙃 and ünïcödé   with   spaces\t\ttabs\r\n"
)
CODE = "for i in range(100):\n    if i % 15 == 0:\n        p('FizzBuzz', i)\n    elif then:\n        quick_fox(日本)\n"


@cache
def small(size: int, *, code: bool = False, digits: bool = False) -> Tokenizer:
    """A tokenizer of at most `size` ids; with `digits` each digit stands alone, as in SmolLM2."""
    found = Tokenizer.train([CODE if code else TEXT] * 3, size)
    if not digits:
        return found
    backend = Backend.from_str(json.dumps(json.loads(found._backend.to_str())))
    split = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    backend.pre_tokenizer = pre_tokenizers.Sequence(split)
    return Tokenizer(backend, replace(found.facts))
