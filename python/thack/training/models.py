"""The models of a distillation, loaded and checked against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path

import torch

from thack.cache import Cache
from thack.cache.format.together import joint_spec
from thack.config import DistillSettings, LoadSettings, LossSettings
from thack.config.specs import cache_paths, mixes_caches, policy_gradient
from thack.data.date import follow_settings
from thack.evaluation.references import References
from thack.files import canonical_json, digest
from thack.models.hub import locate
from thack.models.load import load_model, load_student, share_ids, without_adapter
from thack.models.precision import FLOAT32, Precision, inference_precision
from thack.models.protocol import LanguageModel
from thack.runtime.process_group import ProcessGroup
from thack.runtime.progress import SILENT, Progress
from thack.runtime.ranks import current_rank
from thack.schema.metrics import Role
from thack.schema.run import CacheCosts, CacheFacts, RunFacts
from thack.schema.targets import TargetSpec
from thack.targets.vocabulary import common_width
from thack.training.behaviour import needs_start
from thack.training.matching import ForeignTokenizer, check_same_teacher, foreign_tokenizer, shared_widths
from thack.training.objective import has_plain_head
from thack.training.sharding import as_module


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """The models of a run, each in its role."""

    student: LanguageModel  # with the weights of the checkpoint that the run resumes from
    references: References  # oracle, teacher, judge
    caches: tuple[Cache, ...]
    cached: TargetSpec | None  # what a batch from the caches keeps of a distribution; None: there is no cache
    width: int  # ids of the student that are compared with the teacher's
    foreign: ForeignTokenizer | None = None  # the teacher's, where it is another one than the student's
    plain_heads: frozenset[str]  # roles whose logits are their head's product, which a fused loss needs
    precision: Precision = FLOAT32  # of the teacher, wherever it is not evaluated
    start: LanguageModel | None = None  # the student as the run began, which scores the responses that it wrote

    @property
    def teacher_width(self) -> int:
        """Ids of the teacher's distributions that are compared."""
        return self.width if self.foreign is None else self.foreign.width

    @property
    def teacher(self) -> LanguageModel | None:
        return self.references.teacher

    @property
    def training_teacher(self) -> LanguageModel | None:
        """The live teacher, where it can score the sequences that are trained on.

        None where a cache's teacher has read prompts of its own: a cache holds the student's alone.
        """
        return None if any(cache.plan.teacher_prompts for cache in self.caches) else self.teacher

    def facts(self) -> RunFacts:
        """What they are, by content."""
        given = {"student": self.student} | {role.value: model for role, model in self.references}
        given |= {} if self.start is None else {"start": self.start}
        facts = RunFacts(
            models={role: model.fingerprint() for role, model in given.items()},
            origins={role: model.facts.origin for role, model in given.items()},
            tokenizer=self.student.tokenizer.fingerprint(),
            cache=_fingerprint(self.caches),
            caches=_cache_facts(self.caches) if len(self.caches) > 1 else (),
            teacher_tokenizer="" if self.foreign is None else self.foreign.tokenizer.fingerprint(),
            compared_ids=self.width,
            parameters={role: sum(p.numel() for p in as_module(model).parameters()) for role, model in given.items()},
            cache_costs=reduce(CacheCosts.__add__, (c.costs() for c in self.caches)) if self.caches else None,
        )
        return with_base(facts, self.student)

    def precisions(self, student: Precision, *, evaluates: bool) -> dict[str, str]:
        """Number format of each model's products, decided for each, and of the teacher's when a cache was written."""
        found = {"student": str(student)}
        if self.teacher is not None:
            found["teacher"] = str(self.precision)
        if self.caches:
            formats = ("unknown (imported)" if c.plan.device == "none" else c.plan.dtype for c in self.caches)
            found["cache"] = ", ".join(dict.fromkeys(formats))
        return found | ({"evaluation": FLOAT32.name} if evaluates else {})


