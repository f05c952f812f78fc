"""Why golden rises: memorised responses or prompts, a wrong target, or the pull of a worse teacher.

The table is in docs/concepts/verdict.md. Two kinds of evidence decide:

- *golden at equal proxy*: golden at the end of the run over the golden that the online path has at the same proxy. The
  online path is the same student on newly sampled responses to the same prompts, and exact targets. A student that
  merely approaches its teacher lies on that path; one that has memorised responses, or learned a wrong target, lies
  above it.
- *signals of the run itself*, where no online path is known, or its comparison does not decide: the detector of
  memorisation, the kind of target, how much farther from the teacher held-out prompts are than training prompts, and
  golden compared with KL(oracle‖teacher).

E evaluations, B resamples, P prompts.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from thack.detection.curves import Curves
from thack.detection.statistics import percentile_interval, prompt_weights
from thack.schema.metrics import CurveName, Floats
from thack.schema.targets import TargetSpec, find_target
from thack.schema.verdict import (
    PROMPTS_APART,
    Cause,
    CauseName,
    DetectionState,
    Incomparable,
    Interval,
    Margins,
    VerdictName,
)

Excess = tuple[float, Interval | None]  # golden's end over the online path's at equal proxy, − 1; its interval


def cause_of(
    verdict: VerdictName,
    *,
    excess: Excess | Incomparable | None,
    memorisation: DetectionState,
    prompts_apart: float | None,
    target: str,
    above_baseline: bool,
    below_baseline: bool | None,
    covered: float | None,
    margin: float,
) -> Cause:
    """The cause of a rise, by the table.

    Args:
        verdict: That golden rises, and what the proxy did.
        excess: At equal proxy, or why the two cannot be compared; None: no online path is known.
        memorisation: What the detector that decides without an oracle found.
        prompts_apart: `detectors.prompts_apart` of the run.
        target: The word of the target; empty: not known.
        above_baseline: Whether golden surely ends above the baseline by the margin.
        below_baseline: Whether golden's minimum is surely below the baseline.
        covered: Share of the way from golden's minimum to the baseline that the rise has covered.
        margin: The excess that counts, as a rise that counts.
    """
    compared, incomparable = (None, excess) if isinstance(excess, str) else (excess, None)
    higher = None if compared is None else _is_higher(compared, margin)
    spec = find_target(target)
    prompts: tuple[CauseName, ...] = ()
    if prompts_apart is not None and prompts_apart >= PROMPTS_APART:
        prompts = ("memorised prompts",)
    # Towards a worse teacher golden rises at most to the baseline, and the proxy falls.
    may_be_pulled = bool(below_baseline) and not above_baseline and verdict != "over-fitting"
    names: tuple[CauseName, ...] = ()
    if higher is not False:
        names = _off_the_path(memorisation, spec, prompts, certain=higher is True)
    if not names and (higher is False or (memorisation == "quiet" and spec is not None)):
        names = prompts or (("pull of the teacher",) if may_be_pulled else ())
    if verdict == "regressing to the teacher":
        names = ("pull of the teacher",)
    return Cause(
        names=names,
        basis="signals" if higher is None else "online path",
        excess=compared[0] if compared else None,
        excess_interval=compared[1] if compared else None,
        incomparable=incomparable,
        memorisation=memorisation,
        prompts_apart=prompts_apart,
        target=target,
        below_baseline=below_baseline,
        covered=covered,
    )


def _off_the_path(
    memorisation: DetectionState, spec: TargetSpec | None, prompts: tuple[CauseName, ...], *, certain: bool
) -> tuple[CauseName, ...]:
    """What leads away from the online path, and prompts that add to it. `certain`: golden is above the path."""
    if memorisation == "alarm":
        # A tail that is stored may be the smaller evil; mass that is left out never is.
        left_out = spec is not None and spec.kind == "renormalised"
        return ("memorised responses", *prompts, *(("wrong target",) if left_out else ()))
    if spec is None:
        return ()
    if spec.biased:
        return ("wrong target",)
    return ("memorised responses", *prompts) if certain else ()


def _is_higher(excess: Excess, margin: float) -> bool | None:
    """Whether golden is above the online path by the margin; None where the interval holds it."""
    low, high = excess[1] or (excess[0], excess[0])
    if low >= margin:
        return True
    return False if high < margin else None


def excess(run: Curves, online: Curves, end_step: float, margins: Margins) -> Excess | Incomparable:
    """Golden at the end of a run over the online path's golden at equal proxy, − 1, with its interval over prompts.

    Args:
        run: With golden and proxy.
        online: The online path, measured on the same evaluation set.
        end_step: The evaluation of `run` that is its end.
        margins: For the level and the number of resamples.

    Returns:
        Why the two cannot be compared, where they cannot. No interval where they were not measured prompt by prompt on
        the same prompts.
    """
    if not all(curves.has(name) for curves in (run, online) for name in _COMPARED):
        return "golden or proxy was not measured"
    if any(run.metric(name) != online.metric(name) for name in _COMPARED):
        return "they were measured by different metrics"
    end = int(np.flatnonzero(run.step_E == end_step)[0])
    golden, proxy = (run.columns[run.column_of[name]][end] for name in _COMPARED)
    path = {name: online.columns[online.column_of[name]] for name in _COMPARED}
    at = golden_at(float(proxy), path["golden"], path["proxy"])
    if at is None:
        return (
            "it begins closer to the teacher"
            if np.any(path["proxy"] <= proxy)
            else "it never comes as close to the teacher"
        )
    return float(golden) / at - 1, _interval(run, online, end, margins)


_COMPARED: tuple[CurveName, ...] = ("golden", "proxy")


def golden_at(proxy: float, golden_E: Floats, proxy_E: Floats) -> float | None:
    """Golden where a path first comes within `proxy` of the teacher, linear in log(proxy) between two evaluations.

    None where the path never does, or begins closer.
    """
    seen_E = np.isfinite(golden_E) & np.isfinite(proxy_E) & (proxy_E > 0)
    golden_E, proxy_E = golden_E[seen_E], proxy_E[seen_E]
    reached = np.flatnonzero(proxy_E <= proxy)
    if not len(reached) or reached[0] == 0:
        return None
    after = int(reached[0])
    far, near = np.log(proxy_E[after - 1 : after + 1])
    part = (far - np.log(proxy)) / (far - near) if far > near else 1.0  # too close to tell apart
    return float((1 - part) * golden_E[after - 1] + part * golden_E[after])


def _interval(run: Curves, online: Curves, end: int, margins: Margins) -> Interval | None:
    own, path = ({name: curves.prompts(name) for name in _COMPARED} for curves in (run, online))
    counts = {None if one is None else one.nats_EP.shape[1] for found in (own, path) for one in found.values()}
    tokens = {None if one is None else tuple(one.tokens_EP[0]) for one in (own["golden"], path["golden"])}
    if None in counts or len(counts) > 1 or len(tokens) > 1:
        return None
    rng = np.random.default_rng(margins.seed)
    weights_BP = prompt_weights(rng, next(iter(counts)) or 0, margins.resamples)
    resampled = [_resampled(curves, weights_BP) for curves in (run, online)]
    ratio_B = np.full(margins.resamples, np.nan)
    for b in range(margins.resamples):
        (golden_E, proxy_E), (path_E, near_E) = ((one["golden"][b], one["proxy"][b]) for one in resampled)
        at = golden_at(float(proxy_E[end]), path_E, near_E)
        ratio_B[b] = np.nan if at is None else golden_E[end] / at - 1
    return percentile_interval(ratio_B, margins.confidence)


def _resampled(curves: Curves, weights_BP: Floats) -> Mapping[CurveName, Floats]:
    """Golden and proxy at every evaluation, in resamples of the prompts."""
    found: dict[CurveName, Floats] = {}
    for name in _COMPARED:
        sums = curves.prompts(name)
        assert sums is not None
        found[name] = (weights_BP @ sums.nats_EP.T) / (weights_BP @ sums.counts_EP.T)
    return found
