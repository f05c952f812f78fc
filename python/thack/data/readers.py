"""A user's own prompts and pairs: JSONL, Parquet, or a directory that `thack generate` wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from thack.data.records import Record, prompt_id
from thack.errors import DataError

RESPONSES = "responses.jsonl"  # what `thack generate` writes into its directory


class BadLine(ValueError):
    """A line that is not a record: why."""


def read_records(path: Path, on_bad_line: str = "stop", *, skipped: list[str] | None = None) -> list[Record]:
    """All records of a file, in its order. Lines that are none stop the reading, with file and line, or with
    on_bad_line = "skip" are left out and named in `skipped`."""
    path = Path(path)
    if path.is_dir():
        path = path / RESPONSES
    if not path.is_file():
        raise DataError(f"{path} does not exist", hint="give a JSONL or Parquet file of prompts")
    rows = _parquet_rows(path) if path.suffix == ".parquet" else _json_rows(path)
    records: list[Record] = []
    prompts: dict[str, str] = {}
    for place, row in rows:
        try:
            record = _record(row)
            if prompts.setdefault(record.prompt_id, record.prompt) != record.prompt:
                reason = f"the id {record.prompt_id!r} is another prompt's: give each its own, or leave `id` out"
                raise BadLine(reason)
            records.append(record)
        except BadLine as reason:
            if on_bad_line != "skip":
                raise DataError(
                    f"{place}: {reason}",
                    hint="skip such lines with `data.on_bad_line = skip` (they will be counted and listed)",
                ) from None
            if skipped is not None:
                skipped.append(f"{place}: {reason}")
    if not records:
        raise DataError(f"{path} holds no prompts", hint='each line is a JSON object such as {"prompt": "…"}')
    return records


def _json_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Each line with its place; a line that is not JSON comes as the BadLine that says so."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield f"{path}:{number}", _parse(line)


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line)
    except UnicodeDecodeError as error:
        return BadLine(f"not UTF-8 (byte {error.start})")
    except json.JSONDecodeError as error:
        return BadLine(f"not JSON ({error.msg.lower().removesuffix(' at')} at column {error.colno})")
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists in lists without end
        return BadLine(f"not JSON that can be read ({str(error).split(';')[0].lower()})")


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise DataError(f"{path}: reading Parquet needs pyarrow", hint="pip install 'thack[data]'") from error
    number = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield f"{path}: row {number}", {key: value for key, value in row.items() if value is not None}
    except Exception as error:  # pyarrow has its own tree of exceptions
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: not a Parquet file, or damaged behind row {number:,} ({said})") from error


def _record(row: Any) -> Record:
    if isinstance(row, BadLine):
        raise row
    if not isinstance(row, Mapping):
        raise BadLine(f"a record is an object, not {type(row).__name__}")
    if "messages" in row:
        return _conversation(row)
    prompt = _text(row, "prompt")
    if not prompt:
        raise BadLine("empty prompt" if "prompt" in row else "no key `prompt`; it has " + ", ".join(map(str, row)))
    return Record(
        prompt_id=_id(row, prompt),
        prompt=prompt,
        response=_text(row, "response"),
        response_ids=_ids(row),
        sample=_sample(row),
    )


def _conversation(row: Mapping[str, Any]) -> Record:
    """Chat messages: the last one is the response if the assistant said it, else `response` may hold it."""
    messages = row["messages"]
    shaped = (
        isinstance(messages, list)
        and messages
        and all(
            isinstance(m, Mapping) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
            for m in messages
        )
    )
    if not shaped:
        raise BadLine("`messages` is not a list of objects with role and content")
    turns = tuple({"role": m["role"], "content": m["content"]} for m in messages)
    response = _text(row, "response")
    if turns[-1]["role"] == "assistant":
        turns, response = turns[:-1], turns[-1]["content"]
    if not turns:
        raise BadLine("`messages` has no turn before the response")
    prompt = json.dumps(turns, ensure_ascii=False)
    _check_unicode("messages", prompt + (response or ""))
    return Record(
        prompt_id=_id(row, prompt),
        prompt=prompt,
        response=response,
        response_ids=_ids(row),
        messages=turns,
        sample=_sample(row),
    )


def _text(row: Mapping[str, Any], key: str) -> str | None:
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        raise BadLine(f"`{key}` is not text but {type(value).__name__}")
    _check_unicode(key, value or "")
    return value


def _check_unicode(key: str, text: str) -> None:
    """JSON may escape half of a pair of surrogates, which no encoding and no tokenizer knows."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start].encode("ascii", "backslashreplace").decode()
        raise BadLine(f"`{key}` is not text: it holds {half}, half of a character") from None


def _id(row: Mapping[str, Any], prompt: str) -> str:
    value = row.get("id")
    if value is None:
        return prompt_id(prompt)
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise BadLine("`id` is neither text nor a whole number")
    _check_unicode("id", str(value))
    return str(value)


def _sample(row: Mapping[str, Any]) -> int:
    """Which of a prompt's responses this is; part of the names of its random numbers."""
    value = row.get("sample")
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 31:
        raise BadLine("`sample` is not a whole number from 0 on")
    return value


def _ids(row: Mapping[str, Any]) -> tuple[int, ...] | None:
    values = row.get("response_ids")
    if values is None:
        return None
    whole = isinstance(values, list) and all(isinstance(v, int) and not isinstance(v, bool) for v in values)
    if not whole or any(not 0 <= v < 1 << 31 for v in values):
        raise BadLine("`response_ids` is not a list of token ids")
    return tuple(values)
