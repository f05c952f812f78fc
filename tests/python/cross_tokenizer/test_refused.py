"""Tokenizers whose tokens cannot be compared by their bytes are refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend

from thack.cross_tokenizer import Rewriter, build_cells, read_bpe
from thack.cross_tokenizer.shapes import alphabet_of
from thack.data.sequence import TokenSequence
from thack.data.tokenizer import Tokenizer
from thack.errors import MismatchError

from .small import small

SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}
LLAMA_3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+(?!\S)|\s+"


def changed(**parts: Any) -> Tokenizer:
    """A small tokenizer with other parts of its tokenizer.json."""
    found = small(290)
    content = json.loads(found._backend.to_str())
    model = parts.pop("model", {})
    content["model"] = model if "vocab" in model else content["model"] | model
    return Tokenizer(Backend.from_str(json.dumps(content | parts)), found.facts)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"model": {"dropout": 0.1}}, r"dropout = 0\.1"),
        ({"model": {"end_of_word_suffix": "</w>"}}, "end_of_word_suffix"),
        ({"model": {"type": "Unigram", "vocab": [["a", -1.0]], "unk_id": 0}}, "a Unigram tokenizer cannot be compared"),
        ({"normalizer": {"type": "Lowercase"}}, "normalizer Lowercase changes the bytes"),
        ({"normalizer": {"type": "NFKC"}}, "normalizer NFKC changes the bytes"),
    ],
)
def test_kinds(parts: dict[str, Any], reason: str) -> None:
    with pytest.raises(MismatchError, match=reason):
        read_bpe(changed(**parts))


@pytest.mark.parametrize(
    "pre_tokenizer",
    [
        SPLIT | {"pattern": {"Regex": r"[一-龥]+|\s+"}},
        SPLIT | {"pattern": {"Regex": r"\p{L}+"}, "behavior": "Removed"},
        SPLIT | {"pattern": {"String": "a"}},
        {"type": "Whitespace"},
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    ],
)
def test_splits(pre_tokenizer: dict[str, Any]) -> None:
    bpe = replace(read_bpe(small(290)), pre_tokenizer=json.dumps(pre_tokenizer))
    with pytest.raises(MismatchError, match="cannot be analysed"):
        alphabet_of(bpe)


def test_a_known_pattern_is_read() -> None:
    bpe = replace(read_bpe(small(290)), pre_tokenizer=json.dumps(SPLIT | {"pattern": {"Regex": LLAMA_3}}))
    alphabet = alphabet_of(bpe)
    assert (alphabet.cased, alphabet.contractions, alphabet.fold) == (False, True, True)
    assert alphabet.shape(b" Word's 1234567") == "  xxx's 1111".replace("  ", " ")


def test_nfc_is_taken_since_alignment_sees_what_it_changes() -> None:
    assert read_bpe(changed(normalizer={"type": "NFC"})).bytes_V == read_bpe(small(290)).bytes_V


def test_a_response_that_the_student_writes_as_unknown_is_refused_with_the_token() -> None:
    vocab = json.loads(small(290)._backend.to_str())["model"]
    without_q = {token: i for token, i in vocab["vocab"].items() if "Q" not in token}
    teacher, student = small(290), changed(model=vocab | {"vocab": without_q, "unk_token": "<pad>"})
    prompt, response = (teacher.encode(text) for text in ("the fox", "a Q"))
    s = TokenSequence(example=0, prompt_id="p-7", prompt_ids=prompt, response_ids=np.append(response, teacher.eos_id))
    rewrite = Rewriter(teacher, student, build_cells(read_bpe(teacher), read_bpe(student)))
    assert not rewrite.accepts(s)
    with pytest.raises(MismatchError, match="prompt p-7: the student's tokenizer writes '<pad>' in the response"):
        rewrite(s)
    assert rewrite(replace(s, response_ids=teacher.encode("a dog"))).alignment.num_bytes == 5
