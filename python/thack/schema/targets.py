"""What is kept of a teacher's distribution, and the divergence that compares it with the student's.

`TargetSpec` has three spellings, and only this class and its two neighbours translate between them: settings
(`config.specs`), one word of a grid's axis (`parse` and `str`), and the layout of records (`cache.format.layout`).
The words of the axis `target`:

    dense   top-k:64   sampled:16        from a cache, as `thack cache-logits` writes it
    live                                 the teacher's whole distribution, computed as the student trains
    live/top-k:64   live/sampled:16      the same as from a cache, but from the live teacher
    live/renormalised:16                 top-k scaled to a sum of 1: what most tools cache
    live/multinomial:16                  independent draws, as counts
    live/mixed:16+prior                  top-k; the tail's mass spread by one prior shared by the whole run
    live/mixed:16+4                      top-k; the tail by 4 unbiased draws
    live/mixed:16+prior+4                half the tail by each; +prior=0.3 is another share of the prior
    live/sampled:16+redraw               fixed responses with new draws in every epoch: what no cache can do
    projected:2048                       the mean row of a student's frozen head, of that many numbers
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal, get_args

from thack.errors import UndefinedLoss, UsageError
from thack.schema.policy import PolicyGradient

CachedKind = Literal["dense", "top-k", "sampled", "projected"]
TargetKind = Literal["dense", "top-k", "renormalised", "sampled", "multinomial", "mixed", "projected"]
ProjectedFormat = Literal["float16", "float8"]
Tail = Literal["exact", "estimated", "processed", "none"]
DivergenceKind = Literal["forward_kl", "reverse_kl", "jsd", "skewed_kl", "total_variation"]

DIVERGENCES: tuple[DivergenceKind, ...] = get_args(DivergenceKind)
DIVERGENCE_NAMES: Mapping[DivergenceKind, str] = MappingProxyType(
    {
        "forward_kl": "forward KL",
        "reverse_kl": "reverse KL",
        "jsd": "JSD",
        "skewed_kl": "skewed KL",
        "total_variation": "total variation",
    }
)
DEFAULT_PARAMETERS: Mapping[str, float] = MappingProxyType({"jsd": 0.5, "skewed_kl": 0.1})

_CACHED = get_args(CachedKind)
_DRAWN = ("sampled", "multinomial", "mixed")
_WORD = re.compile(
    r"(?P<kind>top-k|renormalised|sampled|multinomial|mixed|projected):(?P<k>[1-9]\d*)"
    r"(?P<prior>\+prior(=(?P<share>[\d.e-]+))?)?(\+(?P<draws>[1-9]\d*))?(?P<redraw>\+redraw)?"
)
_WORDS = "live, dense, top-k:64, sampled:4, live/renormalised:16, live/mixed:16+prior"
_DIVERGENCE = re.compile(r"(?P<kind>\w+)(\((?P<parameter>[^()]*)\))?(@(?P<temperature>[^@]*))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSpec:
    """What is kept of each of a teacher's distributions. Every value of this type can be made.

    Args:
        kind: dense: all of it; top-k: the k most likely ids and the tail mass; renormalised: top-k scaled to a sum
            of 1; sampled: k ids by threshold sampling; multinomial: k independent draws; mixed: top-k, the tail
            spread by draws and a prior; projected: Wᵀp of a student's frozen head W, and the entropy.
        k: ids kept per token; 0 if dense; projected: numbers of Wᵀp, the student's hidden width.
        live: computed by a live teacher; False: read from a cache (dense, top-k, sampled and projected only).
        redraw: drawn again in every epoch, where the responses stay the same (live and drawn kinds only).
        tail_draws: mixed: unbiased draws from the tail.
        tail_prior: mixed: share of the tail's mass that follows the mean tail of the training data, in [0, 1].
        temperatures: top-k: further temperatures at which the log of the tail mass is stored, 0.05 to 100.
        value_bits: top-k: bits of a stored log-probability; projected: of a stored number, 16 or 8.
        tail: top-k: whether the tail mass is exact, estimated as 1 − Σ of the kept, the same of log-probabilities that
            a server had processed (temperature, top-p, masks), or absent (imports).

    Raises:
        UsageError: a combination that cannot be made; names the field.

    Example:
        >>> spec = TargetSpec.parse("live/mixed:16+prior+4")
        >>> spec.k, spec.tail_draws, spec.tail_prior, str(spec)
        (16, 4, 0.5, 'live/mixed:16+prior+4')
    """

    kind: TargetKind = "dense"
    k: int = 0
    live: bool = False
    redraw: bool = False
    tail_draws: int = 0
    tail_prior: float = 0.0
    temperatures: tuple[float, ...] = ()
    value_bits: int = 8
    tail: Tail = "exact"

    def __post_init__(self) -> None:
        if self.kind not in get_args(TargetKind) or self.tail not in get_args(Tail):
            raise UsageError(f"no target is of kind {self.kind!r} with tail {self.tail!r}")
        if (self.k > 0) == (self.kind == "dense"):
            raise UsageError(f"k = {self.k}: a {self.kind} target keeps {'every id' if self.k else 'at least one'}")
        if not self.live and not self.is_cacheable:
            raise UsageError(f"no cache holds {self.label}", hint="use a live teacher")
        if self.redraw and self.kind not in _DRAWN:
            raise UsageError(f"redraw: a {self.kind} target draws nothing")
        if self.kind == "projected" and not self.live and self.value_bits not in (16, 8):
            raise UsageError(f"value_bits = {self.value_bits}: projected numbers take 16 or 8")
        self._check_temperatures()
        self._check_tail()

    def _check_temperatures(self) -> None:
        if self.temperatures and self.kind != "top-k":
            raise UsageError(
                f"temperatures are not defined on {self.kind} targets",
                hint="leave temperatures empty, or keep top-k targets",
            )
        if any(not 0.05 <= t <= 100 for t in self.temperatures) or len(self.temperatures) > 16:
            raise UsageError(f"temperatures = {self.temperatures}: up to 16 numbers from 0.05 to 100")

    def _check_tail(self) -> None:
        if self.kind != "mixed":
            if self.tail_draws or self.tail_prior:
                raise UsageError(
                    f"tail_draws and tail_prior belong to kind = mixed, not {self.kind}", hint="use kind = mixed"
                )
            return
        if not (0 <= self.tail_prior <= 1 and self.tail_draws >= 0):
            raise UsageError(f"tail_prior = {self.tail_prior:g} must be in [0, 1], tail_draws = {self.tail_draws} ≥ 0")
        if self.tail_prior < 1 and self.tail_draws < 1:
            raise UsageError(
                "kind = mixed leaves a share of the tail to no id",
                details=[f"tail_prior  {self.tail_prior:g}", f"tail_draws  {self.tail_draws}"],
                hint="use tail_prior = 1 (a prior alone), or tail_draws = 4",
            )

    @classmethod
    def parse(cls, text: str) -> TargetSpec:
        """Read one word of the axis `target`; the inverse of `str`.

        Raises:
            UsageError: the word is unknown, or names what cannot be made.
        """
        if text in ("live", "dense"):
            return cls(live=text == "live")
        found = _WORD.fullmatch(text.removeprefix("live/"))
        if found is None:
            raise UsageError(f"target {text!r}: must be like {_WORDS}")
        draws = int(found["draws"] or 0)
        try:
            share = float(found["share"] or (0.5 if draws else 1.0)) if found["prior"] else 0.0
            spec = cls(
                kind=found["kind"],  # type: ignore[arg-type]  # the pattern's kinds
                k=int(found["k"]),
                live=text.startswith("live/"),
                redraw=bool(found["redraw"]),
                tail_draws=draws,
                tail_prior=share,
                value_bits=16 if found["kind"] == "projected" else 8,
            )
        except ValueError as error:
            hint = error.hint if isinstance(error, UsageError) else None
            raise UsageError(f"target {text!r}: {str(error).splitlines()[0]}", hint=hint) from error
        if str(spec) != text:
            raise UsageError(f"target {text!r}: write it as {spec}")
        return spec

    def __str__(self) -> str:
        """The word of the axis `target`: all but how records are stored (temperatures, value_bits, tail)."""
        if self.kind == "dense":
            return "live" if self.live else "dense"
        word = f"{self.kind}:{self.k}"
        if self.tail_prior:
            word += f"+prior{self._share}"
        if self.tail_draws:
            word += f"+{self.tail_draws}"
        return f"{'live/' if self.live else ''}{word}{'+redraw' if self.redraw else ''}"

    @property
    def _share(self) -> str:
        """The tail's share of the prior, where it is not the usual one."""
        usual = 0.5 if self.tail_draws else 1.0
        return "" if self.tail_prior == usual else f"={self.tail_prior!r}"

    @property
    def is_cacheable(self) -> bool:
        """Whether a cache can hold it."""
        return self.kind in _CACHED and not self.redraw

    @property
    def label(self) -> str:
        """How a page names it, the same from a cache and from a live teacher."""
        parts = [
            {
                "dense": "exact",
                "top-k": f"top-{self.k} + tail",
                "renormalised": f"top-{self.k} renormalised",
                "sampled": f"{self.k} sampled ids",
                "multinomial": f"{self.k} multinomial draws",
                "mixed": f"top-{self.k}",
                "projected": f"exact, through a frozen head of {self.k} numbers",
            }[self.kind]
        ]
        parts += [f"shared tail prior{self._share}"] if self.tail_prior else []
        parts += [f"{self.tail_draws} tail draws"] if self.tail_draws else []
        return " + ".join(parts + (["drawn again every epoch"] if self.redraw else []))

    @property
    def biased(self) -> bool:
        """Whether its optimum is another distribution than the teacher's: something is left out, or guessed."""
        return self.kind in ("top-k", "renormalised") or self.tail_prior > 0

    def as_live(self) -> TargetSpec:
        """The same of a live teacher: what is meant where responses are newly written and no cache can be."""
        return replace(self, live=True)


