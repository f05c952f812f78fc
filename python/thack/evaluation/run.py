"""`thack evaluate` below the command line: three directories and an evaluation set in, one JSON document out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from thack.config import DataSettings, EvaluateSettings
from thack.errors import UsageError
from thack.evaluation.distance import Evaluator
from thack.evaluation.eval_set import EvalSet
from thack.files import canonical_json, digest, write_json
from thack.models.load import load_model, origin_of
from thack.models.protocol import LanguageModel
from thack.runtime.device import choose_device
from thack.runtime.progress import SILENT, Progress
from thack.runtime.status import recorded


def run_evaluate(settings: EvaluateSettings, progress: Progress = SILENT) -> dict[str, Any]:
    """Measure settings.student on the eval set and write settings.out: models, eval set, columns, per-prompt sums.

    Always in float32: a metric must not depend on what makes training fast. An evaluation set that is still a file of
    prompts gets its responses first and is frozen beside `out`.
    """
    if not settings.student:
        raise UsageError("nothing to evaluate", hint="set `student` to its directory")
    if not settings.eval_data and not settings.data.path:
        raise UsageError(
            "evaluating needs held-out prompts",
            hint="set `eval_data` to a frozen evaluation set, or to a JSONL of prompts",
        )
    with recorded(settings.out, "evaluation"):
        return _evaluate(settings, progress)


def _evaluate(settings: EvaluateSettings, progress: Progress) -> dict[str, Any]:
    device = choose_device(settings.device)
    names = ("student", "teacher", "oracle", "judge")
    roles = {role: getattr(settings, role) for role in names}
    models = {
        role: load_model(
            directory,
            role=role,
            device=device,
            dtype=torch.float32,
            options=None if role == "student" else settings.load,
        )
        for role, directory in roles.items()
        if directory
    }
    teacher, oracle, judge = (models.get(role) for role in names[1:])
    eval_set = open_eval_set(
        Path(settings.eval_data or settings.data.path),
        settings.out.parent,
        teacher=teacher,
        oracle=oracle,
        judge=judge,
        human=settings.human_references,
        data=settings.data,
        seed=settings.seed,
        progress=progress,
    )
    evaluator = Evaluator(eval_set, teacher, oracle, settings.evaluation, seed=settings.seed, judge=judge)
    evaluation = evaluator.evaluate(models["student"], progress)
    result = {
        "kind": "evaluation",
        "models": {
            role: {"directory": roles[role], "origin": origin_of(m), "fingerprint": m.fingerprint()}
            for role, m in models.items()
        },
        "eval_set": {"fingerprint": eval_set.fingerprint(), "prompts": len(eval_set), "origin": dict(eval_set.origin)},
        "seed": settings.seed,
        "columns": evaluation.columns,
        "per_prompt": evaluation.per_prompt_row(0) | {"step": None},
    }
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(settings.out, result)
    return result


def open_eval_set(
    path: Path,
    beside: Path,
    *,
    teacher: LanguageModel | None,
    oracle: LanguageModel | None,
    judge: LanguageModel | None = None,
    human: bool = False,
    data: DataSettings,
    seed: int,
    progress: Progress,
) -> EvalSet:
    """The eval set in a directory; of a file of prompts, the one in `beside` that is named by all that goes into it.

    It is made where it is not there yet: the same file, models and settings find the same responses again.
    """
    if path.is_dir():
        return EvalSet.load(path)
    eval_set = EvalSet.from_jsonl(path, limit=data.limit, on_bad_line=data.on_bad_line)
    writers = [None if model is None else model.fingerprint() for model in (teacher, oracle, judge)]
    lengths = [data.max_prompt_tokens, data.max_response_tokens]
    references = [record.response for record in eval_set.records] if human else None
    key = digest(canonical_json([eval_set.fingerprint(), writers, references, lengths, seed]))
    frozen = beside / f"eval_set-{key.removeprefix('sha256:')[:8]}"
    if frozen.is_dir():
        return EvalSet.load(frozen)
    eval_set = eval_set.with_responses(
        teacher,
        oracle=oracle,
        judge=judge,
        human=human,
        seed=seed,
        max_new_tokens=data.max_response_tokens,
        max_prompt_tokens=data.max_prompt_tokens,
        progress=progress,
    )
    eval_set.save(frozen)
    progress.note(f"evaluation set of {len(eval_set)} prompts frozen in {frozen}: use `eval_data = {frozen}` next time")
    return eval_set
