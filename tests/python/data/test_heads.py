"""Texts far longer than what is kept of them: the same ids as without a bound, and no work for the rest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thack.config import DataSettings
from thack.data import heads, stream
from thack.data.heads import Bounds, Heads
from thack.data.prepare import Prepared, prepare
from thack.data.tokenizer import Tokenizer

from .long_text import TRAINED, texts
from .small import CHATML, write_rows


@given(text=texts, most=st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_a_beginning_has_the_first_ids_of_the_text_and_an_end_the_last(
    tokenizers: list[Tokenizer], text: str, most: int
) -> None:
    text = text * 12
    for tokenizer in tokenizers:
        head = Heads(tokenizer).of(text, most)
        found, whole = tokenizer.encode(head), tokenizer.encode(text)
        assert text.startswith(head)
        assert head == text or len(found) > 2 * most
        assert np.array_equal(found, whole[: len(found)])
        end = Heads(tokenizer).end_of(text, most)
        found = tokenizer.encode(end)
        assert text.endswith(end)
        assert end == text or len(found) > 2 * most
        assert np.array_equal(found[-most:], whole[-most:])


def test_texts_that_cannot_be_parted_are_left_whole(tmp_path: Path) -> None:
    text = "read the file " * 100
    assert len(Heads(TRAINED).of(text, 2)) < 400
    assert Heads(TRAINED).of(text, 0) == text, "no bound"
    assert Heads(TRAINED).of("x" * 5000, 2) == "x" * 5000, "no place between words"
    assert Heads(Tokenizer.train(["a b a b"] * 9, 340)).of(text, 2) != text
    crossing = TRAINED.with_template("x")
    crossing.can_part = False
    assert Heads(crossing).of(text, 2) == text, "a token reaches over the place"


LONG = "the file and the path " * 3000
ROWS: list[dict[str, Any]] = [
    {"prompt": "read", "response": LONG},
    {"prompt": LONG, "response": "ok"},
    {"prompt": "read it", "response": "ok"},
    {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": LONG}]},
    {"messages": [{"role": "user", "content": LONG}, {"role": "assistant", "content": "ok"}]},
    {"prompt": "plain ids", "response_ids": [5, 6, 257]},
]
MARKED = "{% for m in messages %}{{ m.role }}:{% if m.role == 'assistant' %}{% generation %}{{ m.content + '</s>' }}"
MARKED += "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"


def prepared(path: Path, tokenizer: Tokenizer, **changes: Any) -> Prepared:
    wanted = DataSettings(path=str(path), max_prompt_tokens=60, max_response_tokens=12)
    return prepare(replace(wanted, **changes), tokenizer, need_response=True)


def seen(found: Prepared) -> list[Any]:
    return [(s.prompt_id, s.prompt_ids.tolist(), s.response_ids.tolist()) for s in found.sequences] + [found.report]


@pytest.mark.parametrize("template", [CHATML, MARKED])
@pytest.mark.parametrize("changes", [{}, {"on_long": "cut"}, {"control_tokens": "text"}, {"train_on": "all"}])
def test_data_is_the_same_with_and_without_the_bound(
    template: str, changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, tokenizer = write_rows(tmp_path / "data.jsonl", *ROWS), TRAINED.with_template(template)
    bounded = seen(prepared(path, tokenizer, **changes))
    monkeypatch.setattr(stream, "kept_of", lambda *_: Bounds())
    assert bounded == seen(prepared(path, tokenizer, **changes))
    assert bounded[-1].cut_responses >= 2 and bounded[-1].kept >= 3


@pytest.mark.parametrize("on_long", ["drop", "cut"])
def test_only_what_is_kept_is_encoded(on_long: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_rows(tmp_path / "data.jsonl", *ROWS)
    longest, encode = 0, Tokenizer.encode_batch

    def watched(self: Tokenizer, texts: Any, **options: Any) -> list[np.ndarray]:
        nonlocal longest
        longest = max(longest, *map(len, texts), 0)
        return encode(self, texts, **options)

    monkeypatch.setattr(Tokenizer, "encode_batch", watched)
    prepared(path, TRAINED.with_template(CHATML), on_long=on_long)
    assert longest < 4 * heads._CHARACTERS * 80 < len(LONG)
