"""Responses on disk: one JSON object per line, and a manifest that names the tokenizer of their ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from thack.config import DataSettings
from thack.data.eos import EndCounts
from thack.data.lengths import response_limit
from thack.data.records import Record, prompt_row
from thack.data.rows import RESPONSES, datasets_files
from thack.data.sequence import TokenSequence
from thack.data.tokenizer import Tokenizer
from thack.errors import DataError, MismatchError
from thack.files import claim_output, write_json, write_parts
from thack.reading import read_json
from thack.schema import document
from thack.schema.generation import GenerationFacts, ResponsesManifest

MANIFEST = "manifest.json"


def write_responses(
    directory: Path,
    answered: Iterable[tuple[Record, TokenSequence]],
    tokenizer: Tokenizer,
    *,
    facts: GenerationFacts,
) -> tuple[ResponsesManifest, EndCounts]:
    """Write responses.jsonl as they come, and after it the manifest with the hash of its content.

    Args:
        directory: new, empty, or of an interrupted call with the same arguments.
        answered: prompts with their responses, each with its record: a prompt is written as it was given, text or
            messages.
        tokenizer: of the ids.
        facts: what decides the responses.

    Returns:
        The manifest, and how the responses ended.
    """
    claim_output(directory, "responses")
    content, tokens, ends = hashlib.sha256(), 0, EndCounts()

    def lines() -> Iterator[bytes]:
        nonlocal tokens, ends
        for record, s in answered:
            line = _line(s, tokenizer, record)
            content.update(line)
            tokens += len(s.response_ids)
            ends += EndCounts.of([s.response_ids], tokenizer.ends, maximum=facts.max_response_tokens)
            yield line

    write_parts(directory / RESPONSES, lines())
    manifest = ResponsesManifest(
        tokenizer=tokenizer.fingerprint(),
        content=f"sha256:{content.hexdigest()}",
        responses=ends.responses,
        tokens=tokens,
        finished=ends.finished_share,
        truncated=ends.truncated_share,
        facts=facts,
    )
    write_json(directory / MANIFEST, manifest.dump())
    return manifest, ends


def find_responses(directory: Path, facts: GenerationFacts) -> ResponsesManifest | None:
    """The manifest of the responses in the directory; None if there are none.

    Raises:
        MismatchError: the directory has responses that other facts decided.
    """
    if not (directory / MANIFEST).is_file():
        return None
    manifest = read_manifest(directory)
    assert manifest is not None
    there, now = document.dump(manifest.facts), document.dump(facts)
    changed = [key for key in now if there[key] != now[key]]
    if changed:
        raise MismatchError(
            f"{directory} holds other responses",
            details=[f"{key}  {there[key]!r} there, {now[key]!r} now" for key in changed],
            hint="give another `out`, or remove it",
        )
    return manifest


def read_manifest(path: Path) -> ResponsesManifest | None:
    """The manifest of a directory of responses; None if `path` is not a directory.

    Raises:
        DataError: the directory has no manifest, since it is incomplete or something else.
    """
    if not path.is_dir() or datasets_files(path):
        return None
    if not (path / MANIFEST).is_file():
        raise DataError(f"{path} has no complete responses", hint="run the same `thack generate` command again")
    try:
        return ResponsesManifest.parse(read_json(path / MANIFEST), str(path / MANIFEST))
    except DataError as error:
        raise DataError(error.message, hint="give a directory that `thack generate` wrote") from error


def longest_response(settings: DataSettings) -> int:
    """`response_limit`, or the lower one at which `thack generate` had cut the responses."""
    limit = response_limit(settings)
    manifest = read_manifest(Path(settings.path)) if settings.path else None
    return limit if manifest is None else min(limit, manifest.facts.max_response_tokens)


def _line(sequence: TokenSequence, tokenizer: Tokenizer, record: Record) -> bytes:
    row = {
        "id": sequence.prompt_id,
        **prompt_row(record),
        "response": tokenizer.decode(sequence.response_ids),
        "response_ids": sequence.response_ids.tolist(),
        "sample": sequence.sample,
        "finished": tokenizer.ends.is_finished(sequence.response_ids),
    }
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"