def find_target(text: str) -> TargetSpec | None:
    """What a word names; None for an empty one, or one of another version.

    Example:
        >>> find_target("top-k:4") == TargetSpec(kind="top-k", k=4), find_target("")
        (True, None)
    """
    try:
        return TargetSpec.parse(text)
    except UsageError:
        return None


def live_word(text: str) -> str:
    """The word of the same target of a live teacher: "top-k:16" becomes "live/top-k:16"."""
    return str(TargetSpec.parse(text).as_live())


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """A divergence with its parameter and its temperature; jsd at β = 0 and 1 becomes the KL divergence it is.

    Args:
        kind: one of `DIVERGENCES`.
        parameter: jsd: β in [0, 1], 0.5 if None; skewed_kl: the skew in [0, 1), 0.1 if None; else None.
        temperature: both distributions are compared at it, finite and above 0; the loss is multiplied by its square.

    Raises:
        UndefinedLoss: an unknown kind, or a number outside its range.

    Example:
        >>> str(Divergence(kind="jsd")), Divergence(kind="jsd", parameter=1).kind
        ('jsd(0.5)', 'reverse_kl')
    """

    kind: DivergenceKind = "forward_kl"
    parameter: float | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in DIVERGENCES:
            raise UndefinedLoss(f"unknown divergence {self.kind!r}", hint=f"accepted: {', '.join(DIVERGENCES)}")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise UndefinedLoss(f"temperature must be finite and above 0, got {self.temperature}")
        if self.kind not in DEFAULT_PARAMETERS:
            if self.parameter is not None:
                raise UndefinedLoss(f"{self.kind} has no parameter, got {self.parameter}")
            return
        given = DEFAULT_PARAMETERS[self.kind] if self.parameter is None else self.parameter
        if self.kind == "jsd" and not 0 <= given <= 1:
            raise UndefinedLoss(f"beta must lie in [0, 1], got {given}")
        if self.kind == "skewed_kl" and not 0 <= given < 1:
            raise UndefinedLoss(
                f"skew must lie in [0, 1), got {given}", hint="skew = 1 compares the teacher with itself"
            )
        object.__setattr__(self, "parameter", given)
        if self.kind == "jsd" and given in (0, 1):
            object.__setattr__(self, "kind", "reverse_kl" if given else "forward_kl")
            object.__setattr__(self, "parameter", None)

    @property
    def label(self) -> str:
        """How a page names it.

        Example:
            >>> Divergence(kind="jsd", parameter=0.3, temperature=2).label
            'JSD (β = 0.3) at temperature 2'
        """
        sign = {"jsd": "β", "skewed_kl": "skew"}.get(self.kind, "")
        parameter = "" if self.parameter is None else f" ({sign} = {self.parameter:g})"
        temperature = "" if self.temperature == 1 else f" at temperature {self.temperature:g}"
        return f"{DIVERGENCE_NAMES[self.kind]}{parameter}{temperature}"

    @property
    def teacher_share(self) -> float:
        """The teacher's share in the mixture M of jsd (β) and skewed_kl (the skew); 0 for the others."""
        return self.parameter or 0.0

    @classmethod
    def parse(
        cls, text: str, *, parameters: Mapping[str, float] = DEFAULT_PARAMETERS, temperature: float = 1.0
    ) -> Divergence:
        """Read `kind`, `kind(parameter)`, `kind@temperature`; the inverse of `str`.

        Args:
            text: such as "reverse_kl", "jsd(0.3)" or "skewed_kl(0.1)@2".
            parameters: of each kind, where the text gives none.
            temperature: where the text gives none.

        Raises:
            UndefinedLoss: the text is not a divergence.
        """
        found = _DIVERGENCE.fullmatch(text.strip())
        kind = next((known for known in DIVERGENCES if found is not None and known == found["kind"]), None)
        if found is None or kind is None:
            raise UndefinedLoss(f"unknown divergence {text!r}", hint=f"accepted: {', '.join(DIVERGENCES)}")
        try:
            parameter = parameters.get(kind) if found["parameter"] is None else float(found["parameter"])
            own = temperature if found["temperature"] is None else float(found["temperature"])
        except ValueError:
            raise UndefinedLoss(f"divergence {text!r}: its parameter or temperature is no number") from None
        return cls(kind=kind, parameter=parameter, temperature=own)

    def __str__(self) -> str:
        parameter = "" if self.parameter is None else f"({self.parameter!r})"
        return f"{self.kind}{parameter}" + ("" if self.temperature == 1 else f"@{self.temperature!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LossTerm:
    """One term of a weighted sum: a divergence, a policy gradient, or the cross-entropy on the tokens if neither."""

    weight: float
    divergence: Divergence | None = None
    policy: PolicyGradient | None = None

    @property
    def is_cross_entropy(self) -> bool:
        return self.divergence is None and self.policy is None

    @classmethod
    def parse(
        cls, text: str, *, parameters: Mapping[str, float] = DEFAULT_PARAMETERS, temperature: float = 1.0
    ) -> LossTerm:
        """Read an entry of `loss.add`: DIVERGENCE:WEIGHT, such as "reverse_kl:0.5" or "jsd(0.3):2".

        Args: as of `Divergence.parse`.

        Raises:
            UndefinedLoss: the text is not a divergence and a weight of at least 0.
        """
        name, _, number = text.rpartition(":")
        try:
            weight = float(number)
            if math.isfinite(weight) and weight >= 0:
                divergence = Divergence.parse(name, parameters=parameters, temperature=temperature)
                return cls(weight=weight, divergence=divergence)
            reason = f"the weight is {number.strip()}"
        except ValueError as error:
            reason = error.message if isinstance(error, UndefinedLoss) else "the weight is no number"
        raise UndefinedLoss(
            f"loss.add: {text!r} is not a divergence and its weight",
            details=[reason],
            hint=f'write it as "reverse_kl:0.5"; accepted: {", ".join(DIVERGENCES)}',
        )

    def __str__(self) -> str:
        return f"{self.divergence or self.policy or 'cross_entropy'}:{self.weight!r}"


def exactly(temperature: float) -> str:
    """What to type for it: tails are found by the number itself, so 1/0.3 must not be cut to 3.33333.

    Example:
        >>> exactly(2.0), exactly(1 / 0.3)
        ('2', '3.3333333333333335')
    """
    short = f"{temperature:g}"
    return short if float(short) == temperature else repr(temperature)
