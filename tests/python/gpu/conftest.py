"""Every test here runs on the card where there is one, and on a simulated device where there is none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from .simulated import simulated_cuda

PLACE = pytest.param("card", marks=pytest.mark.gpu) if torch.cuda.is_available() else "simulated"


@pytest.fixture(params=[PLACE])
def cuda(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """The device `cuda`."""
    if request.param == "card":
        yield torch.device("cuda")
        return
    with simulated_cuda():
        yield torch.device("cuda")
