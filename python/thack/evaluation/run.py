"""`thack evaluate` below the command line: models and an evaluation set in, one JSON document out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch

from thack._version import __version__
from thack.config import DataSettings, EvaluateSettings, to_dict
from thack.data import Record
from thack.data.date import follow_settings
from thack.data.encode import refusal
from thack.data.lengths import response_limit
from thack.data.readers import consistent, each_record
from thack.data.rows import BadLine
from thack.data.tokenizer import Tokenizer
from thack.errors import plural
from thack.evaluation.encoders import Encoders
from thack.evaluation.eval_set import EvalSet, is_eval_set
from thack.evaluation.evaluator import Evaluator
from thack.evaluation.kept import KeptParts
from thack.evaluation.measured import Measured
from thack.evaluation.references import References
from thack.files import canonical_json, digest, write_json
from thack.generation.kept import KeptResponses
from thack.models.load import load_model, share_ids
from thack.models.protocol import LanguageModel
from thack.runtime.device import choose_device
from thack.runtime.lock import locked
from thack.runtime.progress import SILENT, Progress
from thack.runtime.status import recorded
from thack.schema.evaluation import EvaluatedModel, EvaluatedSet, EvaluationResult
from thack.schema.metrics import Role


def run_evaluate(settings: EvaluateSettings, progress: Progress = SILENT) -> EvaluationResult:
    """Measure `student` on the evaluation set and write `out`.

    Always in float32: a metric must not depend on what makes training fast. If `eval_data` is a file of prompts, the
    references write responses to them first, and the set is saved beside `out`.

    Raises:
        UsageError: there is neither a teacher nor an oracle.
        MismatchError: models and evaluation set do not belong together.
    """
    with locked(settings.out, progress), recorded(settings.out, "evaluation"):
        return _evaluate(settings, progress)


def _evaluate(settings: EvaluateSettings, progress: Progress) -> EvaluationResult:
    student, references = _load(settings)
    eval_set = open_eval_set(
        Path(settings.eval_data or settings.data.path),
        settings.out.parent,
        references,
        readers=(student.tokenizer,),
        data=settings.data,
        seed=settings.seed,
        progress=progress,
    )
    evaluator = Evaluator(eval_set, references, settings.evaluation, seed=settings.seed)
    for line in evaluator.notes(student):
        progress.note(line)
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    key = digest(canonical_json([_facts(settings, student, references), eval_set.fingerprint()]))
    with closing(KeptParts(settings.out.with_name(f".{settings.out.name}.partial.jsonl"), key)) as kept:
        if names := kept.names():
            progress.note(f"resuming: {', '.join(names)} are measured already")
        found = evaluator.evaluate(student, progress, kept)
        result = _result(settings, student, references, eval_set, found)
        write_json(settings.out, result.dump())
        kept.remove()
    return result


def _facts(settings: EvaluateSettings, student: LanguageModel, references: References) -> dict[str, object]:
    """All that the numbers depend on beside the evaluation set."""
    models = {"student": student.fingerprint()} | {str(role): model.fingerprint() for role, model in references}
    return {"models": models, "seed": settings.seed, "evaluation": to_dict(settings.evaluation), "build": __version__}


def _result(
    settings: EvaluateSettings, student: LanguageModel, references: References, eval_set: EvalSet, found: Measured
) -> EvaluationResult:
    return EvaluationResult(
        models={
            role: EvaluatedModel(
                directory=getattr(settings, role), origin=model.facts.origin, fingerprint=model.fingerprint()
            )
            for role, model in (("student", student), *((str(role), model) for role, model in references))
        },
        eval_set=EvaluatedSet(fingerprint=eval_set.fingerprint(), prompts=len(eval_set), origin=eval_set.origin),
        seed=settings.seed,
        columns=found.named(),
        per_prompt=found.per_prompt_row(None),
    )


def _load(settings: EvaluateSettings) -> tuple[LanguageModel, References]:
    device = choose_device(settings.device)
    student = load_model(settings.student, role="student", device=device, dtype=torch.float32)
    given = {Role.ORACLE: settings.oracle, Role.TEACHER: settings.teacher, Role.JUDGE: settings.judge}
    models = {
        role.value: load_model(name, role=role, device=device, dtype=torch.float32, options=settings.load)
        for role, name in given.items()
        if name
    }
    for model in (student, *models.values()):
        follow_settings(model, settings.data, settings.out.parent)
    share_ids([student, *models.values()])
    return student, References(**models, human=settings.human_references)


def _read(path: Path, tokenizers: Sequence[Tokenizer], data: DataSettings, progress: Progress) -> EvalSet:
    """The first prompts of a file; on request without those that cannot be read or rendered, which are counted."""
    asked = tokenizers if data.on_bad_line == "skip" else ()
    skipped: list[str] = []

    def usable() -> Iterator[Record]:
        for found in consistent(each_record(data, path), data.on_bad_line):
            if isinstance(found, BadLine):
                skipped.append(str(found))
            elif reason := next(filter(None, (refusal(found, t, data.max_prompt_tokens) for t in asked)), ""):
                skipped.append(reason)
            else:
                yield found

    eval_set = EvalSet.from_records(usable(), limit=data.limit)
    if skipped:
        progress.note(f"evaluation set: {len(skipped):,} records skipped, such as {skipped[0]}")
    return eval_set


def open_eval_set(
    path: Path,
    beside: Path,
    references: References,
    *,
    readers: Sequence[Tokenizer] = (),
    data: DataSettings,
    seed: int,
    progress: Progress,
) -> EvalSet:
    """The evaluation set in a directory; of a file of prompts, the one in `beside` named by everything it depends on.

    It is written where it does not exist yet: the same file, models and settings give the same responses again.
    `readers` are the tokenizers of students.
    """
    if path.is_dir():
        return EvalSet.load(path)
    encoders = Encoders.of(references, readers)
    eval_set = _read(path, encoders.all, data, progress)
    given = (references.teacher, references.oracle, references.judge)
    writers = [None if model is None else model.fingerprint() for model in given]
    longest = response_limit(replace(data, path=str(path)))
    lengths = [data.max_prompt_tokens, longest]
    human = [record.response for record in eval_set.records] if references.human else None
    rendering = encoders.facts()
    own = [record.teacher_prompt for record in eval_set.records]
    rendering += [canonical_json(own).decode()] if any(own) else []
    key = digest(canonical_json([eval_set.fingerprint(), writers, human, lengths, seed, *rendering]))
    frozen = beside / f"eval_set-{key.removeprefix('sha256:')[:8]}"
    with locked(frozen, progress):  # two evaluations beside each other share it
        if is_eval_set(frozen):
            return EvalSet.load(frozen)
        with closing(KeptResponses(frozen.with_name(f".{frozen.name}.partial.jsonl"), {"key": key})) as kept:
            eval_set = eval_set.with_responses(
                references,
                readers=readers,
                seed=seed,
                max_new_tokens=longest,
                max_prompt_tokens=data.max_prompt_tokens,
                progress=progress,
                kept=kept,
            )
            eval_set.save(frozen)
            kept.remove()
    size = plural(len(eval_set), "prompt")
    progress.note(f"evaluation set of {size} frozen in {frozen}: use `eval_data = {frozen}` next time")
    return eval_set
