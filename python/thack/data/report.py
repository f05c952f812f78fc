"""What happened to a data set on its way to token ids: everything that was dropped, cut or guessed is counted."""

from __future__ import annotations

from dataclasses import dataclass, field

from thack.data.eos import EndCounts

_SHOWN = 3  # skipped lines that are quoted


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Counts of one data set.

    Args:
        records: records that were taken from the data.
        kept: sequences that came of them; several of one record where several turns or pieces are trained.
        dropped_prompts: longer than max_prompt_tokens, or empty once encoded.
        cut_prompts: lost their beginning.
        cut_responses: longer than max_response_tokens: they lost their end.
        without_response: records without one where it is needed.
        with_control_tokens: records whose own text holds a control token that becomes one.
        pieces: sequences cut from raw texts.
        teacher_prompts: sequences with a prompt that the teacher alone reads.
        other_beginnings: responses that the chat template begins in another way than it prompts a model for one.
        notes: what the tokenizer's files leave in doubt.
        ends: how the kept responses end; raw texts, which are cut on purpose, not among them.
        skipped: lines that were left out, each with its place and the reason.
    """

    records: int
    kept: int
    dropped_prompts: int = 0
    cut_prompts: int = 0
    cut_responses: int = 0
    without_response: int = 0
    with_control_tokens: int = 0
    pieces: int = 0
    other_beginnings: int = 0
    teacher_prompts: int = 0
    notes: tuple[str, ...] = ()
    ends: EndCounts = field(default_factory=EndCounts)
    skipped: tuple[str, ...] = ()

    def __str__(self) -> str:
        counts = {
            "prompts too long, dropped": self.dropped_prompts,
            "prompts cut": self.cut_prompts,
            "responses cut": self.cut_responses,
            "without response, dropped": self.without_response,
            "pieces of raw texts": self.pieces,
            "with a prompt of the teacher's own": self.teacher_prompts,
            "unreadable lines skipped": len(self.skipped),
        }
        kept = f"{self.kept:,} of {self.records:,} records"
        if self.kept > self.records - self.dropped_prompts - self.without_response:
            kept = f"{self.kept:,} sequences of {self.records:,} records"
        parts = [kept, *(f"{n:,} {what}" for what, n in counts.items() if n)]
        return " · ".join([*parts, *(f"skipped {line}" for line in self.skipped[:_SHOWN])])

    def warnings(self) -> list[str]:
        """What may be wrong with the data, one line each."""
        found = [*self.ends.warnings(), *self.notes]
        if self.with_control_tokens:
            found.append(
                f"{self.with_control_tokens:,} of {self.records:,} records have control tokens written out in their "
                "text, which become control ids: `data.control_tokens = text` keeps them text"
            )
        if self.other_beginnings:
            found.append(
                f"{self.other_beginnings:,} of {self.kept:,} responses begin in another way than the chat template "
                "prompts for them (a block of thinking, for example): see `data.template_variables`"
            )
        return found

    def lines(self) -> list[str]:
        """Counts and warnings, as they are shown."""
        return [str(self), *(f"warning: {line}" for line in self.warnings())]
