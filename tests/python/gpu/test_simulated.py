"""The simulated device refuses what a card would refuse, and computes what the CPU computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Thread
from typing import Any

import pytest
import torch
from torch import Tensor

from .host import HostCopies, HostCopy
from .simulated import MixedDevices, SimulatedTensor, simulated_cuda

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card, which is tested itself")


@pytest.fixture(autouse=True)
def device() -> Iterator[None]:
    with simulated_cuda():
        yield


def there(*shape: int) -> Tensor:
    return torch.arange(float(torch.Size(shape).numel())).view(shape).to("cuda")


@pytest.mark.parametrize(
    "work",
    [
        lambda x: x + torch.ones(3),
        lambda x: torch.ones(3).add_(x[0, 0]),
        lambda x: torch.cat([x, torch.ones(2, 3)]),
        lambda x: torch.nn.functional.linear(x, torch.ones(4, 3)),
        lambda x: torch.nn.functional.embedding(torch.zeros(2, dtype=torch.int64), x),
        lambda x: x.gather(1, torch.zeros(2, 1, dtype=torch.int64)),
        lambda x: x.index_select(0, torch.zeros(1, dtype=torch.int64)),
        lambda x: torch.mm(x, torch.ones(3, 2, device="cuda"), out=torch.empty(2, 2)),
    ],
)
def test_two_devices_in_one_operation_are_refused(work: Callable[[Tensor], object]) -> None:
    with pytest.raises(MixedDevices):
        work(there(2, 3))


def test_what_a_card_allows_is_allowed() -> None:
    """A number on the CPU in pointwise arithmetic; ids on the CPU as an index; copies either way."""
    x = there(2, 3)
    assert torch.equal((x * torch.tensor(2.0)).cpu(), x.cpu() * 2)
    assert torch.equal(x[torch.tensor([1])].cpu(), x.cpu()[1:])
    x.copy_(torch.ones(2, 3))
    assert float(x.sum()) == 6 and bool((x == 1).all()) and x.mean().item() == 1


@pytest.mark.parametrize("read", [Tensor.numpy, Tensor.tolist])
def test_values_cannot_be_read_past_a_copy(read: Callable[[Tensor], object]) -> None:
    with pytest.raises(RuntimeError, match="not supported"):
        read(there(2))


@pytest.mark.parametrize("inference", [False, True])
def test_copies_to_the_host_are_seen(inference: bool) -> None:
    copies: list[Callable[[Tensor], object]] = [
        lambda x: x.cpu(),
        lambda x: x.to("cpu", torch.float64),
        lambda x: torch.empty(2, 3).copy_(x),
        lambda x: torch.empty(2, 3, pin_memory=True).copy_(x, non_blocking=True),
    ]
    with torch.inference_mode(inference):
        x = there(2, 3)
        for copy in copies:
            with pytest.raises(HostCopy), HostCopies(6):
                copy(x)
            with HostCopies(7) as seen:
                copy(x)
            assert seen.most == 6
        with HostCopies(2) as seen:
            assert bool(x.isfinite().all())
        assert seen.waits == 1


def test_writes_reach_the_tensor_and_its_views() -> None:
    x = there(2, 3)
    y = x[1]
    assert x.add_(1) is x and torch.mul(x, 2, out=x) is x
    assert torch.equal(y.cpu(), torch.tensor([8.0, 10.0, 12.0]))


def test_gradients() -> None:
    leaf = there(2, 3).requires_grad_()
    (leaf.exp() * torch.ones(3, device="cuda")).sum().backward()
    assert leaf.grad is not None and leaf.grad.device.type == "cuda"
    assert torch.equal(leaf.grad.cpu(), leaf.detach().cpu().exp())


def test_autocast_multiplies_in_bfloat16() -> None:
    x = there(2, 3)
    with torch.autocast("cuda", torch.bfloat16):
        assert torch.nn.functional.linear(x, x).dtype == (x @ x.t()).dtype == torch.bfloat16
        assert (x + x).dtype == torch.float32
    assert (x @ x.t()).dtype == torch.float32


def test_other_threads_see_the_device_too() -> None:
    x, found = there(2, 3), []
    thread = Thread(target=lambda: found.append(x.sum().cpu()))
    thread.start()
    thread.join()
    assert float(found[0]) == 15


@pytest.mark.parametrize("how", [{"device": "cuda"}, {"device": "cuda", "dtype": torch.bfloat16}])
def test_tied_weights_stay_tied(how: dict[str, Any]) -> None:
    embedding, head = torch.nn.Embedding(4, 3), torch.nn.Linear(3, 4, bias=False)
    head.weight = embedding.weight
    both = torch.nn.ModuleList([embedding, head]).to(**how)
    both.to(torch.bfloat16)
    assert head.weight is embedding.weight and isinstance(head.weight, SimulatedTensor)
    assert head.weight.content.dtype == head.weight.dtype == torch.bfloat16


def test_modules_move_and_train() -> None:
    layer = torch.nn.Linear(3, 4).to("cuda")
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True)
    before = layer.weight.detach().cpu().clone()
    layer(there(2, 3)).square().sum().backward()
    torch.nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
    optimizer.step()
    assert isinstance(layer.weight, SimulatedTensor) and not torch.equal(layer.weight.detach().cpu(), before)
