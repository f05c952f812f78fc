"""Disjoint sets of prompts by the hash of their ids."""

from __future__ import annotations

import pytest

from thack.data import Record, split_by_hash
from thack.errors import UsageError


def records(count: int) -> list[Record]:
    return [Record(prompt_id=str(i // 2), prompt=str(i // 2), response=str(i)) for i in range(count)]


def test_no_prompt_is_in_two_sets_and_no_sample_is_lost() -> None:
    found = split_by_hash(records(20), {"a": 3, "b": 5})
    ids = {name: {record.prompt_id for record in chosen} for name, chosen in found.items()}
    assert {name: len(prompts) for name, prompts in ids.items()} == {"a": 3, "b": 5}
    assert not ids["a"] & ids["b"]
    assert all(len(chosen) == 2 * len(ids[name]) for name, chosen in found.items())


def test_the_order_of_the_records_does_not_matter_and_the_salt_does() -> None:
    def prompts(given: list[Record], salt: str = "") -> set[str]:
        return {record.prompt_id for record in split_by_hash(given, {"a": 4}, salt=salt)["a"]}

    assert prompts(records(20)) == prompts(records(20)[::-1])
    assert prompts(records(60)) != prompts(records(60), "another")


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(UsageError, match=r"want 11 prompts, there are 10 distinct ones\n  a: 11"):
        split_by_hash(records(20), {"a": 11})
