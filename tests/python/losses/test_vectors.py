"""The formulas against tests/vectors/divergences.json, the table that also pins Rust's (rust/kernels/divergence)."""

from __future__ import annotations

import json
import math
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from thack.losses.formulas import Outcomes, row_sums, terms
from thack.schema.targets import Divergence

VECTORS = Path(__file__).parents[2] / "vectors"
TABLE = json.loads((VECTORS / "divergences.json").read_text(encoding="utf-8"))


def column(found: dict[str, Any], name: str) -> Tensor:
    missing = -math.inf if name.startswith("log") else math.inf
    return torch.tensor([missing if o[name] is None else o[name] for o in found["outcomes"]], dtype=torch.float64)


def divergence(found: dict[str, Any]) -> Divergence:
    return Divergence(kind=found["kind"], parameter=found["parameter"])


cases = pytest.mark.parametrize("found", TABLE["divergences"], ids=lambda d: str(divergence(d)))


def test_the_table_is_what_its_definitions_give() -> None:
    assert runpy.run_path(str(VECTORS / "divergences.py"))["text"]() == (VECTORS / "divergences.json").read_text()


@cases
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_terms_and_slopes(found: dict[str, Any], dtype: torch.dtype) -> None:
    f, g = terms(divergence(found), column(found, "log_p").to(dtype), column(found, "log_q").to(dtype))
    rtol, atol = (1e-13, 1e-15) if dtype == torch.float64 else (3e-6, 1e-7)
    torch.testing.assert_close(f.double(), column(found, "f"), rtol=rtol, atol=atol)
    torch.testing.assert_close(g.double(), column(found, "g"), rtol=rtol, atol=atol)


@pytest.mark.parametrize("found", TABLE["divergences"][:-1], ids=lambda d: str(divergence(d)))
def test_the_sums_of_an_evaluation(found: dict[str, Any]) -> None:
    """One row of all outcomes whose term is finite, and one of all; total variation, the last, is not measured."""
    f = column(found, "f")
    finite = torch.isfinite(f)
    rows = [column(found, name)[finite][None] for name in ("log_p", "log_q")]
    torch.testing.assert_close(row_sums(divergence(found), Outcomes(*rows)), f[finite].sum()[None], rtol=1e-12, atol=0)
    everything = [column(found, name)[None] for name in ("log_p", "log_q")]
    assert bool(torch.isinf(row_sums(divergence(found), Outcomes(*everything)))) == (not bool(finite.all()))
