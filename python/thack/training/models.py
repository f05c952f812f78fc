"""The models of a distillation, loaded and checked against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from thack.cache import Cache
from thack.config import DistillSettings, LossSettings
from thack.data.compare import differences
from thack.data.date import follow_settings
from thack.data.lengths import holds_conversations
from thack.errors import MismatchError
from thack.evaluation.references import References
from thack.models.checkpoint import fingerprint_like
from thack.models.load import load_model
from thack.models.precision import FLOAT32, Precision, inference_precision
from thack.models.protocol import LanguageModel
from thack.runtime.process_group import ProcessGroup
from thack.runtime.progress import SILENT, Progress
from thack.schema.metrics import Role
from thack.schema.run import RunFacts
from thack.targets.vocabulary import common_width
from thack.training.ends import check_same_end
from thack.training.objective import has_plain_head
from thack.training.sharding import as_module


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """The models of a run, each in its role."""

    student: LanguageModel  # with the weights of the checkpoint that the run resumes from
    references: References  # oracle, teacher, judge
    cache: Cache | None
    width: int  # ids on which student and teacher are compared
    plain_heads: frozenset[str]  # roles whose logits are their head's product, which a fused loss needs
    precision: Precision = FLOAT32  # of the teacher, wherever it is not evaluated

    @property
    def teacher(self) -> LanguageModel | None:
        return self.references.teacher

    def facts(self) -> RunFacts:
        """What they are, by content."""
        given = {"student": self.student} | {role.value: model for role, model in self.references}
        return RunFacts(
            models={role: model.fingerprint() for role, model in given.items()},
            origins={role: model.facts.origin for role, model in given.items()},
            tokenizer=self.student.tokenizer.fingerprint(),
            cache=None if self.cache is None else self.cache.meta.fingerprint,
            compared_ids=self.width,
            parameters={role: sum(p.numel() for p in as_module(model).parameters()) for role, model in given.items()},
            cache_costs=None if self.cache is None else self.cache.costs(),
        )

    def precisions(self, student: Precision, *, evaluates: bool) -> dict[str, str]:
        """Number format of each model's products, decided for each, and of the teacher's when a cache was written."""
        found = {"student": str(student)}
        if self.teacher is not None:
            found["teacher"] = str(self.precision)
        if self.cache is not None:
            plan = self.cache.plan
            found["cache"] = "unknown (imported)" if plan.device == "none" else plan.dtype
        return found | ({"evaluation": FLOAT32.name} if evaluates else {})


def load_models(
    settings: DistillSettings,
    checkpoint: Path | None,
    device: torch.device,
    group: ProcessGroup,
    progress: Progress = SILENT,
) -> Models:
    """Load every model, the student from `checkpoint` if there is one.

    Raises:
        MismatchError: they do not belong together.
        UndefinedLoss: `loss.fused` = true asks for what the student does not allow.
    """
    with group.raise_on_all_ranks():
        models = _load(settings, checkpoint, device, progress)
        precision = FLOAT32 if models.teacher is None else inference_precision(models.teacher, settings.dtype)
    return replace(models, precision=group.broadcast_from_rank0(precision))


def _load(settings: DistillSettings, checkpoint: Path | None, device: torch.device, progress: Progress) -> Models:
    student = load_model(checkpoint or settings.student, role="student", device=device, progress=progress)
    names = {Role.TEACHER: settings.teacher, Role.ORACLE: settings.oracle, Role.JUDGE: settings.judge}
    loaded = {
        role.value: load_model(name, role=role, device=device, options=settings.load, progress=progress)
        for role, name in names.items()
        if name
    }
    for model in (student, *loaded.values()):
        follow_settings(model, settings.data, settings.out)
    references = References(**loaded, human=settings.human_references)
    cache = Cache.open(Path(settings.cache)) if settings.cache else None
    widths = {"student": student.vocab_size}
    if references.teacher is not None:
        teacher = references.teacher.tokenizer
        check_same_tokenizer("teacher", teacher.fingerprint(), student, differences(student.tokenizer, teacher))
        check_same_end(teacher, student.tokenizer, chat=holds_conversations(settings.data))
        widths["teacher"] = references.teacher.vocab_size
    if cache is not None:
        check_same_tokenizer("cache", cache.meta.tokenizer, student)
        check_same_teacher(cache, references.teacher)
        widths["cache"] = cache.meta.vocab_size
    heads = {"student": student, "teacher": None if cache is not None else references.teacher}
    return Models(
        student=student,
        references=references,
        cache=cache,
        width=common_width(student.tokenizer.size, **widths),
        plain_heads=_plain_heads(settings.loss, heads),
    )


def _plain_heads(settings: LossSettings, models: Mapping[str, LanguageModel | None]) -> frozenset[str]:
    rules = {"student": settings, "teacher": LossSettings()}
    return frozenset(role for role, model in models.items() if model is not None and has_plain_head(model, rules[role]))


def check_same_tokenizer(role: str, fingerprint: str, student: LanguageModel, differing: Sequence[str] = ()) -> None:
    """Raise MismatchError unless ids stand for the same tokens on both sides (pitfall 20)."""
    own = student.tokenizer.fingerprint()
    if fingerprint != own:
        raise MismatchError(
            f"the {role} has another tokenizer than the student",
            details=(*differing, f"{role:<8} {fingerprint}", f"student  {own}"),
            hint=f"the same id would be another token: use a {role} and a student that share a tokenizer",
        )


def check_same_teacher(cache: Cache, teacher: LanguageModel | None) -> None:
    """A live teacher beside a cache is the reference of the proxy metric: it has to be the one that was cached."""
    if teacher is None:
        return
    own = fingerprint_like(cache.meta.teacher, teacher)
    if cache.meta.teacher != own:
        raise MismatchError(
            "the cache stores another teacher's distributions",
            details=(f"cache    {cache.meta.teacher}", f"teacher  {own}"),
            hint="set `teacher` to the model that was cached, or cache this one",
        )
