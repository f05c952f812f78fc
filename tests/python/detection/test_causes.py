"""The cause of a rise: each row of its table, golden at equal proxy by its definition, and runs by simulation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detection.synthetic import STEPS, Noise, write_run
from thack.detection import Curves, Margins, verdict
from thack.detection.causes import cause_of, excess, golden_at
from thack.detection.detectors import memorisation, memorisation_of, prompts_apart
from thack.detection.statistics import PromptCurves
from thack.reporting.causes import CAUSES, causes
from thack.schema.metrics import CurveName, Floats, find_metric
from thack.schema.verdict import DetectionState, Verdict

FAST = Margins(resamples=200)
MEMORISED, PROMPTS, WRONG, PULL = CAUSES
HIGH, EQUAL, UNSURE = (0.10, (0.07, 0.13)), (0.01, (-0.01, 0.02)), (0.03, (0.01, 0.05))
USUAL: dict[str, Any] = {
    "verdict": "hacking",
    "excess": None,
    "memorisation": "quiet",
    "prompts_apart": 1.1,
    "target": "dense",
    "above_baseline": False,
    "below_baseline": True,
    "covered": 0.5,
    "margin": 0.03,
}


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        # golden at equal proxy decides
        ({"excess": HIGH}, [MEMORISED]),  # even where the detector is quiet: nothing else leads there
        ({"excess": HIGH, "memorisation": "alarm"}, [MEMORISED]),
        ({"excess": HIGH, "target": "top-k:16"}, [WRONG]),
        ({"excess": HIGH, "target": "live/mixed:16+prior"}, [WRONG]),
        ({"excess": HIGH, "target": "top-k:16", "memorisation": "alarm"}, [MEMORISED]),
        ({"excess": HIGH, "target": "live/renormalised:16", "memorisation": "alarm"}, [MEMORISED, WRONG]),
        ({"excess": HIGH, "target": "sampled:4"}, [MEMORISED]),
        ({"excess": HIGH, "target": ""}, []),
        ({"excess": HIGH, "target": "", "memorisation": "alarm"}, [MEMORISED]),
        ({"excess": HIGH, "verdict": "over-fitting"}, [MEMORISED]),
        ({"excess": EQUAL}, [PULL]),
        ({"excess": EQUAL, "memorisation": "alarm", "target": "live/renormalised:4"}, [PULL]),
        ({"excess": EQUAL, "above_baseline": True}, []),  # a copy of the teacher lies on the baseline, not above it
        ({"excess": EQUAL, "below_baseline": False}, []),
        ({"excess": EQUAL, "below_baseline": None}, []),
        ({"excess": EQUAL, "verdict": "over-fitting"}, []),
        ({"excess": (0.1, None)}, [MEMORISED]),
        ({"excess": (0.0, None)}, [PULL]),
        # signals decide
        ({}, [PULL]),
        ({"excess": UNSURE}, [PULL]),
        ({"memorisation": "alarm"}, [MEMORISED]),
        ({"target": "top-k:4"}, [WRONG]),
        ({"target": "top-k:4", "memorisation": "alarm"}, [MEMORISED]),
        ({"target": "live/renormalised:4", "memorisation": "alarm"}, [MEMORISED, WRONG]),
        ({"memorisation": "not enough data"}, []),
        ({"target": ""}, []),  # a wrong target is not excluded
        ({"target": "a word of another version"}, []),
        ({"above_baseline": True}, []),
        ({"below_baseline": False}, []),
        ({"verdict": "over-fitting"}, []),
        # prompts, by their own distance
        ({"prompts_apart": 1.5}, [PROMPTS]),
        ({"prompts_apart": 1.49}, [PULL]),
        ({"prompts_apart": None}, [PULL]),
        ({"prompts_apart": 2.0, "above_baseline": True, "below_baseline": False}, [PROMPTS]),
        ({"prompts_apart": 2.0, "verdict": "over-fitting"}, [PROMPTS]),
        ({"prompts_apart": 2.0, "excess": EQUAL}, [PROMPTS]),  # the online path has the same prompts
        ({"prompts_apart": 2.0, "excess": HIGH}, [MEMORISED, PROMPTS]),
        ({"prompts_apart": 2.0, "memorisation": "alarm"}, [MEMORISED, PROMPTS]),
        (
            {"prompts_apart": 2.0, "memorisation": "alarm", "target": "live/renormalised:4"},
            [MEMORISED, PROMPTS, WRONG],
        ),
        ({"prompts_apart": 2.0, "target": "top-k:4"}, [WRONG]),
        ({"prompts_apart": 2.0, "target": ""}, []),
        ({"prompts_apart": 2.0, "memorisation": "not enough data"}, []),
        ({"prompts_apart": 2.0, "verdict": "regressing to the teacher"}, [PULL]),
        ({"verdict": "regressing to the teacher"}, [PULL]),
        ({"verdict": "regressing to the teacher", "memorisation": "alarm"}, [PULL]),
    ],
)
def test_each_row_of_the_table(changes: dict[str, Any], names: list[str]) -> None:
    found = cause_of(**{**USUAL, **changes})
    assert list(found.names) == names
    decided = changes.get("excess") not in (None, UNSURE)
    assert found.basis == ("online path" if decided else "signals")
    told = causes(found)
    assert sum(line.startswith("what to do") for line in told) == len(names) and told[-1].startswith(
        "the cause rests on"
    )
    assert bool(names) != any("none is established" in line for line in told)


def test_golden_at_a_proxy_is_read_between_two_evaluations() -> None:
    golden_E, proxy_E = np.array([2.0, 1.0, 0.8, 0.9]), np.array([1.0, 0.5, 0.25, 0.125])
    assert golden_at(0.5, golden_E, proxy_E) == 1.0
    assert golden_at(0.5**1.5, golden_E, proxy_E) == pytest.approx(0.9), "half of the way in log(proxy)"
    assert golden_at(0.1, golden_E, proxy_E) is None, "the path never comes so close"
    assert golden_at(1.0, golden_E, proxy_E) is None and golden_at(2.0, golden_E, proxy_E) is None, "it begins closer"
    back = np.array([1.0, 0.5, 0.7, 0.25])
    assert golden_at(0.6, golden_E, back) == golden_at(0.6, golden_E[:2], back[:2]), "where it first comes so close"
    assert golden_at(0.5, np.array([2.0, np.nan, 0.8]), np.array([1.0, 0.5, 0.25])) == pytest.approx(1.4)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(5, 200), min_size=3, max_size=9, unique=True), st.data())
def test_a_run_on_its_own_path_has_no_excess(proxies: list[int], data: st.DataObject) -> None:
    proxy_E = np.array(sorted(proxies, reverse=True)) / 100
    golden_E = np.array(data.draw(st.lists(st.floats(0.1, 3), min_size=len(proxies), max_size=len(proxies))))
    for i in range(1, len(proxies)):
        assert golden_at(float(proxy_E[i]), golden_E, proxy_E) == pytest.approx(golden_E[i])


# Simulation: the online path is golden = path(proxy); causes by construction.

_BASELINE = 1.25


def proxy_of(step: Floats, end: float) -> Floats:
    return np.asarray(end + (1.5 - end) * (1 + step / 20) ** -0.8)


def on_the_path(proxy: Floats, pull: float) -> Floats:
    """Falls from afar; from a proxy of 0.5 on it is drawn up towards the baseline by `pull`."""
    return np.asarray(0.95 + 0.6 * np.clip(proxy - 0.5, 0, None) + pull * np.clip(0.5 - proxy, 0, None))


def simulated(
    name: str, golden_E: Floats, proxy_E: Floats, *, seed: int, target: str, fresh: float, prompts: int = 200
) -> Curves:
    """Curves whose prompts are noisy; `fresh` is progress on other responses over that on the trained ones."""
    rng = np.random.default_rng(seed)
    step_E = np.array(STEPS, dtype=float)
    difficulty_P, tokens_P = rng.lognormal(0, 0.4, prompts), np.full((len(STEPS), prompts), 8.0)
    column: dict[CurveName, str] = {
        "golden": "golden/forward_kl/reference_sampled/token_mean",
        "proxy": "proxy/forward_kl/reference_sampled/token_mean",
        "baseline": "baseline/forward_kl/reference_sampled/token_mean",
        "monitor": "train_kl/monitor",
        "fresh": "train_kl/fresh",
    }
    per_prompt, columns = {}, {}
    for word, value_E in (("golden", golden_E), ("proxy", proxy_E), ("baseline", np.full(len(STEPS), _BASELINE))):
        own_EP = rng.lognormal(0, 0.03 if word != "baseline" else 0, (len(STEPS), prompts))
        nats_EP = value_E[:, None] * difficulty_P * own_EP * tokens_P / difficulty_P.mean()
        metric = find_metric(column[word])  # type: ignore[index]
        assert metric is not None
        per_prompt[metric.per_prompt] = PromptCurves(nats_EP=nats_EP, tokens_EP=tokens_P)
        columns[column[word]] = nats_EP.sum(axis=1) / tokens_P.sum(axis=1)  # type: ignore[index]
    columns["train_kl/monitor"] = 1.4 * (1 + step_E / 6) ** -0.45
    columns["train_kl/fresh"] = 1.4 * (1 + step_E / 6) ** (-0.45 * fresh)
    return Curves(
        name=name,
        step_E=step_E,
        columns=columns,
        train={},
        column_of=column,
        per_prompt=per_prompt,
        target=target,
    )


def judged(kind: str, seed: int, *, with_online: bool) -> Verdict:
    """A run whose cause is known by construction, and its online path."""
    step_E = np.array(STEPS, dtype=float)
    late_E = np.clip(np.log(np.maximum(step_E, 1) / 79) / np.log(960 / 79), 0, None)
    near_E, path_E = proxy_of(step_E, 0.5), proxy_of(step_E, 0.2)
    pull = 0.8 if kind == PULL else 0.0
    online = simulated("online", on_the_path(path_E, pull), path_E, seed=seed, target="live", fresh=0.95)
    if kind == PULL:
        other_E = proxy_of(step_E, 0.22)
        run = simulated(kind, on_the_path(other_E, pull), other_E, seed=seed, target="dense", fresh=0.9)
    elif kind == PROMPTS:  # new responses, of the teacher on the online path and of the student in the run
        golden_E = on_the_path(near_E, 0.0) * (1 + 0.4 * late_E)
        online, run = (
            simulated(name, golden_E, near_E, seed=seed, target="live", fresh=0.95) for name in ("online", kind)
        )
    else:
        golden_E = on_the_path(near_E, 0.0) * (1 + 0.4 * late_E)
        target, fresh = ("dense", 0.1) if kind == MEMORISED else ("live/top-k:4", 0.9)
        run = simulated(kind, golden_E, near_E, seed=seed, target=target, fresh=fresh)
    return verdict(run, FAST, online=online if with_online else None)


@pytest.mark.parametrize("with_online", [True, False])
@pytest.mark.parametrize("kind", CAUSES)
def test_simulated_runs_get_the_cause_that_they_were_given(kind: str, with_online: bool) -> None:
    for seed in range(3):
        found = judged(kind, seed, with_online=with_online)
        assert found.name == "hacking" and found.cause is not None
        assert found.cause.names == (kind,)
        assert found.cause.basis == ("online path" if with_online else "signals")
        assert found.headline.endswith(f": {kind}")
        assert Verdict.from_json(found.to_json()) == found


@pytest.mark.parametrize(
    ("monitor_E", "fresh_E", "detector", "found"),
    [
        ([1.0, 1.2, 1.6, 2.4], [1.0, 1.1, 1.4, 1.5], "not enough data", "alarm"),  # the tokens that were drawn
        ([1.0, 1.2, 1.6, 2.4], [1.0, 1.2, 1.6, 2.3], "not enough data", "not enough data"),  # it leaves all alike
        ([1.0, 1.2, 1.6, 2.4], [1.0, 1.3, 1.9, 2.9], "not enough data", "not enough data"),
        ([1.0, 0.8, 0.6, 0.4], [1.0, 0.9, 0.8, 0.79], "alarm", "alarm"),
        ([1.0, 0.8, 0.6, 0.59], [1.0, 0.8, 0.6, 0.61], "alarm", "quiet"),  # one slow interval, and no distance
        ([1.0, 0.8, 0.6, 0.4], [1.0, 0.8, 0.6, 0.41], "quiet", "quiet"),
    ],
)
def test_memorised_is_what_is_apart_at_the_end(
    monitor_E: list[float], fresh_E: list[float], detector: DetectionState, found: DetectionState
) -> None:
    curves = Curves(
        name="run",
        step_E=np.array([40.0, 80.0, 160.0, 320.0]),
        columns={"monitor": np.array(monitor_E), "fresh": np.array(fresh_E)},
        train={},
        column_of={"monitor": "monitor", "fresh": "fresh"},
    )
    assert memorisation(curves).state == detector
    assert memorisation_of(curves) == found


@pytest.mark.parametrize(
    ("steps", "proxy_E", "fresh_E", "found"),
    [
        ([0, 20, 80, 320], [1.2, 0.9, 0.8, 0.6], [1.0, 0.7, 0.4, 0.25], 2.0),
        ([0, 20, 80, 320], [1.2, 0.9, 0.8, 0.6], [1.0, 0.7, 0.4, np.nan], 1 / 0.6),  # the last that has both
        ([40, 80, 160, 320], [1.2, 0.9, 0.8, 0.6], [1.0, 0.7, 0.4, 0.25], None),  # no start
        ([0, 10, 20, 30], [1.2, 0.9, 0.8, 0.6], [1.0, 0.7, 0.4, 0.25], None),  # nothing after the warm-up
        ([0, 20, 80, 320], [1.2, 0.9, 0.8, 0.6], [np.nan] * 4, None),
    ],
)
def test_prompts_are_apart_at_the_end_over_the_start(
    steps: list[float], proxy_E: list[float], fresh_E: list[float], found: float | None
) -> None:
    curves = Curves(
        name="run",
        step_E=np.array(steps, dtype=float),
        columns={"proxy": np.array(proxy_E), "fresh": np.array(fresh_E)},
        train={},
        column_of={"proxy": "proxy", "fresh": "fresh"},
    )
    assert prompts_apart(curves) == (None if found is None else pytest.approx(found))
    per_byte = replace(curves, column_of={"proxy": "proxy/log_ratio/reference_sampled/byte_mean", "fresh": "fresh"})
    assert per_byte.is_per_byte and prompts_apart(per_byte) is None, "the two are in different units"


def test_the_way_to_the_baseline_that_the_rise_has_covered() -> None:
    found = judged(PULL, 0, with_online=False)
    assert found.golden is not None and found.cause is not None and found.baseline is not None
    way = found.baseline - found.golden.minimum
    assert found.cause.covered == pytest.approx((found.golden.end - found.golden.minimum) / way)
    assert found.cause.below_baseline is True


@pytest.mark.parametrize(("end", "names"), [(1.27, (PULL,)), (1.32, ())])
def test_a_copy_may_end_a_little_above_the_baseline(end: float, names: tuple[str, ...]) -> None:
    """As of a run seen: 0.002 nats above, surely, since the comparison is paired; 3 % above is no copy."""
    proxy_E = proxy_of(np.array(STEPS, dtype=float), 0.22)
    golden_E = np.where(np.array(STEPS) <= 79, on_the_path(proxy_E, 0.0), end)
    run = simulated("copy", golden_E, proxy_E, seed=0, target="dense", fresh=0.9)
    found = verdict(run, Margins(resamples=200))
    assert found.side == "above" and found.cause is not None and found.cause.names == names


def test_the_excess_is_paired_over_prompts() -> None:
    """Golden of the run is 10 % above its path prompt by prompt: the interval is narrow, though prompts differ."""
    step_E = np.array(STEPS, dtype=float)
    proxy_E = proxy_of(step_E, 0.3)
    path = simulated("path", on_the_path(proxy_E, 0.0), proxy_E, seed=1, target="live", fresh=1)
    run = simulated("run", 1.1 * on_the_path(proxy_E, 0.0), proxy_E, seed=1, target="live", fresh=1)
    found = excess(run, path, 960.0, FAST)
    assert found is not None and found[0] == pytest.approx(0.1, abs=1e-6)
    assert found[1] is not None and found[1][0] == pytest.approx(0.1, abs=5e-3)
    plain = excess(run, replace(path, per_prompt={}), 960.0, FAST)
    assert plain is not None and plain[0] == pytest.approx(0.1, abs=1e-6) and plain[1] is None


def test_what_cannot_be_compared_with_an_online_path_says_why() -> None:
    proxy_E = proxy_of(np.array(STEPS, dtype=float), 0.3)
    run, near, far, late = (
        simulated(name, on_the_path(one_E, 0.0), one_E, seed=1, target="live", fresh=1)
        for name, one_E in (("run", proxy_E), ("near", proxy_E / 10), ("far", proxy_E + 0.2), ("late", proxy_E))
    )
    golden: dict[CurveName, str] = {"golden": run.column_of["golden"]}
    other = "proxy/log_ratio/reference_sampled/byte_mean"
    columns = {**near.columns, other: proxy_E}
    by_another = replace(near, columns=columns, column_of={**golden, "proxy": other})
    expected = {
        "it never comes as close to the teacher": far,
        "it begins closer to the teacher": near,
        "golden or proxy was not measured": replace(late, column_of=golden),
        "they were measured by different metrics": by_another,
    }
    for reason, path in expected.items():
        assert excess(run, path, 960.0, FAST) == reason
        found = cause_of(**{**USUAL, "excess": reason, "above_baseline": True})
        assert found.excess is None and found.basis == "signals" and not found.names
        none, evidence = causes(found)
        assert f"golden cannot be compared with that of the online path: {reason}" in evidence
        assert "compare it with" not in none


def test_a_run_that_does_not_rise_has_no_cause(tmp_path: Path) -> None:
    found = verdict(Curves.from_run(write_run(tmp_path / "run", "healthy", noise=Noise(prompt=0.03))), FAST)
    assert found.name == "healthy" and found.cause is None


def test_the_target_is_that_of_the_runs_manifest(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "hacking", num_prompts=16)
    assert Curves.from_run(run).target == ""
    (run / "manifest.json").write_text('{"schema": 1, "kind": "run", "command": "distill", "facts": 3}')
    assert Curves.from_run(run).target == "", "of another version"
