"""Which records are taken: the same in memory, in files, and by the definition."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thack.data import selection
from thack.data.records import Record
from thack.data.rows import BadLine
from thack.data.selection import select

ROWS = st.lists(st.none() | st.tuples(st.integers(0, 6), st.integers(0, 9).map(lambda n: n // 9)), max_size=60)


def by_definition(rows: list[Record | BadLine], limit: int, one_each: bool) -> tuple[list[int], list[int]]:
    """Numbers of taken records, and of those whose id is another prompt's."""
    prompts: dict[str, str] = {}
    seen: set[str] = set()
    taken, conflicts = [], []
    for number, record in enumerate(rows):
        if isinstance(record, BadLine):
            continue
        if prompts.setdefault(record.prompt_id, record.prompt) != record.prompt:
            conflicts.append(number)
            continue
        is_new = record.prompt_id not in seen
        if is_new and limit and len(seen) == limit:
            continue
        seen.add(record.prompt_id)
        if is_new or not one_each:
            taken.append(number)
    return taken, conflicts


@pytest.mark.parametrize("in_memory", [4, 1 << 17])
@settings(max_examples=60, deadline=None)
@given(found=ROWS, limit=st.integers(0, 5), one_each=st.booleans())
def test_it_is_the_definition(in_memory: int, found: list[tuple[int, int] | None], limit: int, one_each: bool) -> None:
    rows = [
        BadLine("none") if row is None else Record(prompt_id=f"id {row[0]}", prompt=f"{row[0]} {row[1]}")
        for row in found
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "_IN_MEMORY", in_memory)
        chosen = select(rows, limit=limit, one_each=one_each, check_ids=True)
    taken, conflicts = by_definition(rows, limit, one_each)
    assert [number for number in range(len(rows)) if chosen.takes(number)] == taken
    assert sorted(chosen.conflicts) == conflicts
    assert chosen.num_rows == sum(row is not None for row in found)


def test_only_a_record_that_is_taken_makes_responses_long() -> None:
    rows = [Record(prompt_id="a", prompt="a"), Record(prompt_id="b", prompt="", response="b", is_text=True)]
    assert select(rows, limit=0, one_each=False, check_ids=True).is_long
    assert not select(rows, limit=1, one_each=False, check_ids=True).is_long
