"""The record layout: its bytes, its spelling in plan.json, and what no record holds."""

from __future__ import annotations

from typing import Any

import pytest

from thack.cache.format.layout import RecordLayout, bytes_per_token
from thack.errors import ThackError, UsageError
from thack.schema.targets import TargetSpec

V = 151_936
LAYOUTS = [
    RecordLayout(spec=TargetSpec(), vocab_size=1024),
    RecordLayout(spec=TargetSpec(kind="sampled", k=16), vocab_size=V),
    RecordLayout(spec=TargetSpec(kind="top-k", k=64, temperatures=(0.5, 2.0), value_bits=7, tail="none"), vocab_size=V),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: str(layout.spec))
def test_plan_json_spells_it_out(layout: RecordLayout) -> None:
    assert RecordLayout.parse(layout.to_dict()) == layout
    assert layout.metadata()["kind"] == layout.spec.kind


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "mixed"}, "no cache holds"),
        ({"k": 70_000}, "k"),
        ({"k": 0}, "keeps at least one"),
        ({"vocab_size": 3}, "keeps 64 ids of a vocabulary that has 3"),
        ({"value_bits": 9}, "value_bits"),
        ({"value_bits": "8"}, "value_bits is '8'"),
        ({"temperatures": ["2"]}, "temperatures are no numbers"),
        ({"tail": "guessed"}, "tail 'guessed'"),
        ({"codec": 1}, "unknown key 'codec'"),
    ],
)
def test_json_that_is_no_layout_is_refused(changes: dict[str, Any], message: str) -> None:
    found = RecordLayout(spec=TargetSpec(kind="top-k", k=64), vocab_size=V).to_dict()
    with pytest.raises((ThackError, ValueError), match=message):
        RecordLayout.parse(found | changes)


def test_a_record_holds_no_live_target() -> None:
    with pytest.raises(UsageError, match="live/top-k:4 is a live teacher's target"):
        RecordLayout(spec=TargetSpec.parse("live/top-k:4"), vocab_size=V)


@pytest.mark.parametrize(
    ("word", "size"),
    [
        ("dense", 4 * 1024 + 2),
        ("live/sampled:4+redraw", 4 * 1024 + 2),
        ("top-k:2000", RecordLayout(spec=TargetSpec(kind="top-k", k=1024), vocab_size=1024).bytes_per_token),
        ("live/multinomial:4", RecordLayout(spec=TargetSpec(kind="sampled", k=4), vocab_size=1024).bytes_per_token),
        (
            "live/mixed:8+4",
            RecordLayout(spec=TargetSpec(kind="top-k", k=8), vocab_size=1024).bytes_per_token
            + RecordLayout(spec=TargetSpec(kind="sampled", k=4), vocab_size=1024).stride,
        ),
        ("live/mixed:8+prior", RecordLayout(spec=TargetSpec(kind="top-k", k=8), vocab_size=1024).bytes_per_token),
    ],
)
def test_bytes_of_a_target_that_a_cache_would_hold(word: str, size: int) -> None:
    assert bytes_per_token(TargetSpec.parse(word), 1024) == size
