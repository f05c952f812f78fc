"""What every target type can do: be cut into rows, and moved."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor

from thack.schema.targets import TargetSpec
from thack.targets import Target, select

N, V = 5, 12
WORDS = ["dense", "top-k:3", "sampled:3"]


def target(word: str) -> Target:
    logits = torch.randn(N, V, generator=torch.Generator().manual_seed(0))
    keys = torch.zeros(N, 4, dtype=torch.int64)
    keys[:, 1] = torch.arange(N)
    spec = TargetSpec.parse(word)
    if spec.kind == "top-k":
        spec = TargetSpec(kind="top-k", k=3, temperatures=(2.0,))
    return select(logits, spec, width=V, keys_N4=keys)


def tensors(found: Any) -> dict[str, Tensor]:
    values = {f.name: getattr(found, f.name) for f in fields(found)}
    values |= {f"tail at {t}": tail for t, tail in values.pop("log_tail_at", {}).items()}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


@pytest.mark.parametrize("word", WORDS)
def test_rows_of_a_target_are_rows_of_all_its_tensors(word: str) -> None:
    whole = target(word)
    part = whole.rows(slice(1, 4))
    assert type(part) is type(whole) and len(part) == 3 and part.vocab_size == whole.vocab_size == V
    assert tensors(part).keys() == tensors(whole).keys()
    assert all(torch.equal(tensors(part)[name], value[1:4]) for name, value in tensors(whole).items())


@pytest.mark.parametrize("word", WORDS)
def test_a_target_is_moved_with_all_its_tensors(word: str) -> None:
    moved = target(word).to("meta")
    assert {value.device.type for value in tensors(moved).values()} == {"meta"}


def test_an_unknown_tail_stays_unknown() -> None:
    found = target("top-k:3")
    without = type(found)(**{f.name: getattr(found, f.name) for f in fields(found)} | {"log_tail_N": None})
    assert without.rows(slice(2)).log_tail_N is None  # type: ignore[union-attr]
