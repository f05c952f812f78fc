"""Records as token sequences: encoded, checked against the vocabulary, cut to their maximum, all of it counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from thack.config import DataSettings
from thack.data import Record, read_records
from thack.data.sequence import TokenSequence
from thack.data.store import read_manifest
from thack.data.tokenizer import Tokenizer
from thack.errors import DataError, MismatchError


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What happened to the data on its way in."""

    records: int
    kept: int
    dropped_prompts: int  # longer than max_prompt_tokens, or empty once encoded
    cut_prompts: int
    cut_responses: int  # longer than max_response_tokens: without EOS now
    without_response: int
    skipped_lines: tuple[str, ...]

    def __str__(self) -> str:
        counts = {
            "prompts too long, dropped": self.dropped_prompts,
            "prompts cut": self.cut_prompts,
            "responses cut": self.cut_responses,
            "without response, dropped": self.without_response,
            "unreadable lines skipped": len(self.skipped_lines),
        }
        parts = [
            f"{self.kept:,} of {self.records:,} records",
            *(f"{n:,} {what}" for what, n in counts.items() if n),
        ]
        return " · ".join([*parts, *(f"skipped {line}" for line in self.skipped_lines[:3])])


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Sequences in the data's order, `example` counting them; without responses they are prompts alone."""

    sequences: list[TokenSequence]
    report: Report


def prepare(
    settings: DataSettings,
    tokenizer: Tokenizer,
    *,
    need_response: bool,
    records: Sequence[Record] | None = None,
) -> Prepared:
    """Encode `records`, or those of settings.path.

    With `need_response`, records without one are dropped. Without it only prompts are kept, each once, and
    responses are left empty.
    """
    skipped: list[str] = []
    if records is None:
        _check_written_for(Path(settings.path), tokenizer)
        records = read_records(Path(settings.path), settings.on_bad_line, skipped=skipped)
    taken = _first(records, settings.limit, one_each=not need_response)
    prompts = encode_prompts(taken, tokenizer)
    responses = _responses(taken, tokenizer) if need_response else [None] * len(taken)
    counts = {"dropped": 0, "cut": 0, "cut_responses": 0, "missing": 0}
    sequences: list[TokenSequence] = []
    for record, prompt, response in zip(taken, prompts, responses, strict=True):
        fitted = _fit_prompt(prompt, settings, counts)
        if fitted is None:
            continue
        if need_response and (response is None or len(response) == 0):
            counts["missing"] += 1
            continue
        ids = np.empty(0, dtype=np.int32) if response is None else response
        if len(ids) > settings.max_response_tokens:
            counts["cut_responses"] += 1
            ids = ids[: settings.max_response_tokens]
        sequences.append(
            TokenSequence(
                example=len(sequences),
                prompt_id=record.prompt_id,
                prompt_ids=fitted,
                response_ids=ids,
                sample=record.sample,
            )
        )
    report = Report(
        records=len(taken),
        kept=len(sequences),
        dropped_prompts=counts["dropped"],
        cut_prompts=counts["cut"],
        cut_responses=counts["cut_responses"],
        without_response=counts["missing"],
        skipped_lines=tuple(skipped),
    )
    if not sequences:
        raise DataError(
            f"{settings.path or 'the data'} leaves nothing to work on",
            details=[str(report)],
            hint="raise `data.max_prompt_tokens`, or give responses",
        )
    return Prepared(sequences=sequences, report=report)


def _first(records: Sequence[Record], limit: int, *, one_each: bool) -> list[Record]:
    """The records of the first `limit` prompts; with `one_each`, the first record of every prompt."""
    seen: set[str] = set()
    taken = []
    for record in records:
        is_new = record.prompt_id not in seen
        if is_new and limit and len(seen) == limit:
            continue
        seen.add(record.prompt_id)
        if is_new or not one_each:
            taken.append(record)
    return taken


def encode_prompts(records: Sequence[Record], tokenizer: Tokenizer) -> list[np.ndarray]:
    """Ids of every prompt: of a text with the tokenizer's special tokens, of a conversation with its template's."""
    texts = iter(tokenizer.encode_batch([r.prompt for r in records if r.messages is None], special=True))
    talks = iter(tokenizer.encode_conversations([r.messages for r in records if r.messages is not None]))
    return [next(texts if r.messages is None else talks) for r in records]


def _responses(records: Sequence[Record], tokenizer: Tokenizer) -> list[np.ndarray | None]:
    """Ids that a model wrote are kept as they are: decoding and encoding again would change them."""
    texts = tokenizer.encode_batch([record.response or "" for record in records])
    eos = np.asarray([tokenizer.eos_id], dtype=np.int32)
    found: list[np.ndarray | None] = []
    for record, text_ids in zip(records, texts, strict=True):
        if record.response_ids is not None:
            found.append(_checked(record, tokenizer))
        else:
            found.append(np.concatenate([text_ids, eos]) if record.response else None)
    return found


def _checked(record: Record, tokenizer: Tokenizer) -> np.ndarray:
    ids = np.asarray(record.response_ids, dtype=np.int32)
    if len(ids) and int(ids.max()) >= tokenizer.size:
        raise DataError(
            f"prompt {record.prompt_id}: response id {int(ids.max())} is beyond the vocabulary",
            details=[f"the tokenizer has {tokenizer.size:,} ids"],
            hint="were these ids written with another tokenizer? give `response` as text instead",
        )
    return ids


def _fit_prompt(prompt: np.ndarray, settings: DataSettings, counts: dict[str, int]) -> np.ndarray | None:
    """A prompt within its maximum: longer ones are dropped, or lose their beginning (the end is the question)."""
    if len(prompt) == 0 or (len(prompt) > settings.max_prompt_tokens and settings.on_long == "drop"):
        counts["dropped"] += 1
        return None
    if len(prompt) > settings.max_prompt_tokens:
        counts["cut"] += 1
        return prompt[-settings.max_prompt_tokens :]
    return prompt


def _check_written_for(path: Path, tokenizer: Tokenizer) -> None:
    """Responses that `thack generate` wrote as ids belong to one tokenizer (pitfall 20)."""
    manifest = read_manifest(path)
    if manifest is not None and manifest.tokenizer != tokenizer.fingerprint():
        raise MismatchError(
            f"{path} was written with another tokenizer",
            details=[f"responses  {manifest.tokenizer}", f"model      {tokenizer.fingerprint()}"],
            hint="ids would mean different words: generate again with a model that shares this tokenizer",
        )
