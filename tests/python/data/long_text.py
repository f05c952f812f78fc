"""Words that texts are parted between, or must not be, and a tokenizer trained on them."""

from __future__ import annotations

from hypothesis import strategies as st

from thack.data.tokenizer import Tokenizer

WORDS = ["read the file", "def read(path):", "the  path", "\n\n", "\tif x", "naïve 日本", "a.b", "12 345", "It's", "…"]
TRAINED = Tokenizer.train([" ".join(WORDS), "read the file and the path"] * 3, 340)
texts = st.lists(st.sampled_from([*WORDS, " ", "x", "the"]), max_size=60).map(" ".join)
