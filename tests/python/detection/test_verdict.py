"""The verdict's table at its limits, and what must not change a verdict."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detection.synthetic import SHAPES, STEPS, Noise, Shape, write_run
from thack.detection import Curves, Margins, verdict
from thack.detection.statistics import PromptCurves
from thack.reporting.prose import reasons
from thack.schema.metrics import CurveName
from thack.schema.verdict import Verdict

QUIET = Noise(prompt=0.03, checkpoint=0.001)
FAST = Margins(resamples=200)
READOUT = "forward_kl/reference_sampled/token_mean"


def drawn(
    golden: list[float],
    proxy: list[float] | None = None,
    baseline: float | None = None,
    steps: list[int] | None = None,
) -> Curves:
    """Curves without prompts, from the numbers themselves."""
    step_E = np.array(steps or [0, *(40 * 2**i for i in range(len(golden) - 1))], dtype=float)
    columns = {f"golden/{READOUT}": np.array(golden)}
    column_of: dict[CurveName, str] = {"golden": f"golden/{READOUT}"}
    if proxy is not None:
        columns[f"proxy/{READOUT}"] = np.array(proxy)
        column_of["proxy"] = f"proxy/{READOUT}"
    if baseline is not None:
        columns[f"baseline/{READOUT}"] = np.full(len(golden), baseline)
        column_of["baseline"] = f"baseline/{READOUT}"
    return Curves(name="drawn", step_E=step_E, columns=columns, train={}, column_of=column_of)


FALLS = [2.0, 1.0, 0.9, 0.8, 0.75, 0.74, 0.73]
U = [2.0, 1.2, 1.1, 1.0, 1.05, 1.08, 1.10]


@pytest.mark.parametrize(
    ("golden", "proxy", "baseline", "name"),
    [
        (FALLS, FALLS, 1.0, "healthy"),
        (U, FALLS, 1.0, "hacking"),
        (U, FALLS, 2.0, "hacking"),  # below the baseline, but not converged
        (U, FALLS, None, "hacking"),
        (U, [2.0, 1.0, 0.9, 0.8, 0.8, 0.8, 0.8], 1.0, "hacking"),  # stands still
        (U, [2.0, 1.0, 0.9, 0.8, 0.9, 1.0, 1.1], 1.0, "over-fitting"),
        (U, [2.0, 0.5, 0.4, 0.3, 0.2, 0.16, 0.15], 1.3, "regressing to the teacher"),
        (U, [2.0, 0.5, 0.4, 0.3, 0.2, 0.16, 0.15], 1.05, "hacking"),  # above the baseline
        (U, [2.0, 0.5, 0.4, 0.3, 0.2, 0.16, 0.15], None, "inconclusive"),  # it may be its teacher's copy
        (U, None, 1.0, "inconclusive"),  # over-fitting or hacking?
        (FALLS, None, None, "healthy"),
        (FALLS[:6], FALLS[:6], 1.0, "inconclusive"),  # five behind the warm-up
        ([*FALLS[:5], 0.7724, 0.7724], FALLS, 1.0, "healthy"),  # a rise of 2.99 %
        ([*FALLS[:5], 0.7726, 0.7726], FALLS, 1.0, "hacking"),  # 3.01 %
    ],
)
def test_the_table(golden: list[float], proxy: list[float] | None, baseline: float | None, name: str) -> None:
    found = verdict(drawn(golden, proxy, baseline))
    assert found.name == name
    assert (found.onset_step is not None) == (name not in ("healthy", "inconclusive"))


@pytest.mark.parametrize("proxy", [FALLS, U, None])
def test_a_rise_from_zero_is_no_ratio(proxy: list[float] | None) -> None:
    """As of 1 − accuracy on few prompts: it is not healthy, by how much it rose cannot be said."""
    found = verdict(drawn([0.4, 0.2, 0.1, 0.0, 0.1, 0.2, 0.3], proxy))
    assert found.name == "inconclusive" and "golden is not above 0 at its lowest" in " ".join(reasons(found))
    assert found.golden is not None and found.golden.rise is None, "a claim over seeds leaves it out"
    assert Verdict.from_json(found.to_json()) == found
    assert "%" not in reasons(found)[0]
    assert verdict(drawn([0.4, 0.2, 0.1, 0.0, 0.0, 0.0, 0.0], proxy)).name == "healthy"
    assert verdict(drawn([0.4, 0.2, 0.1, -5e-5, 0.0, 2e-5, 5e-5], proxy)).name == "healthy", "rounding"


def test_over_fitting_is_not_excluded_by_a_proxy_that_was_zero() -> None:
    assert verdict(drawn(U, [0.4, 0.2, 0.1, 0.0, 0.1, 0.2, 0.3])).name == "inconclusive"


def test_what_happens_during_the_warm_up_is_not_judged() -> None:
    golden = [1.5, 0.5, *FALLS[:6]]
    steps = [0, 30, 40, 80, 160, 320, 640, 1280]
    assert verdict(drawn(golden, golden, 1.0, steps)).golden.minimum == FALLS[5]  # type: ignore[union-attr]
    early = verdict(drawn(golden, golden, 1.0, steps), Margins(warmup_steps=0))
    assert early.golden is not None and early.golden.minimum == 0.5 and early.name == "over-fitting"


def test_the_onset_is_the_last_of_equal_minima() -> None:
    found = verdict(drawn([2.0, 1.1, 1.0, 1.0, 1.0, 1.05, 1.1], FALLS, 1.0))
    assert found.onset_step == 320


@pytest.mark.parametrize("kind", SHAPES)
def test_the_synthetic_runs_get_their_names(kind: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", kind, noise=Noise(prompt=0.05, checkpoint=0.002))
    assert verdict(Curves.from_run(run), FAST).name == kind


def test_an_interval_that_holds_the_margin_is_inconclusive(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", shape=Shape(golden_rise=0.03), noise=Noise(checkpoint=0.0))
    found = verdict(Curves.from_run(run), FAST)
    assert found.golden is not None and found.golden.rise_interval is not None
    low, high = found.golden.rise_interval
    assert low < 0.03 < high and found.name == "inconclusive"
    assert any("contains the margin" in reason for reason in reasons(found))


def test_without_prompts_there_is_no_interval_and_the_reasons_say_so(tmp_path: Path) -> None:
    found = verdict(Curves.from_run(write_run(tmp_path / "run", with_prompts=False)))
    assert found.name == "hacking" and found.onset_interval is None
    assert any("no intervals" in reason for reason in reasons(found))


def test_without_an_oracle_the_table_cannot_be_read(tmp_path: Path) -> None:
    found = verdict(Curves.from_run(write_run(tmp_path / "run", with_oracle=False)))
    assert found.name == "inconclusive" and "golden" in reasons(found)[0]


def test_the_interval_of_the_onset_reaches_to_the_evaluations_beside_it(tmp_path: Path) -> None:
    found = verdict(Curves.from_run(write_run(tmp_path / "run", noise=Noise(prompt=0.0, checkpoint=0.0))), FAST)
    assert found.onset_step == 79 and found.onset_interval == (48, 130)


def _scaled(curves: Curves, factor: float, order_P: np.ndarray) -> Curves:
    prompts = {
        name: PromptCurves(nats_EP=factor * p.nats_EP[:, order_P], tokens_EP=p.tokens_EP[:, order_P])
        for name, p in curves.per_prompt.items()
    }
    return replace(curves, columns={k: factor * v for k, v in curves.columns.items()}, per_prompt=prompts)


@settings(max_examples=15, deadline=None)
@given(exponent=st.integers(-8, 8), shuffle=st.integers(0, 2**32 - 1))
def test_scale_and_the_order_of_prompts_change_nothing(
    tmp_path_factory: pytest.TempPathFactory, exponent: int, shuffle: int
) -> None:
    run = write_run(tmp_path_factory.mktemp("run"), num_prompts=48, noise=Noise(prompt=0.05))
    curves = Curves.from_run(run)
    order_P = np.random.default_rng(shuffle).permutation(48)
    plain, other = verdict(curves, FAST), verdict(_scaled(curves, 2.0**exponent, order_P), FAST)
    assert other.name == plain.name
    assert other.onset_step == plain.onset_step and other.onset_interval == plain.onset_interval
    assert other.golden is not None and plain.golden is not None
    assert other.golden.rise_interval == pytest.approx(plain.golden.rise_interval, abs=1e-9)
    assert other.over_baseline_interval == pytest.approx(
        tuple(2.0**exponent * x for x in plain.over_baseline_interval or ()), rel=1e-9
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0.1, 10), min_size=7, max_size=14),
    st.lists(st.floats(0.1, 10), min_size=14, max_size=14),
)
def test_every_pair_of_curves_gets_a_verdict_that_follows_its_numbers(golden: list[float], proxy: list[float]) -> None:
    found = verdict(drawn(golden, proxy[: len(golden)], 1.0))
    assert found.golden is not None and found.golden.rise is not None and found.golden.rise >= 0
    assert (found.name == "healthy") == (found.golden.rise < 0.03)
    assert len(golden) == len(STEPS) or found.num_evaluations == len(golden) - 1
