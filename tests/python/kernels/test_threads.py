"""Threads: as many as torch may use, none in a DataLoader's workers, and a pool of its own in a forked child."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from thack import _native, kernels

LOGITS = torch.randn(64, 3000, generator=torch.Generator().manual_seed(0))
KEYS = torch.arange(64)[:, None] * torch.tensor([0, 1, 0, 0])
linux = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def drawn() -> list[int]:
    kernels.topk_logsumexp(LOGITS, 8)
    return kernels.sample(LOGITS, seed=1, keys_N4=KEYS).tolist()


def own_threads() -> int:
    """Threads of this process that are ours, by the names that the pool gives them."""
    tasks = f"/proc/{os.getpid()}/task"
    names = [open(f"{tasks}/{task}/comm").read() for task in os.listdir(tasks)]  # noqa: SIM115
    return sum(name.startswith("thack-") for name in names)


def settled_threads(wanted: int) -> int:
    """`own_threads` once there are `wanted` or ten seconds have passed: a thread names itself after it has started."""
    end = time.monotonic() + 10
    while (found := own_threads()) < wanted and time.monotonic() < end:
        time.sleep(0.01)
    return found


class Draws(Dataset[tuple[list[int], int, int]]):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> tuple[list[int], int, int]:
        return drawn(), _native.num_threads(), own_threads()


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> object:
    before = torch.get_num_threads()
    monkeypatch.setenv("THACK_NUM_THREADS", "2")
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_follows_torch_and_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = drawn()
    assert _native.num_threads() == 2
    torch.set_num_threads(1)
    assert drawn() == expected
    assert _native.num_threads() == 1
    torch.set_num_threads(2)
    monkeypatch.setenv("THACK_NUM_THREADS", "1")
    assert drawn() == expected
    assert _native.num_threads() == 1


@linux
@pytest.mark.usefixtures("two_threads")
def test_a_data_loaders_workers_stay_on_one_thread() -> None:
    expected = drawn()  # the parent's pool is up before the fork
    loader = DataLoader(Draws(), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60)
    assert [tuple(found) for found in loader] == [(expected, 1, 0)] * 2


def _child(result: multiprocessing.Queue[object]) -> None:
    """Below torch, whose own threads do not survive a fork."""
    found, keys = np.empty(64, np.int64), KEYS.numpy().reshape(-1)
    _native.sample_rows(LOGITS.view(-1).numpy(), "float32", 3000, 1, keys, 1.0, 0, 1.0, 0.0, False, found)
    result.put((found.tolist(), _native.num_threads(), settled_threads(2)))


@linux
@pytest.mark.usefixtures("two_threads")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_a_forked_child_makes_its_own_pool() -> None:
    expected = drawn()
    context = multiprocessing.get_context("fork")
    result = context.Queue()
    child = context.Process(target=_child, args=(result,))
    child.start()
    ids, threads, own = result.get(timeout=60)
    child.join(60)
    assert child.exitcode == 0
    assert ids == expected
    assert (threads, own) == (2, 2)


@pytest.mark.usefixtures("two_threads")
def test_many_python_threads_share_the_pool() -> None:
    expected = drawn()
    found: list[list[int]] = []
    workers = [threading.Thread(target=lambda: found.append(drawn())) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert found == [expected] * 4
