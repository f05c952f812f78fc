"""Settings as the values that the computation uses, and back."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thack.config import CacheSettings, LossSettings, TargetSettings
from thack.config.specs import cache_settings, divergence_of, loss_terms, target_settings, target_spec
from thack.errors import UndefinedLoss, UsageError
from thack.schema.targets import DivergenceKind, TargetSpec


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        (CacheSettings(kind="dense"), "dense"),
        (CacheSettings(kind="top-k", top_k=64), "top-k:64"),
        (CacheSettings(kind="sampled", sampled=4), "sampled:4"),
        (TargetSettings(), "live"),
        (TargetSettings(kind="top-k", k=8), "live/top-k:8"),
        (TargetSettings(kind="sampled", k=16, redraw=True), "live/sampled:16+redraw"),
        (TargetSettings(kind="mixed", k=16, tail_prior=1.0), "live/mixed:16+prior"),
        (TargetSettings(kind="mixed", k=16, tail_draws=4), "live/mixed:16+4"),
        (TargetSettings(kind="mixed", k=16, tail_draws=4, tail_prior=0.5), "live/mixed:16+prior+4"),
    ],
)
def test_settings_name_a_target(settings: CacheSettings | TargetSettings, word: str) -> None:
    spec = target_spec(settings)
    assert spec == TargetSpec.parse(word) and str(spec) == word
    if isinstance(settings, TargetSettings):
        assert target_settings(spec) == settings
    else:
        assert target_spec(cache_settings(CacheSettings(), spec)) == spec


@given(st.lists(st.floats(0.05, 100), max_size=4))
def test_temperatures_are_sorted_and_1_is_always_there(temperatures: list[float]) -> None:
    spec = target_spec(CacheSettings(temperatures=tuple(temperatures)))
    assert list(spec.temperatures) == sorted(set(temperatures) - {1.0})


@pytest.mark.parametrize(
    "settings",
    [
        CacheSettings(kind="sampled", temperatures=(2.0,)),
        CacheSettings(temperatures=(1e-3,)),
        TargetSettings(kind="mixed"),
        TargetSettings(kind="top-k", tail_draws=4),
        TargetSettings(kind="top-k", redraw=True),
    ],
)
def test_combinations_that_cannot_be_made_are_refused(settings: CacheSettings | TargetSettings) -> None:
    with pytest.raises((UsageError, UndefinedLoss)):
        target_spec(settings)


@pytest.mark.parametrize("kind", get_args(DivergenceKind))
def test_a_divergence_has_its_own_parameter_and_the_temperature(kind: DivergenceKind) -> None:
    settings = LossSettings(divergence=kind, beta=0.3, skew=0.2, temperature=2.0)
    found = divergence_of(settings)
    assert (found.kind, found.temperature) == (kind, 2.0)
    assert {"jsd": 0.3, "skewed_kl": 0.2}.get(kind) == (found.parameter if kind in ("jsd", "skewed_kl") else None)
    assert divergence_of(LossSettings(beta=0.3, skew=0.2, temperature=2.0), kind) == found


def test_a_loss_is_the_sum_of_its_terms_without_those_of_weight_0() -> None:
    terms = loss_terms(LossSettings(divergence="jsd", weight=0.5, add=("reverse_kl:0.25",), ce_weight=0.1))
    assert [(term.weight, term.divergence and term.divergence.kind) for term in terms] == [
        (0.5, "jsd"),
        (0.25, "reverse_kl"),
        (0.1, None),
    ]
    assert [term.weight for term in loss_terms(LossSettings())] == [1.0]
    assert [term.divergence for term in loss_terms(LossSettings(weight=0, ce_weight=1))] == [None]


def test_a_term_of_the_sum_can_have_its_own_parameter_and_temperature() -> None:
    add = ("skewed_kl:1", "jsd(0.7):2", "reverse_kl@1:3", "forward_kl:0")
    terms = loss_terms(LossSettings(beta=0.3, skew=0.2, temperature=2.0, add=add))
    assert [str(term) for term in terms] == [
        "forward_kl@2.0:1.0",
        "skewed_kl(0.2)@2.0:1.0",
        "jsd(0.7)@2.0:2.0",
        "reverse_kl:3.0",
    ]


@pytest.mark.parametrize("add", ["reverse_kl", "reverse_kl:", "nothing:1", "reverse_kl:x", ":1"])
def test_a_term_that_is_not_one_is_refused(add: str) -> None:
    with pytest.raises(UndefinedLoss):
        loss_terms(LossSettings(add=(add,)))


def test_a_loss_without_terms_is_refused() -> None:
    with pytest.raises(UndefinedLoss, match="no term of weight above 0"):
        loss_terms(LossSettings(weight=0))
