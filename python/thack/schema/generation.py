"""A directory of responses: its manifest.json, and what `thack generate` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from thack.errors import DataError
from thack.schema import document
from thack.schema.document import Document


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationFacts:
    """What decides the responses in a directory: others are not written over them.

    Args:
        model: fingerprint of the model that wrote them.
        data: fingerprint of the prompts.
        seed: of every random number.
        samples: responses per prompt.
        sampling: the settings of the same name.
        max_response_tokens: longest response.
        dtype: number format that the model ran in.
    """

    model: str
    data: str
    seed: int
    samples: int
    sampling: Mapping[str, object]
    max_response_tokens: int
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponsesManifest:
    """manifest.json of a directory of responses.

    Args:
        tokenizer: fingerprint of the tokenizer whose ids the responses are.
        content: hash of responses.jsonl.
        responses: number of responses.
        tokens: response tokens.
        finished: fraction of responses that end with an end-of-response token.
        truncated: fraction of responses that reached the maximum length without one.
        facts: what decides the responses; on disk they are keys of the manifest itself.
    """

    kind: Literal["responses"] = "responses"
    format: Literal[1] = 1
    tokenizer: str
    content: str
    responses: int
    tokens: int
    finished: float
    truncated: float
    facts: GenerationFacts

    def dump(self) -> dict[str, object]:
        """Plain values, for JSON."""
        found = document.dump(self)
        del found["facts"]
        return found | document.dump(self.facts)

    @classmethod
    def parse(cls, raw: object, what: str = "manifest.json") -> ResponsesManifest:
        """The inverse of `dump`.

        Raises:
            DataError: `raw` is not the manifest of a directory of responses.
        """
        if not isinstance(raw, Mapping) or raw.get("kind") != "responses":
            raise DataError(f"{what}: not the manifest of a directory of responses")
        return document.parse(cls, {**raw, "facts": raw}, what)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptFacts(Document):
    """The first line of responses that are not complete: what they depend on."""

    SCHEMA: ClassVar[int] = 1

    facts: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptBatch:
    """Another line of it: the responses of one batch.

    Args:
        stream: which of several generations it is of: the sample, or the model that writes.
        rows: numbers of its prompts.
        responses: token ids, one list for each prompt.
    """

    stream: int
    rows: tuple[int, ...]
    responses: tuple[tuple[int, ...], ...]

    def dump(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return document.dump(self)

    @classmethod
    def parse(cls, raw: object, what: str) -> KeptBatch:
        """The inverse of `dump`.

        Raises:
            DataError: `raw` is something else.
        """
        found = document.parse(cls, raw, what)
        if len(found.rows) != len(found.responses):
            raise DataError(f"{what}: {len(found.rows)} rows, but {len(found.responses)} responses")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateResult(Document):
    """The responses in a directory, counted.

    Args:
        out: the directory.
        responses: number of responses.
        tokens: response tokens.
        finished: fraction of responses that end with an end-of-response token.
        truncated: fraction of responses that reached the maximum length without one.
        content: hash of responses.jsonl.
    """

    out: Path
    responses: int
    tokens: int
    finished: float
    truncated: float
    content: str
