"""Colours: fixed for roles, different for different arms, legible on both kinds of page."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thack.reporting.colours import (
    ALL,
    BETTER,
    GRID,
    INK,
    MUTED,
    OFFLINE,
    ONLINE_TEACHER,
    OTHERS,
    SURFACE,
    WORSE,
    assign,
    doses,
)


def luminance(colour: str) -> float:
    """Relative luminance, as WCAG 2 defines it."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colour", [one for one in ALL if one not in (GRID, SURFACE)], ids=lambda one: one.variable)
def test_curves_and_labels_stand_out_from_the_page(colour: object) -> None:
    """At least 3 : 1, as WCAG asks of graphics; for text 4.5 : 1."""
    least = 4.5 if colour in (INK, MUTED) else 3.0
    assert contrast(colour.light, SURFACE.light) >= least  # type: ignore[attr-defined]
    assert contrast(colour.dark, SURFACE.dark) >= least  # type: ignore[attr-defined]


def test_names_and_values_of_colours_are_unique() -> None:
    """A figure's colours become variables by their value: two of one value would be mixed up."""
    assert len({one.variable for one in ALL}) == len({one.light for one in ALL}) == len(ALL)


def test_roles_have_their_colours_and_nothing_else_has_them() -> None:
    given_ = assign([("plain", "offline"), ("online-teacher", "online-teacher"), ("budget x2", "offline"), ("z", "")])
    assert given_[:2] == [OFFLINE, ONLINE_TEACHER]
    assert given_[2:] == [OTHERS[0], OTHERS[1]]


@given(st.lists(st.tuples(st.text(max_size=3), st.sampled_from(["offline", "mixture", ""])), max_size=6))
def test_few_arms_have_different_colours(arms: list[tuple[str, str]]) -> None:
    found = assign(arms)
    assert len(found) == len(arms)
    assert len(set(found)) == len(found)


def test_many_arms_share_the_last_colours() -> None:
    assert len(assign([(str(i), "") for i in range(40)])) == 40


def test_an_axis_begins_at_offline_and_leads_away_from_it() -> None:
    assert doses(3, worse=True) == [OFFLINE, *WORSE[:2]]
    assert doses(5, worse=False) == [OFFLINE, *BETTER]
