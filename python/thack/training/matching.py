"""Whether the models and caches of a distillation belong together: tokenizers, teachers, heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from thack.cache import Cache
from thack.cache.format.tokenizer import read_tokenizer
from thack.checks.combinations import check_across
from thack.checks.losses import check_compares
from thack.config import DistillSettings
from thack.data.compare import differences
from thack.data.lengths import holds_conversations
from thack.data.tokenizer import Tokenizer
from thack.errors import MismatchError, UsageError
from thack.models.checkpoint import fingerprint_like
from thack.models.protocol import LanguageModel
from thack.targets.frozen_head import FrozenHead
from thack.targets.vocabulary import common_width
from thack.training.ends import check_same_end


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignTokenizer:
    """The tokenizer of a teacher whose student has another one."""

    tokenizer: Tokenizer
    width: int  # ids of the teacher's distributions


def foreign_tokenizer(
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


def shared_widths(
    settings: DistillSettings, student: LanguageModel, teacher: LanguageModel | None, caches: Sequence[Cache]
) -> dict[str, int]:
    """Vocabularies of a teacher and of caches that have the student's tokenizer.

    Raises:
        MismatchError: one has another tokenizer, another end of a response, or another head.
    """
    found: dict[str, int] = {}
    if teacher is not None:
        differing = differences(student.tokenizer, teacher.tokenizer)
        check_same_tokenizer("teacher", teacher.tokenizer.fingerprint(), student, differing)
        check_same_end(teacher.tokenizer, student.tokenizer, chat=holds_conversations(settings.data))
        found["teacher"] = teacher.vocab_size
    if caches:
        check_same_tokenizer("cache", caches[0].meta.tokenizer, student)
        check_same_head(caches, student)
        found["cache"] = min(cache.meta.vocab_size for cache in caches)
    return found


def check_same_tokenizer(role: str, fingerprint: str, student: LanguageModel, differing: Sequence[str] = ()) -> None:
    """Raise MismatchError unless ids stand for the same tokens on both sides (pitfall 20)."""
    own = student.tokenizer.fingerprint()
    if fingerprint != own:
        raise MismatchError(
            f"the {role} has another tokenizer than the student",
            details=(*differing, f"{role:<8} {fingerprint}", f"student  {own}"),
            hint=f"the same id would be another token: use a {role} and a student that share a tokenizer",
        )


def check_same_teacher(caches: Sequence[Cache], teacher: LanguageModel | None) -> None:
    """A live teacher beside caches is the reference of the proxy metric: it has to be the one of one of them."""
    if teacher is None or not caches:
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
