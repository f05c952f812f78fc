"""The embedded corpus as files that a person can read, and every command can: JSONL of prompts and responses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from thack.data.records import Record
from thack.data.splits import split_by_hash
from thack.data.stdlib import stdlib_records
from thack.errors import UsageError
from thack.files import claim_output, write_text
from thack.runtime.lock import locked

PAIRS = "pairs.jsonl"
PROMPTS = "prompts.jsonl"
HELD_OUT = "held_out.jsonl"


def write_records(path: Path, records: Sequence[Record]) -> None:
    """One JSON object a line: id, prompt, and the response or null."""
    rows = [{"id": r.prompt_id, "prompt": r.prompt, "response": r.response} for r in records]
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def export_corpus(directory: Path, task: str, held_out: int) -> dict[str, int]:
    """Write pairs.jsonl, prompts.jsonl (without a response) and held_out.jsonl; gives their numbers of lines.

    No prompt is in two files: `held_out` prompts with a response are set aside by the hash of their ids.
    """
    records = stdlib_records(task)
    pairs = [record for record in records if record.response]
    answered = {record.prompt_id for record in pairs}
    if held_out >= len(answered):
        raise UsageError(
            f"{held_out:,} held-out prompts leave nothing to train on",
            details=[f"prompts with a response: {len(answered):,}"],
            hint="lower `held_out`",
        )
    sizes = {HELD_OUT: held_out, PAIRS: len(answered) - held_out}
    files = split_by_hash(pairs, sizes, salt=task)
    files[PROMPTS] = [record for record in records if record.prompt_id not in answered]
    with locked(directory):
        claim_output(directory, "corpus")
        for name, chosen in files.items():
            write_records(directory / name, chosen)
    return {name: len(chosen) for name, chosen in files.items()}