def with_base(facts: RunFacts, student: LanguageModel) -> RunFacts:
    """`facts` with the frozen model below the student's adapter, which a resumed run must find again."""
    base = student.facts.base
    if base is None:
        return facts
    models, origins = {**facts.models, "base": base.fingerprint}, {**facts.origins, "base": base.origin}
    trained = sum(p.numel() for p in as_module(student).parameters() if p.requires_grad)
    return replace(facts, models=models, origins=origins, parameters={**facts.parameters, "adapter": trained})


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
    student = load_student(
        settings.student,
        settings.lora,
        seed=settings.seed,
        checkpoint=checkpoint,
        device=device,
        progress=progress,
    )
    names = {Role.TEACHER: settings.teacher, Role.ORACLE: settings.oracle, Role.JUDGE: settings.judge}
    if shared := _shares_weights(settings):
        progress.note("teacher: the student without its adapter, one copy of the weights")
        del names[Role.TEACHER]
    loaded = {
        role.value: load_model(name, role=role, device=device, options=settings.load, progress=progress)
        for role, name in names.items()
        if name
    } | ({Role.TEACHER.value: without_adapter(student)} if shared else {})
    for model in (student, *loaded.values()):
        follow_settings(model, settings.data, settings.out)
    share_ids([student, *loaded.values()])
    references = References(**loaded, human=settings.human_references)
    start = _start(settings, device, progress)
    caches = tuple(Cache.open(path) for path in cache_paths(settings))
    plans = {cache.directory: cache.plan for cache in caches}
    foreign = foreign_tokenizer(settings, student, references.teacher, caches)
    widths = {} if foreign is not None else shared_widths(settings, student, references.teacher, caches)
    check_same_teacher(caches, references.teacher)
    heads = {"student": student, "teacher": None if caches else references.teacher}
    return Models(
        student=student,
        references=references,
        caches=caches,
        cached=joint_spec(plans, mixed=mixes_caches(settings)) if caches else None,
        width=common_width(student.tokenizer.size, student=student.vocab_size, **widths),
        foreign=foreign,
        plain_heads=_plain_heads(settings.loss, heads),
        start=start,
    )


def _start(settings: DistillSettings, device: torch.device, progress: Progress) -> LanguageModel | None:
    """A second copy of the student, where a policy gradient asks how likely the given responses were to it.

    A new adapter changes nothing: its base model is the start.
    """
    policy = settings.loss.policy
    if not policy.weight or settings.source.kind != "offline" or not needs_start(policy_gradient(settings.loss)):
        return None
    return load_model(settings.student, role="start", device=device, progress=progress)


def _shares_weights(settings: DistillSettings) -> bool:
    """Whether the teacher is the frozen model below the student's adapter, loaded alike, and whole on this rank."""
    if not settings.lora.rank or not settings.teacher:
        return False
    alike = settings.load == LoadSettings(quantization=settings.lora.quantization) and settings.memory.master_weights
    whole = current_rank().world_size == 1 or (
        settings.parallel.strategy == "ddp" and not settings.parallel.shard_teacher
    )
    return (
        alike and whole and locate(settings.teacher).directory.resolve() == locate(settings.student).directory.resolve()
    )


def _plain_heads(settings: LossSettings, models: Mapping[str, LanguageModel | None]) -> frozenset[str]:
    rules = {"student": settings, "teacher": LossSettings()}
    return frozenset(role for role, model in models.items() if model is not None and has_plain_head(model, rules[role]))


def _fingerprint(caches: Sequence[Cache]) -> str | None:
    found = [cache.meta.fingerprint for cache in caches]
    return digest(canonical_json(found)) if len(found) > 1 else next(iter(found), None)


def _cache_facts(caches: Sequence[Cache]) -> tuple[CacheFacts, ...]:
    return tuple(
        CacheFacts(
            fingerprint=cache.meta.fingerprint,
            teacher=cache.meta.teacher,
            path=str(cache.directory),
            costs=cache.costs(),
        )
        for cache in caches
    )
