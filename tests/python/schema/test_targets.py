"""The spellings of a target and of a divergence: words, settings, and what is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thack.errors import UndefinedLoss, UsageError
from thack.schema.targets import DIVERGENCES, Divergence, LossTerm, TargetSpec, live_word


@st.composite
def specs(draw: st.DrawFn) -> TargetSpec:
    """Every target that a word names."""
    live = draw(st.booleans())
    kinds = ["dense", "top-k", "sampled"] + (["renormalised", "multinomial", "mixed"] if live else [])
    kind: Any = draw(st.sampled_from(kinds))
    tail: dict[str, Any] = {}
    if kind == "mixed":
        share = draw(st.floats(0, 1))
        tail = {"tail_prior": share, "tail_draws": draw(st.integers(0 if share == 1 else 1, 99))}
    redraw = live and kind in ("sampled", "multinomial", "mixed") and draw(st.booleans())
    k = 0 if kind == "dense" else draw(st.integers(1, 10**6))
    return TargetSpec(kind=kind, k=k, live=live, redraw=redraw, **tail)


@given(specs())
def test_a_word_is_read_as_the_target_that_it_names(spec: TargetSpec) -> None:
    assert TargetSpec.parse(str(spec)) == spec
    assert TargetSpec.parse(live_word(str(spec))) == spec.as_live()
    assert spec.as_live().label == spec.label


@pytest.mark.parametrize(
    "text",
    [
        *("", "top-k:0", "top-k:x", "dense:3", "live:1", "sampled:-1", "live/dense", "mixed:4", "top-k:4+prior"),
        *("live/mixed:4+prior+prior2", "live/mixed:4+1+2", "live/top-k:4+redraw", "sampled:4+redraw"),
        *("renormalised:4", "live/mixed:4", "live/mixed:4+prior=2", "live/mixed:4+prior=e", "live/mixed:4+4+prior"),
        *("live/mixed:4+prior=1.0", "live/mixed:4+prior=0.5+1", "live/live/top-k:4"),
    ],
)
def test_targets_are_read_strictly(text: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"target {text!r}")):
        TargetSpec.parse(text)


MIXED: dict[str, Any] = {"live": True, "kind": "mixed", "k": 16}


@pytest.mark.parametrize(
    ("text", "spec", "label"),
    [
        ("dense", TargetSpec(), "exact"),
        ("live", TargetSpec(live=True), "exact"),
        ("top-k:64", TargetSpec(kind="top-k", k=64), "top-64 + tail"),
        ("live/renormalised:4", TargetSpec(live=True, kind="renormalised", k=4), "top-4 renormalised"),
        ("live/multinomial:4", TargetSpec(live=True, kind="multinomial", k=4), "4 multinomial draws"),
        ("live/mixed:16+prior", TargetSpec(**MIXED, tail_prior=1.0), "top-16 + shared tail prior"),
        ("live/mixed:16+4", TargetSpec(**MIXED, tail_draws=4), "top-16 + 4 tail draws"),
        (
            "live/mixed:16+prior+4",
            TargetSpec(**MIXED, tail_prior=0.5, tail_draws=4),
            "top-16 + shared tail prior + 4 tail draws",
        ),
        (
            "live/mixed:16+prior=0.3+4",
            TargetSpec(**MIXED, tail_prior=0.3, tail_draws=4),
            "top-16 + shared tail prior=0.3 + 4 tail draws",
        ),
        (
            "live/sampled:16+redraw",
            TargetSpec(live=True, kind="sampled", k=16, redraw=True),
            "16 sampled ids + drawn again every epoch",
        ),
    ],
)
def test_the_words_of_a_grid(text: str, spec: TargetSpec, label: str) -> None:
    assert TargetSpec.parse(text) == spec and str(spec) == text and spec.label == label


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "bottom-k", "k": 3}, "no target is of kind 'bottom-k'"),
        ({"kind": "top-k"}, "k = 0: a top-k target keeps at least one"),
        ({"k": 3}, "k = 3: a dense target keeps every id"),
        ({"kind": "mixed", "k": 3, "tail_prior": 1.0}, "no cache holds"),
        ({"kind": "sampled", "k": 3, "redraw": True}, "no cache holds"),
        ({"kind": "top-k", "k": 3, "live": True, "redraw": True}, "a top-k target draws nothing"),
        ({"kind": "mixed", "k": 3, "live": True}, "leaves a share of the tail to no id"),
        ({"kind": "mixed", "k": 3, "live": True, "tail_prior": -0.5, "tail_draws": 1}, "must be in"),
        ({"live": True, "tail_prior": 0.5}, "belong to kind = mixed, not dense"),
        ({"kind": "sampled", "k": 3, "temperatures": (2.0,)}, "temperatures are not defined on sampled"),
        ({"kind": "top-k", "k": 3, "temperatures": (0.01,)}, "up to 16 numbers from 0.05 to 100"),
    ],
)
def test_a_target_that_cannot_be_made_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TargetSpec(**fields)


@given(st.sampled_from(DIVERGENCES), st.floats(0, 1, exclude_max=True), st.floats(0.01, 100))
def test_a_divergence_is_read_as_it_is_written(kind: Any, parameter: float, temperature: float) -> None:
    given_one = parameter if kind in ("jsd", "skewed_kl") else None
    found = Divergence(kind=kind, parameter=given_one, temperature=temperature)
    assert Divergence.parse(str(found)) == found
    term = LossTerm(weight=temperature, divergence=found)
    assert LossTerm.parse(str(term)) == term


def test_jsd_at_its_ends_is_a_kl_divergence() -> None:
    assert Divergence(kind="jsd", parameter=0.0) == Divergence(kind="forward_kl")
    assert Divergence(kind="jsd", parameter=1.0) == Divergence(kind="reverse_kl")
    assert Divergence(kind="jsd").teacher_share == 0.5 and Divergence(kind="skewed_kl").teacher_share == 0.1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "backward_kl"}, "unknown divergence 'backward_kl'"),
        ({"kind": "forward_kl", "parameter": 0.5}, "forward_kl has no parameter"),
        ({"kind": "jsd", "parameter": 1.5}, r"beta must lie in \[0, 1\], got 1.5"),
        ({"kind": "jsd", "parameter": float("nan")}, "beta must lie"),
        ({"kind": "skewed_kl", "parameter": 1.0}, r"skew must lie in \[0, 1\), got 1.0"),
        ({"temperature": 0.0}, "temperature must be finite and above 0"),
        ({"temperature": float("inf")}, "temperature must be finite and above 0"),
    ],
)
def test_a_divergence_out_of_range_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UndefinedLoss, match=message):
        Divergence(**fields)


@pytest.mark.parametrize("text", ["reverse_kl", "revers_kl:1", "reverse_kl:-1", "reverse_kl:nan", "jsd(x):1", ":1"])
def test_an_entry_that_is_no_term_is_named(text: str) -> None:
    with pytest.raises(UndefinedLoss, match="is not a divergence and its weight") as raised:
        LossTerm.parse(text)
    assert repr(text) in raised.value.message
