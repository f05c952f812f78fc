"""Responses on disk: one JSON object per line, and a manifest that names the tokenizer of their ids."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from thack.data import Record
from thack.data.sequence import TokenSequence
from thack.data.tokenizer import Tokenizer
from thack.errors import DataError, MismatchError
from thack.files import claim_output, digest, read_json, write_bytes, write_json

RESPONSES, MANIFEST = "responses.jsonl", "manifest.json"


def write_responses(
    directory: Path,
    sequences: Sequence[TokenSequence],
    tokenizer: Tokenizer,
    *,
    records: Mapping[str, Record],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Write responses.jsonl, and then the manifest with the content's hash; `facts` say how they were made.

    `records` are those of the prompts, by id: a conversation stays one.
    """
    claim_output(directory, "responses")
    lines = b"".join(_line(s, tokenizer, records[s.prompt_id]) for s in sequences)
    write_bytes(directory / RESPONSES, lines)
    ended = sum(1 for s in sequences if s.response_ids[-1] in tokenizer.stop_ids)
    manifest = {
        "kind": "responses",
        "format": 1,
        "tokenizer": tokenizer.fingerprint(),
        "content": digest(lines),
        "responses": len(sequences),
        "tokens": sum(len(s.response_ids) for s in sequences),
        "finished": ended / max(len(sequences), 1),
        **facts,
    }
    write_json(directory / MANIFEST, manifest)
    return manifest


def written_before(directory: Path, facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """The manifest of the responses that `facts` describe, if they are there; raises MismatchError for others."""
    if not (directory / MANIFEST).is_file():
        return None
    manifest = read_manifest(directory) or {}
    changed = [key for key in facts if manifest.get(key) != facts[key]]
    if changed:
        raise MismatchError(
            f"{directory} holds other responses",
            details=[f"{key}  {manifest.get(key)!r} there, {facts[key]!r} now" for key in changed],
            hint="give another `out`, or remove it",
        )
    return manifest


def read_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest of a responses directory; None for other paths. A torn directory is refused."""
    if not path.is_dir():
        return None
    if not (path / MANIFEST).is_file():
        raise DataError(f"{path} holds no finished responses", hint="run the same `thack generate` command again")
    manifest = read_json(path / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("kind") != "responses":
        raise DataError(f"{path} is not a directory of responses", hint="give one that `thack generate` wrote")
    return manifest


def _line(sequence: TokenSequence, tokenizer: Tokenizer, record: Record) -> bytes:
    prompt = {"prompt": record.prompt} if record.messages is None else {"messages": list(record.messages)}
    row = {
        "id": sequence.prompt_id,
        **prompt,
        "response": tokenizer.decode(sequence.response_ids),
        "response_ids": sequence.response_ids.tolist(),
        "sample": sequence.sample,
        "finished": bool(sequence.response_ids[-1] in tokenizer.stop_ids),
    }
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"
