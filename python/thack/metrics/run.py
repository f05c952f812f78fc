"""`thack evaluate` below the command line: three directories and a bank in, one JSON document out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from thack.config.settings import EvaluateSettings
from thack.errors import UsageError
from thack.files import write_json
from thack.metrics.bank import PromptBank
from thack.metrics.distance import Evaluator
from thack.models.load import load_model
from thack.models.protocol import LanguageModel
from thack.runtime.device import choose_device
from thack.runtime.progress import SILENT, Progress


def run_evaluate(settings: EvaluateSettings, progress: Progress = SILENT) -> dict[str, Any]:
    """Measure settings.student on the bank and write settings.out: models, bank, columns, per-prompt sums.

    Always in float32: a metric must not depend on what makes training fast. A bank that is still a file of
    prompts gets its responses first and is frozen beside `out`, in `bank/`.
    """
    if not settings.student:
        raise UsageError("nothing to evaluate", hint="give --student DIR")
    device = choose_device(settings.device)
    roles = {"student": settings.student, "teacher": settings.teacher, "oracle": settings.oracle}
    models = {
        role: load_model(Path(directory), role=role, device=device, dtype=torch.float32)
        for role, directory in roles.items()
        if directory
    }
    teacher, oracle = models.get("teacher"), models.get("oracle")
    bank = open_bank(settings, teacher, oracle, progress)
    evaluator = Evaluator(bank, teacher, oracle, settings.evaluation, seed=settings.seed)
    evaluation = evaluator.evaluate(models["student"], progress)
    result = {
        "kind": "evaluation",
        "models": {role: {"directory": roles[role], "fingerprint": m.fingerprint()} for role, m in models.items()},
        "bank": {"fingerprint": bank.fingerprint(), "prompts": len(bank), "origin": dict(bank.origin)},
        "seed": settings.seed,
        "columns": evaluation.columns,
        "per_prompt": evaluation.per_prompt_row(0) | {"step": None},
    }
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(settings.out, result)
    return result


def open_bank(
    settings: EvaluateSettings, teacher: LanguageModel | None, oracle: LanguageModel | None, progress: Progress
) -> PromptBank:
    """The frozen bank in a directory, or a new one from a file of prompts."""
    path = Path(settings.bank or settings.data.path)
    if path.is_dir() and settings.bank:
        return PromptBank.load(path)
    if not settings.bank and not settings.data.path:
        raise UsageError("evaluating needs held-out prompts", hint="give --bank DIR, or --bank prompts.jsonl")
    bank = PromptBank.from_jsonl(path, limit=settings.data.limit).with_responses(
        teacher,
        oracle=oracle,
        seed=settings.seed,
        max_new_tokens=settings.data.max_response_tokens,
        max_prompt_tokens=settings.data.max_prompt_tokens,
        progress=progress,
    )
    frozen = settings.out.parent / "bank"
    bank.save(frozen)
    progress.note(f"bank of {len(bank)} prompts frozen in {frozen}: give --bank {frozen} next time")
    return bank
