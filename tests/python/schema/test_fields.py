"""Bounds accept what their text says."""

from __future__ import annotations

import pytest

from thack.schema.fields import FRACTION, SEED, Above, AtLeast, Between, Bound, Each


@pytest.mark.parametrize(
    ("bound", "text", "accepted", "refused"),
    [
        (AtLeast(1), "1 or more", [1, 7], [0, -1]),
        (Above(0), "more than 0", [1e-9, 3], [0, -2]),
        (FRACTION, "between 0 and 1", [0, 0.5, 1], [-0.1, 1.1]),
        (Between(0, 1, without_high=True), "at least 0 and below 1", [0, 0.99], [1, -1]),
        (Between(0, 1, without_low=True), "above 0 and at most 1", [0.01, 1], [0, 2]),
        (Between(0, 1, without_low=True, without_high=True), "above 0 and below 1", [0.5], [0, 1]),
        (SEED, "between 0 and 2^64 − 1", [0, 2**64 - 1], [-1, 2**64]),
        (Each(Above(0)), "a list, each more than 0", [(), (1.0, 2.0)], [(1.0, 0.0)]),
    ],
    ids=str,
)
def test_a_bound_accepts_what_its_text_says(
    bound: Bound, text: str, accepted: list[object], refused: list[object]
) -> None:
    assert str(bound) == text
    assert all(map(bound.accepts, accepted))
    assert not any(map(bound.accepts, refused))
