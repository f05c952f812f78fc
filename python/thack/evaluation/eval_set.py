"""Held-out prompts with responses that were sampled once, frozen under a hash.

Every evaluation of every run uses the same responses: curves differ by the student alone, and intervals are paired over
prompts. The oracle and the teacher write them. Where there is no oracle, a judge does (a stronger model in its place),
or people, whose responses come from the file of prompts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from thack.config import SamplingSettings
from thack.data import Record
from thack.data.columns import OWN
from thack.data.readers import consistent, parsed
from thack.data.rows import read_rows
from thack.data.sequence import TokenSequence
from thack.data.tokenizer import Tokenizer
from thack.errors import DataError, MismatchError, UsageError
from thack.evaluation.encoders import Encoders
from thack.evaluation.references import References, TokenizerLike
from thack.evaluation.written import encoded, written_by
from thack.files import atomic_directory, canonical_json, check_output, digest, write_bytes, write_json
from thack.generation.kept import KeptResponses
from thack.generation.sampler import GenerationRequest
from thack.models.checkpoint import fingerprint_like
from thack.models.load import tokenizer_of
from thack.models.protocol import LanguageModel
from thack.reading import read_bytes, read_json
from thack.runtime import runlog
from thack.runtime.progress import SILENT, Progress
from thack.schema.evaluation import EvalSetManifest, EvalSetOrigin
from thack.schema.metrics import Role

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalSet:
    """Held-out prompts with fixed responses. Make it from a file, let the references write, and save it.

    Attributes:
        ids: A stable id per prompt, all different.
        texts: The prompts as text.
        prompts: The prompts as token ids, int32, of `origin.tokenizer`; empty before `with_responses`.
        other_prompts: The same by the fingerprint of every other tokenizer of references and students.
        teacher_prompts: What the teacher reads in their place, int32; empty: the prompts.
        responses: By role, one response per prompt, int32 token ids of the writer's tokenizer.
        origin: How the responses were made.

    Example:
        >>> eval_set = EvalSet.from_records([Record(prompt_id="a", prompt="def a(x)")])
        >>> written = eval_set.with_responses(References(teacher=teacher), max_new_tokens=8)
        >>> len(written), list(written.responses)
        (1, [<Role.TEACHER: 'teacher'>])
    """

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    prompts: tuple[np.ndarray, ...] = ()
    other_prompts: Mapping[str, tuple[np.ndarray, ...]] = field(default_factory=dict)
    teacher_prompts: tuple[np.ndarray, ...] = ()
    responses: Mapping[Role, tuple[np.ndarray, ...]] = field(default_factory=dict)
    origin: EvalSetOrigin = field(default_factory=EvalSetOrigin)
    records: tuple[Record, ...] = field(default=(), compare=False, repr=False)  # what it was read from; not saved

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def from_jsonl(cls, path: Path | str, *, limit: int = 0, on_bad_line: str = "stop") -> EvalSet:
        """The prompts of a file; its responses are used by `with_responses(References(human=True))` alone.

        Args:
            path: A JSONL or Parquet file of records.
            limit: At most this many prompts; 0: all.
            on_bad_line: `stop` or `skip`.

        Returns:
            The prompts, without responses.

        Raises:
            DataError: the file has no prompt, or a line that is no record.
        """
        found = consistent(parsed(read_rows(Path(path)), path, on_bad_line, OWN), on_bad_line)
        return cls.from_records((record for record in found if isinstance(record, Record)), limit=limit)

    @classmethod
    def from_records(cls, records: Iterable[Record], *, limit: int = 0) -> EvalSet:
        """One entry per distinct prompt id, in the order of first appearance.

        Args:
            records: Read one after the other.
            limit: Number of prompts, after which no more are read; 0: all are read.

        Returns:
            The prompts, without responses.

        Raises:
            DataError: there is no record.
        """
        first: dict[str, Record] = {}
        for record in records:
            first.setdefault(record.prompt_id, record)
            if len(first) == limit:
                break
        chosen = tuple(first.values())
        if not chosen:
            raise DataError("an evaluation set needs at least one prompt")
        return cls(ids=tuple(r.prompt_id for r in chosen), texts=tuple(r.prompt for r in chosen), records=chosen)

    def with_responses(
        self,
        references: References,
        *,
        tokenizer: TokenizerLike = None,
        readers: Sequence[Tokenizer] = (),
        seed: int = 0,
        max_new_tokens: int = 128,
        max_prompt_tokens: int = 1024,
        batch_size: int = 256,
        progress: Progress = SILENT,
        kept: KeptResponses | None = None,
    ) -> EvalSet:
        """The same prompts with one response of each reference, at temperature 1 and a fixed seed.

        Args:
            references: The models that write. With `human`, the file's own responses are kept too.
            tokenizer: Encodes prompts where `references` has no model, and `readers` is empty.
            readers: Tokenizers of students, which may be others than the references'.
            seed: Of the responses.
            max_new_tokens: The longest response, human ones included.
            max_prompt_tokens: Longer prompts leave the set, as do prompts without a human response where these are
                asked for. `origin` counts both.
            batch_size: Sequences in one forward.
            progress: Where to show how far it has come.
            kept: Where batches are committed as they are complete, and found again by the next start.

        Returns:
            An evaluation set with `prompts`, `responses` and `origin`; prompts that do not fit are left out.

        Raises:
            UsageError: `references` has neither a model nor `human`, or no tokenizer is known.
            DataError: no prompt is left.
            MismatchError: responses are there already, and a reference has a tokenizer without prompts.
        """
        if references.tokenizer is None and not references.human:
            raise UsageError("an evaluation set's responses need a teacher or an oracle to write them")
        given = [] if references.tokenizer is not None or readers else [tokenizer_of(tokenizer)]
        encoders = Encoders.of(references, [*given, *readers])
        eval_set = self._encoded(encoders, max_prompt_tokens, max_new_tokens if references.human else 0)
        request = GenerationRequest(
            sampling=SamplingSettings(), max_new_tokens=max_new_tokens, seed=seed, batch_size=batch_size
        )
        responses, writers = dict(eval_set.responses), dict(eval_set.origin.writers)
        tokenizers = dict(eval_set.origin.tokenizers)
        for stream, (role, model) in enumerate(references):
            eval_set.check_tokenizer(role, model.tokenizer)
            writers[role], own = model.fingerprint(), model.tokenizer.fingerprint()
            tokenizers |= {} if own == eval_set.origin.tokenizer else {role: own}
            # Oracle and teacher draw independently; below EVALUATION_STREAM.
            responses[role] = written_by(
                model, role, eval_set.prompts_of(role, own), replace(request, epoch=stream), progress, kept
            )
        origin = replace(
            eval_set.origin, writers=writers, tokenizers=tokenizers, seed=seed, max_new_tokens=max_new_tokens
        )
        return replace(eval_set, responses=responses, origin=origin)

    def _encoded(self, encoders: Encoders, max_prompt_tokens: int, max_human_tokens: int) -> EvalSet:
        """With prompts as ids, and people's responses where they are asked for; what does not fit is left out."""
        if self.prompts:
            return self
        texts = [Record(prompt_id=key, prompt=text) for key, text in zip(self.ids, self.texts, strict=True)]
        found = encoded(self.records or texts, encoders, max_prompt_tokens, max_human_tokens)
        return EvalSet(
            ids=tuple(self.ids[i] for i in found.keep),
            texts=tuple(self.texts[i] for i in found.keep),
            prompts=found.prompts,
            other_prompts=found.other_prompts,
            teacher_prompts=found.teacher_prompts,
            responses={Role.HUMAN: found.human} if found.human else {},
            origin=found.origin,
            records=tuple(self.records[i] for i in found.keep) if self.records else (),
        )

    def check_tokenizer(self, role: str, tokenizer: Tokenizer) -> None:
        """Refuse a model in whose token ids the evaluation set has no prompts.

        Args:
            role: Of the model, for the message.
            tokenizer: The model's.

        Raises:
            MismatchError: names both tokenizers.
        """
        if not self.prompts_in(tokenizer.fingerprint()):
            self._refuse_tokenizer(role, self.origin.tokenizer, tokenizer)

    def _refuse_tokenizer(self, role: str, recorded: str, tokenizer: Tokenizer) -> NoReturn:
        raise MismatchError(
            f"the evaluation set was encoded with another tokenizer than the {role}'s",
            details=(f"evaluation set     {recorded}", f"{role:<8} {tokenizer.fingerprint()}"),
            hint="let models with this tokenizer write a new evaluation set",
        )

    def check_writer(self, role: Role, model: LanguageModel) -> None:
        """Refuse a reference that did not write the evaluation set's fixed responses.

        Args:
            role: Whose responses they are.
            model: What is given in this role.

        Raises:
            UsageError: there are no responses of this role.
            MismatchError: another model wrote them, or they are in the ids of another tokenizer.
        """
        if role not in self.responses:
            raise UsageError(
                f"the evaluation set has no responses of the {role}",
                hint=f"make a new one with the {role} among its references",
            )
        recorded = self.origin.writers.get(role)
        own = fingerprint_like(recorded, model)
        if recorded != own:
            raise MismatchError(
                f"the evaluation set's {role} responses were written by another model",
                details=(f"evaluation set   {recorded}", f"given  {own}"),
                hint=f"give the {role} that wrote them, or make a new evaluation set",
            )
        if self.tokenizer_of(role) != model.tokenizer.fingerprint():
            self._refuse_tokenizer(role, self.tokenizer_of(role), model.tokenizer)

    def tokenizer_of(self, writer: Role) -> str:
        """The tokenizer of one writer's responses.

        Args:
            writer: Oracle, teacher, judge or human.

        Returns:
            Its fingerprint.
        """
        return self.origin.tokenizers.get(writer, self.origin.tokenizer)

    def sequences(self, writer: Role) -> list[TokenSequence]:
        """The fixed responses of one writer, behind their prompts.

        Args:
            writer: Oracle, teacher, judge or human.

        Returns:
            One sequence per prompt, in the evaluation set's order.
        """
        return self.sequences_of(self.responses[writer], self.tokenizer_of(writer))

    def prompts_in(self, tokenizer: str) -> tuple[np.ndarray, ...]:
        """The prompts in the ids of one tokenizer.

        Args:
            tokenizer: Its fingerprint.

        Returns:
            int32 ids of each; empty: the evaluation set does not have them in these ids.
        """
        return self.prompts if tokenizer == self.origin.tokenizer else self.other_prompts.get(tokenizer, ())

    def prompts_of(self, reader: Role, tokenizer: str) -> tuple[np.ndarray, ...]:
        """The prompts as one role reads them: the teacher may have its own.

        Args:
            reader: The role.
            tokenizer: The fingerprint of its tokenizer.

        Returns:
            int32 ids of each; empty as of `prompts_in`.
        """
        own = self.teacher_prompts if reader is Role.TEACHER else ()
        return own or self.prompts_in(tokenizer)

    def sequences_of(
        self,
        responses: Sequence[np.ndarray | None],
        tokenizer: str = "",
        prompts: Sequence[np.ndarray] = (),
    ) -> list[TokenSequence]:
        """Any responses to the evaluation set's prompts, in the evaluation set's order.

        Args:
            responses: One per prompt; None: there is none, and no sequence.
            tokenizer: The fingerprint of theirs; empty: that of `prompts`.
            prompts: In its ids, where the evaluation set does not hold them.

        Returns:
            A sequence for each response that is there.
        """
        tokenizer = tokenizer or self.origin.tokenizer
        own = self.teacher_prompts if tokenizer == self.tokenizer_of(Role.TEACHER) else ()
        rows = zip(self.ids, prompts or self.prompts_in(tokenizer), own or [None] * len(self), responses, strict=True)
        return [
            TokenSequence(
                example=i, prompt_id=key, prompt_ids=prompt, response_ids=response, teacher_prompt_ids=teacher
            )
            for i, (key, prompt, teacher, response) in enumerate(rows)
            if response is not None
        ]

    def fingerprint(self) -> str:
        """Name the evaluation set by its content.

        Returns:
            `sha256:…` over prompts, responses and origin.
        """
        return digest([self._lines(), canonical_json(self.origin.dump())])

    def save(self, directory: Path) -> None:
        """Write prompts.jsonl and manifest.json, both or nothing.

        Args:
            directory: An evaluation set that is there is replaced as a whole.
        """
        check_output(directory, "eval_set")
        with atomic_directory(directory, replace=True) as temporary:
            write_bytes(temporary / "prompts.jsonl", self._lines())
            manifest = EvalSetManifest(prompts=len(self), fingerprint=self.fingerprint(), origin=self.origin)
            write_json(temporary / MANIFEST, manifest.dump())

    @classmethod
    def load(cls, directory: Path | str) -> EvalSet:
        """Read a saved evaluation set.

        Args:
            directory: Where it was saved.

        Returns:
            The evaluation set, with the fingerprint that it was saved with.

        Raises:
            DataError: there is none, or it was changed after it was saved.
        """
        directory = Path(directory)
        if not is_eval_set(directory):
            raise DataError(
                f"no evaluation set in {directory}",
                hint="set `eval_data` to a JSONL of prompts; the set is written from it",
            )
        manifest = EvalSetManifest.parse(read_json(directory / MANIFEST), str(directory))
        path = directory / "prompts.jsonl"
        content = digest([read_bytes(path, 1 << 32), canonical_json(manifest.origin.dump())])
        if content != manifest.fingerprint:  # before it is parsed: what was changed may be anything
            raise DataError(
                f"the evaluation set in {directory} was changed after it was frozen",
                details=(f"manifest  {manifest.fingerprint}", f"content   {content}"),
                hint="make a new one; curves on different evaluation sets cannot be compared",
            )
        try:
            return cls._of_rows(runlog.read(path), manifest.origin)
        except (LookupError, TypeError, ValueError, ArithmeticError) as error:
            raise error if isinstance(error, DataError) else DataError(f"{path}: not an evaluation set") from error

    @classmethod
    def _of_rows(cls, rows: Sequence[Mapping[str, Any]], origin: EvalSetOrigin) -> EvalSet:
        writers = [role for role in Role if rows and role in rows[0]]
        return cls(
            ids=tuple(row["id"] for row in rows),
            texts=tuple(row["prompt"] for row in rows),
            prompts=tuple(_ids(row["prompt_ids"]) for row in rows if "prompt_ids" in row),
            other_prompts={
                name: tuple(_ids(row["other_prompt_ids"][name]) for row in rows)
                for name in (rows[0].get("other_prompt_ids", {}) if rows else {})
            },
            teacher_prompts=tuple(_ids(row["teacher_prompt_ids"]) for row in rows if "teacher_prompt_ids" in row),
            responses={writer: tuple(_ids(row[writer]) for row in rows) for writer in writers},
            origin=origin,
        )

    def _lines(self) -> bytes:
        return b"".join(canonical_json(self._row(i)) + b"\n" for i in range(len(self)))

    def _row(self, i: int) -> dict[str, object]:
        row: dict[str, object] = {"id": self.ids[i], "prompt": self.texts[i]}
        if self.prompts:
            row["prompt_ids"] = self.prompts[i].tolist()
        if self.other_prompts:
            row["other_prompt_ids"] = {name: ids[i].tolist() for name, ids in self.other_prompts.items()}
        if self.teacher_prompts:
            row["teacher_prompt_ids"] = self.teacher_prompts[i].tolist()
        return row | {writer: written[i].tolist() for writer, written in self.responses.items()}


def is_eval_set(directory: Path) -> bool:
    """Whether an evaluation set was saved there."""
    return (directory / MANIFEST).is_file()


def _ids(values: Sequence[int]) -> np.ndarray:
    return np.asarray(values, dtype=np.int32)
