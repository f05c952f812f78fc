"""Readers of rows of ids and log-probabilities that other tools write: one sequence at a time, checked."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from thack.cache.exchange.parquet_rows import parquet_rows
from thack.cache.exchange.source_row import APPROXIMATION, SourceRow, is_export, row_of, token_ids, whole_numbers
from thack.cache.exchange.tails import find_tails
from thack.cache.exchange.tensors import TensorFile
from thack.errors import DataError, UsageError
from thack.reading import BadJson, lines, parse_line
from thack.serving.answers import Entry, read_choices

_LINE_BYTES = 1 << 28  # 32,000 tokens of 100 log-probabilities each


def read_rows(path: Path, packed_config: Path | None = None) -> Iterator[SourceRow]:
    """Read a source by its suffix: .jsonl (vLLM, OpenAI style), .safetensors or .parquet. Each row is an example.

    `packed_config` describes the bytes of a packed Parquet file; None: the file beside it does.
    """
    readers: dict[str, Callable[[Path], Iterator[SourceRow]]] = {
        ".jsonl": _jsonl,
        ".safetensors": _safetensors,
        ".parquet": partial(parquet_rows, packed_config=packed_config),
    }
    if not path.is_file():
        raise DataError(f"{path} does not exist")
    if path.suffix not in readers:
        raise UsageError(f"{path}: unknown kind of file", hint=f"accepted: {', '.join(readers)}")
    return _numbered(readers[path.suffix](path))


def _numbered(rows: Iterator[SourceRow]) -> Iterator[SourceRow]:
    for number, row in enumerate(rows):
        yield replace(row, sequence=replace(row.sequence, example=number))


def _jsonl(path: Path) -> Iterator[SourceRow]:
    for number, line in lines(path, _LINE_BYTES):
        try:
            content = parse_line(line, strict=False)
        except BadJson as error:
            raise DataError(f"{path}:{number}: {error}") from error
        if not isinstance(content, dict):
            raise DataError(f"{path}:{number}: not an object")
        try:
            yield from _from_json(content, number)
        except DataError as error:
            raise DataError(f"{path}:{number}: {error.message}", hint=error.hint) from error
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
            problem = f"key {error} is missing" if isinstance(error, KeyError) else str(error)
            raise DataError(f"{path}:{number}: not a row of prompt_logprobs ({problem})") from error


def _from_json(content: Mapping[str, Any], number: int) -> Iterator[SourceRow]:
    """Rows of a line: of `prompt_logprobs`, by themselves or in a server's answer, or of an answer's `logprobs`."""
    line = _without_nulls(content)
    choices = [_without_nulls(choice) for choice in line.get("choices", ())]
    if choices:
        line.pop("id", None)  # of the request
    if "prompt_logprobs" in line or not choices:  # of a chat they are beside the choices
        yield _from_prompt(line, number)
    elif any("prompt_logprobs" in choice for choice in choices):  # one for each prompt of the request
        for index, choice in enumerate(choices):
            reason = line.get("finish_reason")  # the choice's is of what the server wrote behind the response
            yield _from_prompt(line | choice | {"finish_reason": reason}, number, f"choice {index}")
    else:
        responses: Counter[bytes] = Counter()  # so far, to each prompt of the request
        for choice, found in zip(choices, read_choices(line | {"choices": choices}), strict=True):
            prompt = found.prompt.tobytes()
            place = f"line {number}, choice {found.number}"
            row = row_of(line | choice, found.prompt, found.response, found.entries, place, responses[prompt])
            responses[prompt] += 1
            yield replace(row, finish_reason=found.finish_reason, given=found.realised)


def _without_nulls(given: Mapping[str, Any]) -> dict[str, Any]:
    """What servers set: they write null for every other field."""
    return {key: value for key, value in given.items() if value is not None}


def _from_prompt(content: Mapping[str, Any], number: int, choice: str = "") -> SourceRow:
    """`prompt_token_ids` and `prompt_logprobs` of prompt and response, and `prompt_length`.

    prompt_logprobs[i] describes token i given those before it; the first is null. Each has the k most likely ids, and
    the actual token if it is not among them: k or k + 1 entries. So k is the smallest number of entries, and of k + 1
    the k most likely are kept. Ranks say less: of equal log-probabilities they count all.
    """
    given = content["prompt_logprobs"]
    place, said = (f"line {number}, {choice}", f"{choice}: ") if choice else (f"line {number}", "")
    ids = token_ids(np.asarray(content["prompt_token_ids"]), place)
    length = content["prompt_length"]
    if len(given) != len(ids):
        raise DataError(f"{said}{len(given)} entries of prompt_logprobs for {len(ids)} tokens")
    if not (type(length) is int and 1 <= length < len(ids)):
        raise DataError(f"{said}prompt_length is {length}: must leave a prompt and a response of {len(ids)} tokens")
    entries = []
    for token in range(length, len(ids)):
        if not isinstance(given[token], Mapping) or not given[token]:
            raise DataError(f"{said}token {token} has no log-probabilities")
        entry = _entry(given[token])
        if ids[token] not in entry[0]:
            raise DataError(
                f"{said}token {token} is {ids[token]}, which its own log-probabilities do not have",
                hint="rows are shifted against the tokens, or belong to another text",
            )
        entries.append(entry)
    row = row_of(content, ids[:length], ids[length:], entries, place)
    return replace(row, finish_reason=str(content.get("finish_reason") or ""))


def _entry(given: Mapping[str, Any]) -> Entry:
    ids = np.fromiter((int(key) for key in given), dtype=np.int64, count=len(given))
    values = (item["logprob"] if isinstance(item, Mapping) else item for item in given.values())
    return ids, np.fromiter((float(value) for value in values), dtype=np.float64, count=len(given))


_NEEDED = ("ids", "logprobs", "response_tokens", "response_starts", "prompt_tokens", "prompt_starts")


def _safetensors(path: Path) -> Iterator[SourceRow]:
    """ids [N,K], logprobs [N,K], response_tokens [N], response_starts [S+1], prompt_tokens, prompt_starts.

    And log_tail [N], log_tail_at_T [N], if they are there.
    """
    with TensorFile(path) as file:
        shapes = file.shapes
        values = "logprobs" if "logprobs" in shapes else "log_probs"
        lacking = [name for name in _NEEDED if name not in shapes and name != "logprobs"]
        if lacking or values not in shapes:
            missing = lacking[0] if lacking else "logprobs"
            raise DataError(f"{path}: no tensor {missing!r}", hint=f"needed: {', '.join(_NEEDED)}")
        ids, tokens = shapes["ids"], shapes["response_tokens"]
        if len(ids) != 2 or ids != shapes[values] or tokens != ids[:1]:
            problem = f"ids {ids}, logprobs {shapes[values]}, response_tokens {tokens}"
            raise DataError(f"{path}: rows do not match: {problem}")
        tails = find_tails(shapes, file.facts, path)
        for name in tails.names if tails is not None else ():
            if shapes[name] != tokens:
                raise DataError(f"{path}: rows do not match: ids {ids}, {name} {shapes[name]}")
        slack = APPROXIMATION if is_export(file.facts) else 0.0
        starts = _starts(file, path, "response_starts", tokens[0])
        prompt_starts = _starts(file, path, "prompt_starts", math.prod(shapes["prompt_tokens"]))
        if len(starts) != len(prompt_starts):
            raise DataError(f"{path}: {len(starts) - 1} responses for {len(prompt_starts) - 1} prompts")
        for s in range(len(starts) - 1):
            first, last = int(starts[s]), int(starts[s + 1])
            entry_ids = whole_numbers(file.rows("ids", first, last), f"{path}: sequence {s}", "a token id")
            log_probs = file.rows(values, first, last).astype(np.float64)
            prompt = file.rows("prompt_tokens", int(prompt_starts[s]), int(prompt_starts[s + 1]))
            entries = list(zip(entry_ids, log_probs, strict=True))
            row = row_of({}, prompt, file.rows("response_tokens", first, last), entries, f"sequence {s}")
            tail = None if tails is None else tails.read(partial(file.rows, start=first, stop=last))
            yield replace(row, slack=slack, tail=tail)


def _starts(file: TensorFile, path: Path, name: str, end: int) -> np.ndarray:
    """The first token of each sequence, and at the end the number of tokens."""
    found = whole_numbers(file.rows(name, 0, math.prod(file.shapes[name])), f"{path}: {name}", "a place")
    if len(found) < 2 or found[0] != 0 or found[-1] != end or (np.diff(found) < 1).any():
        raise DataError(f"{path}: {name} must rise from 0 to {end}, one more than there are sequences")
    return found
