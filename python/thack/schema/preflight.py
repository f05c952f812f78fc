"""What `thack doctor` finds of a machine, and of a teacher, a student and data before they are used together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from thack.schema import document
from thack.schema.cross_tokenizer import CrossTokenizer
from thack.schema.document import Document

State = Literal["ok", "note", "wrong"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of a report: what was looked at, what was found, and what to do where it is wrong."""

    name: str
    value: str
    state: State = "ok"
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialTokens:
    """What begins and ends texts for one model, as the tokenizer writes it."""

    bos: str  # empty: none
    eos: str
    ends: tuple[str, ...]  # all at which the model stops
    turn: str = ""  # with which the chat template closes the assistant's turn; empty: no template, or none
    closing: str = ""  # behind the responses of the data
    has_template: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderingDifference:
    """The first record whose ids differ between the two tokenizers."""

    record: str  # its place in the data
    position: int  # of the first token that differs, from 0
    before: str  # the tokens before it, which are equal
    teacher: str  # the teacher's tokens from there on, or why it refuses the record
    student: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DataCounts:
    """Tokens of the data as they are trained on."""

    sequences: int
    prompt_tokens: int
    trained_tokens: int
    truncated: int = 0  # responses that were cut at their maximum
    without_end: int = 0  # further responses that no end closes
    dropped_prompts: int = 0

    @property
    def trained_share(self) -> float:
        """Share of the tokens that are trained."""
        return self.trained_tokens / max(self.prompt_tokens + self.trained_tokens, 1)

    @property
    def truncated_share(self) -> float:
        """Share of the responses that were cut."""
        return self.truncated / max(self.sequences, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherFit:
    """How the teacher's distributions fit the responses, in nats per token.

    `shifts` has the mean of row t's negative log-likelihood of token t − 1, t and t + 1, under -1, 0 and +1.
    `error` is the standard error of the difference between shift 0 and the better one of the others.
    `shuffled` is what the responses cost behind one another's prompts, with `rise_error` the standard error of the rise
    over sequences; None where there are no two prompts.
    """

    sequences: int
    tokens: int
    shifts: Mapping[str, float]
    error: float
    matched: float  # mean over sequences of shift 0, which `shuffled` is compared with
    shuffled: float | None = None
    rise_error: float = 0.0
    entropy: float = 0.0  # of the teacher's rows, mean over tokens
    padded_mass: float = 0.0  # mean probability of ids that the tokenizer does not have

    @property
    def best_shift(self) -> str:
        """The shift at which the rows fit best."""
        return min(self.shifts, key=lambda shift: self.shifts[shift])


@dataclass(frozen=True, slots=True, kw_only=True)
class CellShares:
    """What another tokenizer costs, by the first responses; shares from 0 to 1."""

    rows: int  # of the student
    common: float  # rows at which a token of both begins
    settled: float  # of the common rows: the realised teacher token settles which student token begins
    outside: float  # of the common rows: the realised student token is in another cell than the teacher's
    left_out: float  # mass of ids that the student has no text for
    forbidden: float  # mass of pairs that the student's encoder never writes
    cut: float = 0.0  # of the responses: the rest stands behind a control token
    loss: CrossTokenizer = "cell"  # what a run compares


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight(Document):
    """Checks of a teacher, a student and data. What was not given is absent."""

    SCHEMA: ClassVar[int] = 1

    special: Mapping[str, SpecialTokens] = field(default_factory=dict)  # by role
    vocabulary: tuple[str, ...] = ()  # what differs between the tokenizers
    rows: Mapping[str, int] = field(default_factory=dict)  # of each LM head, by role
    tokenizer_ids: int = 0
    compared: int = 0  # records that at least one tokenizer encoded
    differing: int = 0
    difference: RenderingDifference | None = None
    data: DataCounts | None = None
    fit: TeacherFit | None = None
    cells: CellShares | None = None  # where the tokenizers differ
    refused: Finding | None = None  # why they cannot be compared
    findings: tuple[Finding, ...] = ()

    @property
    def wrong(self) -> tuple[Finding, ...]:
        """The findings that stand in the way."""
        return tuple(finding for finding in self.findings if finding.state == "wrong")

    def numbers(self) -> dict[str, float]:
        """Its numbers by name, for a run's manifest."""
        found: dict[str, float] = {}
        if self.compared:
            found |= {"records_compared": self.compared, "records_differing": self.differing}
        if self.data is not None:
            found |= {"trained_share": self.data.trained_share, "truncated_share": self.data.truncated_share}
            found["without_end"] = self.data.without_end
        if self.fit is not None:
            found |= {f"teacher_nll/{shift}": value for shift, value in self.fit.shifts.items()}
            found |= {"teacher_nll/shuffled": self.fit.shuffled} if self.fit.shuffled is not None else {}
            found["padded_mass"] = self.fit.padded_mass
        if self.cells is not None:
            shares = {name: value for name, value in document.dump(self.cells).items() if isinstance(value, float)}
            found |= {f"cells/{name}": value for name, value in shares.items()}
        return found
