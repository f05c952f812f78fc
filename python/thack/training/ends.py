"""Does the student stop where its training responses end? Asked before the first step."""

from __future__ import annotations

from collections import Counter

from thack.cache import Cache
from thack.cache.format.ends import first_responses, read_ends
from thack.data.compare import closing_token
from thack.data.eos import EndCounts
from thack.data.tokenizer import Tokenizer
from thack.errors import MismatchError


def check_same_end(teacher: Tokenizer, student: Tokenizer, *, chat: bool) -> None:
    """Refuse a teacher whose responses end with a token at which the student does not stop.

    Args:
        teacher: its tokenizer.
        student: the student's, with the same ids.
        chat: the data holds conversations, whose turns end as the teacher's chat template says.

    Raises:
        MismatchError: names both tokens, and the setting that decides.
    """
    end = closing_token(teacher, chat=chat)
    if teacher.added_tokens.get(end, teacher.eos_id) not in student.ends.ids:
        raise _refusal("teacher", end, student)


def check_cache_end(cache: Cache, student: Tokenizer) -> list[str]:
    """Refuse a cache whose responses end with a token at which the student does not stop.

    Returns:
        What a user should know of the responses, one line each.

    Raises:
        MismatchError: names both tokens, and the setting that decides.
    """
    found = read_ends(cache.directory)
    if found is None:
        return []
    ends, maximum = found
    responses = first_responses(cache.directory, cache.plan)
    unknown = Counter(int(ids[-1]) for ids in responses if ends.is_finished(ids) and not student.ends.is_finished(ids))
    if unknown.total() > len(responses) / 2:
        raise _refusal("cache", student.token(unknown.most_common(1)[0][0]), student)
    return EndCounts.of(responses, student.ends, maximum=maximum or max(map(len, responses))).warnings()


def _refusal(role: str, end: str, student: Tokenizer) -> MismatchError:
    own = ", ".join(student.token(i) for i in sorted(student.ends.ids))
    return MismatchError(
        f"the student does not stop where the {role}'s responses end",
        details=(f"{role:<8} {end}", f"student  {own}"),
        hint=f"the ids are the same, the ends are not: set `data.end = {end}` and the student ends with it too",
    )
