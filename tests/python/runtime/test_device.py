"""Which device and which number format: the choice, its reason, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from thack.errors import UsageError
from thack.runtime import device

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda"), torch.device("mps")


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs of compute capability 8.0, as torch would report them."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))


@pytest.fixture
def flags() -> Iterator[None]:
    device.cpu_flags.cache_clear()
    yield
    device.cpu_flags.cache_clear()


def test_auto_takes_the_fastest_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert device.choose_device() == CPU
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert device.choose_device("auto") == MPS
    assert device.choose_device("cpu") == CPU


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize(("local_rank", "index"), [(0, 0), (1, 1), (2, 0)])
def test_each_rank_of_a_node_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch, local_rank: int, index: int) -> None:
    for name, value in (("RANK", local_rank), ("WORLD_SIZE", 4), ("LOCAL_RANK", local_rank)):
        monkeypatch.setenv(name, str(value))
    assert device.choose_device("auto") == torch.device("cuda", index)


@pytest.mark.usefixtures("gpus")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    assert device.choose_device("cuda:1") == torch.device("cuda", 1) and device.choose_device("cuda") == CUDA
    with pytest.raises(UsageError, match="there are 2 GPUs, counted from 0"):
        device.choose_device("cuda:2")


def test_a_device_without_support_or_without_sense_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"no GPU is usable here[\s\S]*cpu"):
        device.choose_device("cuda")
    with pytest.raises(UsageError, match=r"'gpu7' is unknown[\s\S]*auto, cpu, cuda, cuda:1 or mps"):
        device.choose_device("gpu7")


def test_pitfall_29_bf16_only_where_it_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "cpu_flags", lambda: frozenset({"avx2"}))
    assert device.choose_dtype("auto", CPU) == (torch.float32, "bfloat16 is emulated on this CPU")
    assert device.choose_dtype("bfloat16", CPU)[0] is torch.bfloat16
    assert "emulates" in device.choose_dtype("bfloat16", CPU)[1]
    monkeypatch.setattr(device, "cpu_flags", lambda: frozenset({"avx512_bf16"}))
    assert device.choose_dtype("auto", CPU, width=96) == (torch.float32, "bfloat16 gains nothing at width 96")
    assert device.choose_dtype("bfloat16", CPU) == (torch.bfloat16, "asked for (avx512_bf16)")
    for speedup, dtype in ((1.1, torch.float32), (4.0, torch.bfloat16)):
        monkeypatch.setattr(device, "bf16_speedup", lambda speedup=speedup: speedup)
        chosen, reason = device.choose_dtype("auto", CPU, width=1024)
        assert chosen is dtype and f"{1 / speedup:.2f} of float32's time" in reason
    assert device.choose_dtype("float32", CPU) == (torch.float32, "asked for")


@pytest.mark.parametrize(
    ("capability", "name", "dtype", "reason"),
    [
        ((8, 0), "auto", torch.bfloat16, "native on this GPU"),
        ((8, 0), "bfloat16", torch.bfloat16, "asked for"),
        ((7, 5), "auto", torch.float32, "this GPU has no native bfloat16"),
        ((7, 5), "bfloat16", torch.bfloat16, "asked for, though this GPU only emulates it"),
        ((9, 0), "float32", torch.float32, "asked for"),
    ],
)
def test_formats_of_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], name: str, dtype: torch.dtype, reason: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert device.choose_dtype(name, CUDA) == (dtype, reason)


def test_formats_of_other_devices() -> None:
    assert device.choose_dtype("auto", MPS) == (torch.float32, "default on mps")
    assert device.choose_dtype("bfloat16", MPS) == (torch.bfloat16, "asked for")


@pytest.mark.usefixtures("flags")
@pytest.mark.parametrize(
    ("content", "fast"),
    [
        ("processor\t: 0\nflags\t\t: fpu sse avx512_bf16 amx_bf16\n", "amx_bf16"),
        ("flags\t\t: fpu avx512_bf16\n", "avx512_bf16"),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", "bf16"),
        ("flags\t\t: fpu sse avx2\n", None),
        ("nothing of the kind\n", None),
    ],
)
def test_flags_are_those_that_linux_lists(monkeypatch: pytest.MonkeyPatch, content: str, fast: str | None) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr(Path, "read_text", lambda self: content)
    assert device.fast_bf16_flag() == fast


@pytest.mark.usefixtures("flags")
def test_elsewhere_no_flag_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    assert device.cpu_flags() == frozenset() and device.fast_bf16_flag() is None


def test_the_speed_of_bfloat16_is_measured() -> None:
    assert device.bf16_speedup.__wrapped__(size=32) > 0


def test_the_best_of_several_times_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 5.0, 10.0, 12.0, 20.0, 29.0])
    monkeypatch.setattr(device, "perf_counter", lambda: next(ticks))
    assert device._best_time(lambda: None, repeats=3) == 2.0
