"""Two tokenizers, and texts that they cut at different places."""

from __future__ import annotations

from functools import cache

from thack.data.tokenizer import Tokenizer

TEXTS = ["def read(path): dive back", "five of them", "it", "read the file at path", ": give some def of it"]


@cache
def theirs() -> Tokenizer:
    return Tokenizer.train(["dive back, five of them: give some def of it"] * 9, 290)


@cache
def ours() -> Tokenizer:
    return Tokenizer.train(["def read(path): read the file at path"] * 3, 275)
