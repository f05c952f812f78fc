"""The models of a distillation, loaded and checked against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path

import torch

from thack.cache import Cache
from thack.cache.format.together import joint_spec
from thack.cache.format.tokenizer import read_tokenizer
from thack.checks.combinations import check_across
from thack.checks.losses import check_compares
from thack.config import DistillSettings, LoadSettings, LossSettings
from thack.config.specs import cache_paths, mixes_caches, policy_gradient
from thack.data.compare import differences
from thack.data.date import follow_settings
from thack.data.lengths import holds_conversations
from thack.data.tokenizer import Tokenizer
from thack.errors import MismatchError, UsageError
from thack.evaluation.references import References
from thack.files import canonical_json, digest
from thack.models.checkpoint import fingerprint_like
from thack.models.hub import locate
from thack.models.load import load_model, load_student, without_adapter
from thack.models.precision import FLOAT32, Precision, inference_precision
from thack.models.protocol import LanguageModel
from thack.runtime.process_group import ProcessGroup
from thack.runtime.progress import SILENT, Progress
from thack.runtime.ranks import current_rank
from thack.schema.metrics import Role
from thack.schema.run import CacheCosts, CacheFacts, RunFacts
from thack.schema.targets import TargetSpec
from thack.targets.frozen_head import FrozenHead
from thack.targets.vocabulary import common_width
from thack.training.behaviour import needs_start
from thack.training.ends import check_same_end
from thack.training.objective import has_plain_head
from thack.training.sharding import as_module


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignTokenizer:
    """The tokenizer of a teacher whose student has another one."""

    tokenizer: Tokenizer
    width: int  # ids of the teacher's distributions


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
    references = References(**loaded, human=settings.human_references)
    start = _start(settings, device, progress)
    caches = tuple(Cache.open(path) for path in cache_paths(settings))
    plans = {cache.directory: cache.plan for cache in caches}
    cached = joint_spec(plans, mixed=mixes_caches(settings)) if caches else None
    widths = {"student": student.vocab_size}
    foreign = _foreign(settings, student, references.teacher, caches)
    if foreign is not None and caches:
        check_same_teacher(caches, references.teacher)
    elif foreign is None and references.teacher is not None:
        teacher = references.teacher.tokenizer
        check_same_tokenizer("teacher", teacher.fingerprint(), student, differences(student.tokenizer, teacher))
        check_same_end(teacher, student.tokenizer, chat=holds_conversations(settings.data))
        widths["teacher"] = references.teacher.vocab_size
    if caches and foreign is None:
        check_same_tokenizer("cache", caches[0].meta.tokenizer, student)
        check_same_teacher(caches, references.teacher)
        widths["cache"] = min(cache.meta.vocab_size for cache in caches)
        check_same_head(caches, student)
    heads = {"student": student, "teacher": None if caches else references.teacher}
    return Models(
        student=student,
        references=references,
        caches=caches,
        cached=cached,
        width=common_width(student.tokenizer.size, **widths),
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


def check_same_tokenizer(role: str, fingerprint: str, student: LanguageModel, differing: Sequence[str] = ()) -> None:
    """Raise MismatchError unless ids stand for the same tokens on both sides (pitfall 20)."""
    own = student.tokenizer.fingerprint()
    if fingerprint != own:
        raise MismatchError(
            f"the {role} has another tokenizer than the student",
            details=(*differing, f"{role:<8} {fingerprint}", f"student  {own}"),
            hint=f"the same id would be another token: use a {role} and a student that share a tokenizer",
        )


def _foreign(
    settings: DistillSettings, student: LanguageModel, teacher: LanguageModel | None, caches: Sequence[Cache]
) -> ForeignTokenizer | None:
    """The teacher's tokenizer where it is another one than the student's; None also where that is not wanted."""
    given = "" if teacher is None else teacher.tokenizer.fingerprint()
    stored = caches[0].meta.tokenizer if caches else given
    if settings.loss.cross_tokenizer == "refuse" or stored in ("", student.tokenizer.fingerprint()):
        check_compares(settings.loss)
        return None
    check_across(settings)
    tokenizer = teacher.tokenizer if teacher is not None and given == stored else _cached_tokenizer(caches[0])
    widths = {} if teacher is None or given != stored else {"teacher": teacher.vocab_size}
    widths |= {"cache": caches[0].meta.vocab_size} if caches else {}
    return ForeignTokenizer(tokenizer=tokenizer, width=common_width(tokenizer.size, **widths))


def _cached_tokenizer(cache: Cache) -> Tokenizer:
    found = read_tokenizer(cache.directory, cache.meta.tokenizer)
    if found is None:
        raise MismatchError(
            "the cache has another tokenizer than the student, and does not hold it",
            details=(f"cache    {cache.meta.tokenizer}",),
            hint="set `teacher` to the model that was cached, or copy its tokenizer files to `tokenizer/` in the cache",
        )
    return found


def check_same_teacher(caches: Sequence[Cache], teacher: LanguageModel | None) -> None:
    """A live teacher beside caches is the reference of the proxy metric: it has to be the one of one of them."""
    if teacher is None:
        return
    if not stored_by(caches, teacher):
        cached = [cache.meta.teacher for cache in caches]
        raise MismatchError(
            "the caches store other teachers' distributions"
            if len(caches) > 1
            else "the cache stores another teacher's distributions",
            details=(*(f"cache    {found}" for found in cached), f"teacher  {fingerprint_like(cached[0], teacher)}"),
            hint="set `teacher` to the model that was cached, or cache this one",
        )


def check_same_head(caches: Sequence[Cache], student: LanguageModel) -> None:
    """Raise MismatchError unless projected caches are of this student's head.

    Raises:
        ModelError: its head is not a plain product.
        UsageError: its head trains.
    """
    for cache in caches:
        if not (stored := cache.plan.fingerprints.head):
            continue
        if student.head().weight.requires_grad:
            raise UsageError(
                "a projected cache is of a frozen head, and the student's head trains",
                hint="leave `lora.target_modules` at all-linear, which does not reach the head",
            )
        found = FrozenHead.of(student, cache.meta.vocab_size).fingerprint
        if found != stored:
            raise MismatchError(
                f"{cache.directory} is of another head than the student's",
                details=(f"cache    {stored}", f"student  {found}"),
                hint="write the cache with this `student`, or train the one that it was written with",
            )


def stored_by(caches: Sequence[Cache], teacher: LanguageModel) -> list[int]:
    """Numbers of the caches that hold this teacher's distributions."""
    stored = [cache.meta.teacher for cache in caches]
    return [number for number, found in enumerate(stored) if found == fingerprint_like(found, teacher)]


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
