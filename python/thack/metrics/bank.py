"""A frozen, hashed set of held-out prompts with responses that were sampled once.

Every evaluation of every run uses the same responses, so that curves differ by the student alone and
bootstrap intervals are paired over prompts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from thack.config.settings import SamplingSettings
from thack.corpus import Record, read_records
from thack.errors import DataError, MismatchError, UsageError
from thack.files import atomic_directory, canonical_json, claim_output, digest, read_json, write_bytes, write_json
from thack.models.protocol import LanguageModel
from thack.models.tokenizer import Tokenizer
from thack.responses.sampler import generate
from thack.runtime.progress import SILENT, Progress
from thack.targets import TokenSequence

Writer = Literal["oracle", "teacher"]
FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptBank:
    """Prompts by stable id; `prompts` and `responses` are filled by `with_responses`."""

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    prompts: tuple[np.ndarray, ...] = ()  # int32 ids
    responses: Mapping[str, tuple[np.ndarray, ...]] = field(default_factory=dict)  # by who wrote them
    origin: Mapping[str, Any] = field(default_factory=dict)  # tokenizer, seed, writers' fingerprints

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def from_jsonl(cls, path: Path | str, *, limit: int = 0) -> PromptBank:
        """The prompts of a JSONL or Parquet file; responses in it are ignored."""
        return cls.from_records(read_records(Path(path)), limit=limit)

    @classmethod
    def from_records(cls, records: Sequence[Record], *, limit: int = 0) -> PromptBank:
        """One entry per distinct prompt id, in the order of first appearance."""
        texts: dict[str, str] = {}
        for record in records:
            texts.setdefault(record.prompt_id, record.prompt)
        chosen = list(texts.items())[: limit or None]
        if not chosen:
            raise DataError("a bank needs at least one prompt")
        return cls(ids=tuple(key for key, _ in chosen), texts=tuple(text for _, text in chosen))

    def with_responses(
        self,
        teacher: LanguageModel | None = None,
        *,
        oracle: LanguageModel | None = None,
        seed: int = 0,
        max_new_tokens: int = 128,
        max_prompt_tokens: int = 1024,
        batch_size: int = 256,
        progress: Progress = SILENT,
    ) -> PromptBank:
        """The same bank with one response per prompt from each model given, at temperature 1 and a fixed seed.

        Prompts beyond `max_prompt_tokens` leave the bank; `origin` says how many.
        """
        writers: dict[Writer, LanguageModel] = {}
        if oracle is not None:
            writers["oracle"] = oracle
        if teacher is not None:
            writers["teacher"] = teacher
        if not writers:
            raise UsageError("a bank's responses need a teacher or an oracle to write them")
        bank = self._encoded(next(iter(writers.values())).tokenizer, max_prompt_tokens)
        responses, origin = dict(bank.responses), dict(bank.origin)
        for place, (writer, model) in enumerate(writers.items()):
            bank.check_tokenizer(writer, model.tokenizer)
            origin[writer] = model.fingerprint()
            responses[writer] = tuple(
                generate(
                    model,
                    bank.prompts,
                    indices=np.arange(len(bank)),
                    max_new_tokens=max_new_tokens,
                    sampling=SamplingSettings(),
                    seed=seed,
                    epoch=place,  # oracle and teacher draw independently
                    batch_size=batch_size,
                    progress=progress,
                )
            )
        return replace(bank, responses=responses, origin={**origin, "seed": seed, "max_new_tokens": max_new_tokens})

    def _encoded(self, tokenizer: Tokenizer, max_prompt_tokens: int) -> PromptBank:
        if self.prompts:
            return self
        encoded = [tokenizer.encode_pair(text, None)[0] for text in self.texts]
        keep = [i for i, ids in enumerate(encoded) if 0 < len(ids) <= max_prompt_tokens]
        if not keep:
            raise DataError(f"all {len(self)} prompts are empty or longer than {max_prompt_tokens} tokens")
        return replace(
            self,
            ids=tuple(self.ids[i] for i in keep),
            texts=tuple(self.texts[i] for i in keep),
            prompts=tuple(encoded[i] for i in keep),
            origin={"tokenizer": tokenizer.fingerprint(), "dropped_prompts": len(encoded) - len(keep)},
        )

    def check_tokenizer(self, role: str, tokenizer: Tokenizer) -> None:
        """Refuse a model whose ids mean other words than the bank's."""
        if self.origin.get("tokenizer") != tokenizer.fingerprint():
            raise MismatchError(
                f"the bank was made with another tokenizer than the {role}'s",
                details=(f"bank     {self.origin.get('tokenizer')}", f"{role:<8} {tokenizer.fingerprint()}"),
                hint="make the bank again with this tokenizer's models",
            )

    def check_writer(self, role: Writer, model: LanguageModel) -> None:
        """Refuse a reference model that did not write the bank's fixed responses."""
        if role not in self.responses:
            raise UsageError(f"the bank holds no responses of the {role}", hint=f"make it again with --{role}")
        if self.origin.get(role) != model.fingerprint():
            raise MismatchError(
                f"the bank's {role} responses were written by another model",
                details=(f"bank   {self.origin.get(role)}", f"given  {model.fingerprint()}"),
                hint=f"give the {role} that wrote them, or make the bank again",
            )

    def sequences(self, writer: str) -> list[TokenSequence]:
        """The fixed responses of one writer, in the bank's order."""
        return self.sequences_of(self.responses[writer])

    def sequences_of(self, responses: Sequence[np.ndarray]) -> list[TokenSequence]:
        """Any responses to the bank's prompts, in the bank's order."""
        rows = zip(self.ids, self.prompts, responses, strict=True)
        return [
            TokenSequence(index=i, prompt_id=key, prompt_ids=prompt, response_ids=response)
            for i, (key, prompt, response) in enumerate(rows)
        ]

    def fingerprint(self) -> str:
        """sha256 over prompts, responses and origin."""
        return digest([self._lines(), canonical_json(dict(self.origin))])

    def save(self, directory: Path) -> None:
        """Write prompts.jsonl and manifest.json; an existing bank is replaced as a whole."""
        claim_output(directory, "bank")
        with atomic_directory(directory, replace=True) as temporary:
            write_bytes(temporary / "prompts.jsonl", self._lines())
            manifest = {
                "kind": "bank",
                "format": FORMAT,
                "prompts": len(self),
                "fingerprint": self.fingerprint(),
                "origin": dict(self.origin),
            }
            write_json(temporary / "manifest.json", manifest)

    @classmethod
    def load(cls, directory: Path | str) -> PromptBank:
        """Read a saved bank; a bank that is not what its hash says is refused."""
        directory = Path(directory)
        if not directory.is_dir():
            raise DataError(f"no bank in {directory}", hint="make one with `thack evaluate --bank prompts.jsonl`")
        manifest = read_json(directory / "manifest.json")
        if manifest.get("kind") != "bank" or manifest.get("format") != FORMAT:
            raise DataError(f"{directory} is not a bank of format {FORMAT}")
        rows = [json.loads(line) for line in (directory / "prompts.jsonl").read_text("utf-8").splitlines()]
        writers = [writer for writer in ("oracle", "teacher") if rows and writer in rows[0]]
        bank = cls(
            ids=tuple(row["id"] for row in rows),
            texts=tuple(row["prompt"] for row in rows),
            prompts=tuple(_ids(row["prompt_ids"]) for row in rows if "prompt_ids" in row),
            responses={writer: tuple(_ids(row[writer]) for row in rows) for writer in writers},
            origin=manifest["origin"],
        )
        if bank.fingerprint() != manifest["fingerprint"]:
            raise DataError(
                f"the bank in {directory} was changed after it was frozen",
                details=(f"manifest  {manifest['fingerprint']}", f"content   {bank.fingerprint()}"),
                hint="make the bank again; curves on different banks cannot be compared",
            )
        return bank

    def _lines(self) -> bytes:
        return b"".join(canonical_json(self._row(i)) + b"\n" for i in range(len(self)))

    def _row(self, i: int) -> dict[str, Any]:
        row: dict[str, Any] = {"id": self.ids[i], "prompt": self.texts[i]}
        if self.prompts:
            row["prompt_ids"] = self.prompts[i].tolist()
        return row | {writer: written[i].tolist() for writer, written in self.responses.items()}


def _ids(values: Sequence[int]) -> np.ndarray:
    return np.asarray(values, dtype=np.int32)
