"""Long texts have the ids of the whole, take memory by the part, and are refused where they cannot be parted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thack.config import DataSettings
from thack.data import encode, parting, stream
from thack.data.encode import RecordEncoder
from thack.data.prepare import Prepared, prepare
from thack.data.records import Conversation, Record, RecordRefusal
from thack.data.tokenizer import Tokenizer

from . import long_text
from .long_text import texts
from .small import CHATML, write_rows

TRAINED = long_text.TRAINED.with_template(CHATML)


@given(given_texts=st.lists(texts, max_size=4), most=st.integers(1, 30), at_once=st.integers(1, 300))
@settings(max_examples=60, deadline=None)
def test_parts_have_the_ids_of_the_whole(
    tokenizers: list[Tokenizer], given_texts: list[str], most: int, at_once: int
) -> None:
    for tokenizer in tokenizers:
        whole = tokenizer.encode_batch(given_texts)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(parting, "SHORT", most)
            patch.setattr(parting, "_AT_ONCE", at_once)
            parts = tokenizer.encode_batch(given_texts)
        assert all(np.array_equal(*each) for each in zip(whole, parts, strict=True))


def prepared(path: Path, tokenizer: Tokenizer, **changes: Any) -> Prepared:
    wanted: dict[str, Any] = {"path": str(path), "max_prompt_tokens": 60, "max_response_tokens": 12} | changes
    return prepare(DataSettings(**wanted), tokenizer, need_response=True)


def test_a_text_that_cannot_be_parted_is_refused_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parting, "WHOLE", 500)
    long = "x" * 501
    rows: list[dict[str, Any]] = [
        {"prompt": "read", "response": "ok"},
        {"prompt": long, "response": "ok"},
        {"prompt": "the", "response": long},
        {"text": long},
        {"messages": [{"role": "user", "content": long}, {"role": "assistant", "content": "ok"}]},
        {"prompt": "path", "response": "the file"},
    ]
    path = write_rows(tmp_path / "data.jsonl", *rows)
    report = prepared(path, TRAINED, on_bad_line="skip").report
    assert (report.kept, len(report.skipped)) == (2, 4)
    for number, line in enumerate(report.skipped, 2):
        assert f"data.jsonl:{number}: a text of" in line and "cut it into several records" in line
    with pytest.raises(ValueError, match=r"data.jsonl:2: a text of 501 characters, of which more than 500 stand"):
        prepared(path, TRAINED)
    prompts = RecordEncoder(TRAINED).prompts([Record(prompt_id="a", prompt=long), Record(prompt_id="b", prompt="the")])
    assert isinstance(prompts[0], RecordRefusal) and isinstance(prompts[1], np.ndarray)
    with pytest.raises(parting.LongText):
        TRAINED.encode_with_spans(long)


def test_long_records_are_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"prompt": f"{i} " + "read the file " * 20, "response": "ok"} for i in range(9)]
    path = write_rows(tmp_path / "data.jsonl", *rows)
    expected = prepared(path, TRAINED, max_prompt_tokens=900)
    monkeypatch.setattr(stream, "_CHARACTERS", 600)
    data = stream.DataStream(DataSettings(path=str(path), max_prompt_tokens=900), TRAINED, need_response=True)
    assert [len(chunk.records) for chunk in data] == [3, 3, 3]
    found = prepared(path, TRAINED, max_prompt_tokens=900)
    assert found.report == expected.report
    assert [s.prompt_ids.tolist() for s in found.sequences] == [s.prompt_ids.tolist() for s in expected.sequences]


def test_a_conversation_is_not_rendered_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = ({"role": "user", "content": "read"}, {"role": "assistant", "content": "ok"}) * 20
    record = Record(prompt_id="a", prompt="read", response="ok", conversation=Conversation(messages=turns))
    found = RecordEncoder(TRAINED, train_on="all").pairs([record])[0]
    assert isinstance(found, list) and len(found) == 20
    monkeypatch.setattr(encode, "_TURNS", 20 * 40 - 1)
    (found,) = RecordEncoder(TRAINED, train_on="all").pairs([record])
    assert isinstance(found, RecordRefusal) and str(found).startswith(
        "20 trained turns in a conversation of 40: cut it"
    )
    assert isinstance(RecordEncoder(TRAINED).pairs([record])[0], list), "the last turn alone"


PEAK = r"""
import re, sys
from thack.data.encode import RecordEncoder
from thack.data.records import Record
from thack.data.tokenizer import Tokenizer
encoder = RecordEncoder(Tokenizer.load(sys.argv[1]))
def peak(text):
    encoder.pairs([Record(prompt_id="a", prompt="", response=text, is_text=True)])
    encoder.pairs([Record(prompt_id="a", prompt="read", response=text)])
    # ru_maxrss begins with that of the process before exec
    return int(re.search(r"VmHWM:\s*(\d+)", open("/proc/self/status").read())[1]) << 10
text = "read the file and the path " * (1 << 18)
base = peak(text[:99])
print((peak(text) - base) / len(text))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_a_small_multiple_of_the_text(tmp_path: Path) -> None:
    """Without bounds, of a raw text and of a response behind its prompt."""
    TRAINED.save(tmp_path)
    done = subprocess.run([sys.executable, "-c", PEAK, str(tmp_path)], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 12
