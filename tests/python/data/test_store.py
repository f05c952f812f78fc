"""A directory of responses: what is written is found again, and what is not one is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from thack.config import DataSettings
from thack.data import Conversation, Record
from thack.data.lengths import TEXT_TOKENS
from thack.data.prepare import prepare
from thack.data.sequence import TokenSequence
from thack.data.store import find_responses, longest_response, read_manifest, write_responses
from thack.data.tokenizer import Tokenizer
from thack.errors import DataError, MismatchError
from thack.schema.generation import GenerationFacts, ResponsesManifest

TOKENIZER = Tokenizer.train(["def read(path): read the file"] * 3, 264)
FACTS = GenerationFacts(
    model="sha256:m",
    data="sha256:d",
    seed=1,
    samples=1,
    sampling={"temperature": 1.0},
    max_response_tokens=9,
    dtype="float32",
)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    prompt = TOKENIZER.encode("read")
    ended, cut = np.append(TOKENIZER.encode("the file"), TOKENIZER.eos_id), TOKENIZER.encode("the path")
    sequences = [
        TokenSequence(example=i, prompt_id=f"p{i}", prompt_ids=prompt, response_ids=ids.astype(np.int32))
        for i, ids in enumerate((ended, cut))
    ]
    turns = ({"role": "user", "content": "read"},)
    records = {
        "p0": Record(prompt_id="p0", prompt="read"),
        "p1": Record(prompt_id="p1", prompt="read", conversation=Conversation(messages=turns)),
    }
    answered = [(records[s.prompt_id], s) for s in sequences]
    write_responses(tmp_path / "out", answered, TOKENIZER, facts=FACTS)
    return tmp_path / "out"


def test_what_is_written_is_found(written: Path) -> None:
    found = find_responses(written, FACTS)
    assert found is not None and found == read_manifest(written)
    assert (found.responses, found.finished, found.tokenizer) == (2, 0.5, TOKENIZER.fingerprint())
    rows = [json.loads(line) for line in (written / "responses.jsonl").read_text().splitlines()]
    assert found.tokens == sum(len(row["response_ids"]) for row in rows)
    assert [row["finished"] for row in rows] == [True, False]
    assert rows[0]["prompt"] == "read" and rows[1]["messages"] == [{"role": "user", "content": "read"}]


def test_facts_are_keys_of_the_manifest_itself(written: Path) -> None:
    content = json.loads((written / "manifest.json").read_text())
    assert list(content)[:3] == ["kind", "format", "tokenizer"] and content["seed"] == 1 and "facts" not in content
    assert ResponsesManifest.parse(content).facts == FACTS


def test_other_facts_are_refused_by_name(written: Path, tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match="other responses\n  seed  1 there, 2 now"):
        find_responses(written, replace(FACTS, seed=2))
    assert find_responses(tmp_path / "nothing", FACTS) is None


def test_responses_that_generate_cut_are_truncated_wherever_they_are_read(written: Path) -> None:
    """Without `max_response_tokens` the maximum is higher than that of `thack generate`."""
    for path in (written, written / "responses.jsonl"):
        reader = TOKENIZER.with_template("{% for m in messages %}{{ m.content }}{% endfor %}")
        report = prepare(DataSettings(path=str(path)), reader, need_response=True).report
        assert (report.ends.finished, report.ends.truncated, report.ends.dropped_end) == (1, 1, 0)
    assert longest_response(DataSettings(path=str(written))) == FACTS.max_response_tokens
    assert longest_response(DataSettings(path=str(written), max_response_tokens=3)) == 3
    assert longest_response(DataSettings()) == TEXT_TOKENS


def test_what_is_not_a_directory_of_responses_is_refused(written: Path, tmp_path: Path) -> None:
    assert read_manifest(written / "responses.jsonl") is None
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no complete responses"):
        read_manifest(tmp_path / "empty")
    for content in ('{"kind": "cache", "format": 1}', "[]", '{"kind": "responses", "format": 1}', "{"):
        (tmp_path / "empty" / "manifest.json").write_text(content)
        with pytest.raises(DataError, match=r"manifest\.json") as caught:
            read_manifest(tmp_path / "empty")
        assert caught.value.hint == "give a directory that `thack generate` wrote"
