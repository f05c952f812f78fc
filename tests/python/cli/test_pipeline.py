"""The pipeline as typed: every command on what the one before it wrote, with --json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Done, Run

SHORT = ("--set", "data.max_response_tokens=8", "--limit", "24")


@pytest.fixture
def ok(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """`run` in an empty directory, for commands that must succeed and print one document."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Done:
        done = run(*arguments, "--json")
        assert done.code == 0, done.err
        return done

    return call


@pytest.mark.slow
def test_every_command_reads_what_the_one_before_it_wrote(ok: Run, run: Run) -> None:
    files = ok("corpus", "--out", "data", "--held-out", "8").document
    assert set(files) == {f"data/{name}.jsonl" for name in ("held_out", "pairs", "prompts")}
    small = ("--set", "architecture.hidden_size=16", "--set", "architecture.num_heads=2", "--epochs", "1")
    teacher = ok("sft", "--data", "data/pairs.jsonl", "--out", "t", "--set", "tokenizer_size=300", *small, *SHORT)
    assert teacher.document == {"out": "t/model"}
    sibling = ("--set", "tokenizer=t/model", "--seed", "1")
    assert ok("sft", "--data", "data/pairs.jsonl", "--out", "s", *sibling, *small, *SHORT).document["out"] == "s/model"

    written = ok("generate", "--model", "t/model", "--data", "data/prompts.jsonl", "--out", "r", *SHORT).document
    assert written["responses"] == 24 and 0 <= written["finished"] <= 1
    again = ok("generate", "--model", "t/model", "--data", "data/prompts.jsonl", "--out", "r", *SHORT)
    assert again.document == written and "already" in again.err, "responses that are there are kept"

    scored = ("--teacher", "t/model", "--data", "r")
    assert ok("cache", "probe", *scored, "--epochs", "10").document["sampled_sequences"] == 24
    planned = ok("cache-logits", *scored, "--top-k", "8", "--out", "c", "--dry-run").document
    assert planned["sequences"] == 24 and not Path("c").exists()
    assert ok("cache-logits", *scored, "--top-k", "8", "--out", "c").document == {"out": "c"}
    facts = ok("cache", "inspect", "c").document
    assert (facts["kind"], facts["ids_per_token"], facts["tokens"]) == ("top-k", 8, planned["tokens"])
    assert ok("cache", "verify", "c", "--full").document["ok"] is True
    (plain,) = ok("cache", "export", "c", "plain").document["files"]
    vocabulary = str(facts["vocab_size"])
    imported = ok("cache", "import", plain, "c2", "--tokenizer", "t/model", "--vocab-size", vocabulary)
    assert ok("cache", "inspect", imported.document["out"]).document["tokens"] == facts["tokens"]

    references = ("--teacher", "t/model", "--eval-data", "data/held_out.jsonl")
    length = ("--set", "data.max_response_tokens=8")
    trained = ("--student", "s/model", "--cache", "c", "--steps", "4", "--batch-size", "8", "--out", "a", *length)
    result = ok("distill", *trained, *references, "--set", "evaluation.count=2").document
    assert result == {"run": "a", "student": "a/model", "steps": 4}
    measured = ok("evaluate", "--student", "a/model", *references, "--out", "e.json", *length).document
    assert json.loads(Path("e.json").read_text()) == measured
    assert measured["columns"]["proxy/forward_kl/reference_sampled/token_mean"] > 0

    assert ok("verdict", "a").document["name"] == "inconclusive", "four steps decide nothing"
    assert ok("report", "a").document == {"out": "a/report.html"}
    assert "<html" in Path("a/report.html").read_text()


def test_a_damaged_shard_is_found_and_named(ok: Run, run: Run) -> None:
    ok("corpus", "--out", "data", "--held-out", "8")
    small = ("--set", "architecture.hidden_size=16", "--set", "architecture.num_heads=2", "--epochs", "1")
    ok("sft", "--data", "data/pairs.jsonl", "--out", "t", "--set", "tokenizer_size=300", *small, *SHORT)
    ok("cache-logits", "--teacher", "t/model", "--data", "data/pairs.jsonl", "--sampled", "4", "--out", "c", *SHORT)
    (shard,) = Path("c/shards").iterdir()
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    code, out, err = run("cache", "verify", "c", "--full")
    assert (code, out) == (1, "") and f"{shard.name}: " in err and "1 of 1 shards" in err
    done = run("cache", "verify", "c", "--full", "--json")
    assert done.code == 1 and done.document["damaged"][0]["file"].endswith(shard.name)
