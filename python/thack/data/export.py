"""An embedded task as files that a person can read, and every command can: JSONL of prompts and responses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from thack.data.embedded import embedded_records
from thack.data.records import Record, prompt_row
from thack.data.splits import split_by_hash
from thack.errors import UsageError
from thack.files import claim_output, write_text
from thack.runtime.lock import locked

PAIRS = "pairs.jsonl"
PROMPTS = "prompts.jsonl"
HELD_OUT = "held_out.jsonl"


def write_records(path: Path, records: Sequence[Record]) -> None:
    """One JSON object a line: id, the prompt or the messages before the response, and the response or null."""
    rows = [{"id": r.prompt_id, **prompt_row(r), "response": r.response} for r in records]
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def export_corpus(directory: Path, task: str, held_out: int) -> dict[str, int]:
    """Write pairs.jsonl, prompts.jsonl (without a response) and held_out.jsonl; gives their numbers of lines.

    No prompt is in two files: `held_out` prompts with a response are set aside by the hash of their ids. Of a task
    without responses, prompts are set aside, and there are no pairs.
    """
    records = embedded_records(task)
    answered = {record.prompt_id for record in records if record.response}
    with_response = [record for record in records if record.response]
    whole, rest = (with_response, PAIRS) if with_response else (records, PROMPTS)
    num_prompts = len({record.prompt_id for record in whole})
    if held_out >= num_prompts:
        raise UsageError(
            f"{held_out:,} held-out prompts leave nothing to train on",
            details=[f"prompts{' with a response' if with_response else ''}: {num_prompts:,}"],
            hint="lower `held_out`",
        )
    files = split_by_hash(whole, {HELD_OUT: held_out, rest: num_prompts - held_out}, salt=task)
    if with_response:
        files[PROMPTS] = [record for record in records if record.prompt_id not in answered]
    with locked(directory):
        claim_output(directory, "corpus")
        for name, chosen in files.items():
            write_records(directory / name, chosen)
    return {name: len(chosen) for name, chosen in files.items()}
