"""What the facts of a `Preflight` mean: one line each, with what to type where something is wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator

from thack.schema.preflight import Finding, Preflight, TeacherFit
from thack.targets.shares import cell_findings

COUNTED = ("truncated", "without end", "dropped")  # lines that reading the data has reported already

CELLS = ("another tokenizer", "mass left out", "outside cells", "control tokens")  # lines that say what a run will do

_CLEAR = 4.0  # standard errors by which a wrong shift must win
_SURE = 2.0  # standard errors by which other prompts must cost more
_ENOUGH = 8  # sequences, below which a rise that is not sure says nothing
_UNSURE = 0.5  # entropy as a share of the most: such a teacher hardly knows the data, whatever its prompts
_MANY_TRUNCATED = 0.1  # share
_MUCH_MASS = 1e-3  # on padded ids


def findings(found: Preflight, *, teacher: str, chat: bool) -> tuple[Finding, ...]:
    """Every line of the report, in the order in which a user would mend things.

    Args:
        found: the facts.
        teacher: the teacher's directory, for what to type.
        chat: whether the data holds conversations.
    """
    if found.cells is not None:  # each renders and ends by its own tokenizer
        lines = [*_special(found), *cell_findings(found.cells), *_data(found)]
    elif found.refused is not None:
        lines = [*_special(found), found.refused, *_data(found)]
    else:
        lines = [*_special(found), *_vocabulary(found), *_heads(found)]
        lines += [*_template(found, teacher, chat=chat), *_ends(found), *_data(found)]
    return (*lines, *_fit(found.fit, found.tokenizer_ids)) if found.fit is not None else tuple(lines)


def _special(found: Preflight) -> Iterator[Finding]:
    for role, tokens in found.special.items():
        parts = [f"BOS {tokens.bos or 'none'}", f"EOS {tokens.eos}"]
        parts += [f"end of turn {tokens.turn or 'none'}"] if tokens.has_template else ["no chat template"]
        yield Finding(name=f"{role}'s tokens", value=" · ".join([*parts, "stops at " + ", ".join(tokens.ends)]))


def _vocabulary(found: Preflight) -> Iterator[Finding]:
    if len(found.special) < 2:
        return
    if not found.vocabulary:
        yield Finding(name="vocabulary", value=f"the same {found.tokenizer_ids:,} ids")
        return
    yield Finding(
        name="vocabulary",
        value="; ".join(found.vocabulary),
        state="wrong",
        advice="the same id is another token: take a `student` that shares the teacher's tokenizer",
    )


def _heads(found: Preflight) -> Iterator[Finding]:
    if not found.rows:
        return
    ids = found.tokenizer_ids
    heads = ", ".join(f"{role} {rows:,}" for role, rows in found.rows.items())
    padded = {role: rows - ids for role, rows in found.rows.items() if rows > ids}
    value = f"rows of the heads: {heads}; the tokenizer has {ids:,} ids"
    if any(rows < ids for rows in found.rows.values()):
        yield Finding(name="padded ids", value=value, state="wrong", advice="use models that have a row for each token")
        return
    if padded:
        value += "; padded: " + ", ".join(f"{role} {count:,}" for role, count in padded.items())
    mass = found.fit.padded_mass if found.fit is not None else 0.0
    if mass > _MUCH_MASS:
        advice = "was the teacher trained with another tokenizer?"
        yield Finding(
            name="padded ids", value=f"{value}; the teacher gives them {mass:.1%}", state="note", advice=advice
        )
    else:
        yield Finding(name="padded ids", value=value)


def _template(found: Preflight, teacher: str, *, chat: bool) -> Iterator[Finding]:
    name = "chat template" if chat else "encoding"
    without = [role for role, tokens in found.special.items() if chat and not tokens.has_template]
    if without:
        yield Finding(
            name=name,
            value=f"the {' and the '.join(without)} has none",
            state="note" if without == ["student"] else "wrong",
            advice=f"the teacher's: `data.chat_template = {teacher}/chat_template.jinja`"
            if without == ["student"]
            else "name one as `data.chat_template`",
        )
    elif found.compared and found.difference is None:
        yield Finding(name=name, value=f"{found.compared} of {found.compared} records have the same ids on both sides")
    elif found.difference is not None:
        d = found.difference
        place = f"{d.record}, token {d.position}" + (f" behind {d.before!r}" if d.before else "")
        yield Finding(
            name=name,
            value=f"{found.differing} of {found.compared} records differ: {place}: "
            f"teacher {d.teacher!r}, student {d.student!r}",
            state="wrong",
            advice=f"`data.chat_template = {teacher}/chat_template.jinja` gives both the teacher's"
            if chat
            else "both must read the same ids: copy the teacher's tokenizer files to the student",
        )


def _ends(found: Preflight) -> Iterator[Finding]:
    if len(found.special) < 2:
        return
    teacher, student = (found.special[role] for role in ("teacher", "student"))
    theirs, own = teacher.closing, student.closing
    if theirs == own:
        yield Finding(name="ends", value=f"responses end with {own} on both sides")
        return
    agree = theirs in student.ends and own in teacher.ends
    token = theirs.rpartition(" ")[0]
    yield Finding(
        name="ends",
        value=f"responses end with {theirs} for the teacher, {own} for the student",
        state="note" if agree else "wrong",
        advice="each stops at the other's" if agree else f"say which: `data.end = {token}`",
    )


def _data(found: Preflight) -> Iterator[Finding]:
    counts = found.data
    if counts is None:
        return
    total = counts.prompt_tokens + counts.trained_tokens
    if not counts.trained_tokens:
        yield Finding(name="trained tokens", value=f"none: {counts.sequences:,} prompts without responses")
        return
    yield Finding(
        name="trained tokens",
        value=f"{counts.trained_share:.1%} of {total:,}, the responses of {counts.sequences:,} sequences",
    )
    many = counts.truncated_share > _MANY_TRUNCATED
    yield Finding(
        name="truncated",
        value=f"{counts.truncated_share:.1%} of the responses reach the maximum length",
        state="note" if many else "ok",
        advice="raise `data.max_response_tokens`" if many else "",
    )
    if counts.without_end:
        yield Finding(
            name="without end",
            value=f"{counts.without_end:,} further responses hold no end: a student would not learn to stop",
            state="note",
        )
    if counts.dropped_prompts:
        yield Finding(
            name="dropped",
            value=f"{counts.dropped_prompts:,} records are longer than the maximum, or empty",
            state="note",
            advice="raise `data.max_prompt_tokens`",
        )


def _fit(fit: TeacherFit, ids: int) -> Iterator[Finding]:
    best = fit.best_shift
    shifts = " · ".join(f"shift {shift}: {nll:.3f}" for shift, nll in fit.shifts.items())
    clear = abs(fit.shifts[best] - fit.shifts["0"]) > _CLEAR * fit.error
    if best == "0":
        yield Finding(name="teacher NLL", value=shifts)
    else:
        yield Finding(
            name="teacher NLL",
            value=f"{shifts}: rows fit another token than theirs",
            state="wrong" if clear else "note",
            advice="the model or the data's `response_ids` are off by one, or the teacher cannot tell",
        )
    if fit.shuffled is None:
        return
    rise = fit.shuffled - fit.matched
    value = f"{fit.matched:.3f} → {fit.shuffled:.3f} nats per token behind other prompts"
    if rise > _SURE * fit.rise_error:
        yield Finding(name="shuffled", value=value)
        return
    if fit.sequences < _ENOUGH:
        yield Finding(name="shuffled", value=f"{value}: {fit.sequences} sequences are too few to tell", state="note")
        return
    unsure = fit.entropy > _UNSURE * math.log(max(ids, 2))
    yield Finding(
        name="shuffled",
        value=f"{value}: prompts make no difference" + (", and the teacher is unsure" if unsure else ""),
        state="note" if unsure else "wrong",
        advice="do `prompt` and `response` of a record belong together? has the teacher seen such data?",
    )
