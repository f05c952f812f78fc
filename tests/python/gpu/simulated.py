"""A CUDA device that is simulated: tensors that say `cuda:0` and hold their values in CPU memory.

What a card would refuse is refused: operands on two devices, and numpy views of tensors on the device. Values are
real, so that code may branch on them, and results can be compared.

torch's FakeTensorMode does the first half only. Its tensors have no values, so `bool(x.any())`, `x.cpu().numpy()`
and the Rust extension stop it; and without a card its backward raises in a CUDA build of torch.

Not simulated: streams, asynchronous copies, memory limits, the rounding of a card's kernels.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from time import perf_counter
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn.utils import clip_grad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

CUDA = torch.device("cuda", 0)
CPU = torch.device("cpu")
aten = torch.ops.aten

_COPIES = {aten.copy_.default, aten._to_copy.default}
_INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}


def _wide_product(a: Tensor, b: Tensor, out_dtype: torch.dtype, *, out: Tensor) -> Tensor:
    """`mm` of 16-bit factors with sums that stay in `out_dtype`, which a card has and the CPU has not."""
    return out.copy_(a.to(out_dtype) @ b.to(out_dtype))


#: Operations without a CPU kernel, and what stands for them here.
_CARDS_ALONE = {aten.mm.dtype_out: _wide_product} if "dtype_out" in aten.mm.overloads() else {}


class MixedDevices(AssertionError):
    """An operation whose operands are on two devices."""


class SimulatedTensor(Tensor):
    """A tensor on the simulated device. To torch's C++ core it is on `meta`, which has no driver to ask."""

    content: Tensor  # on the CPU

    @staticmethod
    def __new__(cls, values: Tensor) -> SimulatedTensor:
        with torch.inference_mode(values.is_inference()):  # a view is what its base is, whatever the mode
            made: SimulatedTensor = Tensor._make_wrapper_subclass(
                cls,
                values.size(),
                strides=values.stride(),
                storage_offset=values.storage_offset(),
                dtype=values.dtype,
                device=torch.device("meta"),
            )
        made.content = values
        return made

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)
    is_meta = property(lambda self: False)

    def __repr__(self, *, tensor_contents: object = None) -> str:  # type: ignore[override] # torch's has no types
        return f"Simulated({self.content})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override] # torch's types have a function in its place
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return run(func, args, kwargs or {})  # in a thread that the mode is not in


class _Backend(TorchDispatchMode):
    """What runs operations, those that make tensors included."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch's has no types
        # In the slot of FakeTensorMode, so that torch does not look for a driver at device="cuda".
        self._mode_key = torch._C._TorchDispatchModeKey.FAKE

    @classmethod
    def is_infra_mode(cls) -> bool:
        return True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the first operation imports the compiler, for seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = [*args, *(kwargs or {}).values()]
        if SimulatedTensor not in types and not any(isinstance(x, torch.device) for x in named):
            return func(*args, **(kwargs or {}))
        with self:  # in inference mode operations come whole, `to` among them
            found = func.decompose(*args, **(kwargs or {}))
        return run(func, args, kwargs or {}) if found is NotImplemented else found


def run(func: Any, args: Any, kwargs: Any) -> Any:
    """One operation on the values, its result on the device where the operands are or `device=` says so."""
    flat, shape = tree_flatten((args, kwargs))
    tensors = [x for x in flat if isinstance(x, Tensor)]
    ours = [x for x in tensors if isinstance(x, SimulatedTensor)]
    asked = next((x for x in flat if isinstance(x, torch.device)), None)
    on_device = bool(ours) if asked is None else asked.type in ("cuda", "meta")
    if ours and func not in _COPIES:
        _check_devices(func, tensors)
    call_args, call_kwargs = tree_unflatten([_inner(x) for x in flat], shape)
    call_kwargs.pop("pin_memory", None)
    found, found_shape = tree_flatten(_CARDS_ALONE.get(func, func)(*call_args, **call_kwargs))
    known = {id(x.content): x for x in ours} | {id(x): x for x in tensors}  # what is written to is returned
    wrapped = [_outer(x, known, on_device) for x in found]
    return tree_unflatten(wrapped, found_shape)


def _outer(x: Any, known: dict[int, Tensor], on_device: bool) -> Any:
    if not isinstance(x, Tensor):
        return x
    return known[id(x)] if id(x) in known else SimulatedTensor(x) if on_device else x


def _inner(x: Any) -> Any:
    if isinstance(x, SimulatedTensor):
        return x.content
    return CPU if isinstance(x, torch.device) else x


def _check_devices(func: Any, tensors: list[Tensor]) -> None:
    """A CPU tensor beside one on the device: allowed as a number in pointwise arithmetic, and as an index."""
    strangers = [x for x in tensors if not isinstance(x, SimulatedTensor)]
    if func in _INDEXING:
        strangers = [x for x in strangers if x.dtype not in (torch.int64, torch.bool)]
    if torch.Tag.pointwise in func.tags or func in _INDEXING:
        strangers = [x for x in strangers if x.dim() or x is tensors[0]]
    if strangers:
        shapes = ", ".join(f"{tuple(x.shape)} on {x.device}" for x in tensors)
        raise MixedDevices(f"{func}: {shapes}")


class _Frontend(TorchFunctionMode):
    """What torch's C++ core would ask the driver: the index of the device, and what autocast casts."""

    PRODUCTS = (
        torch.nn.functional.linear,
        torch.nn.functional.scaled_dot_product_attention,
        torch.matmul,
        torch.mm,
        torch.bmm,
        torch.addmm,
        torch.baddbmm,
        Tensor.matmul,
        Tensor.__matmul__,
        Tensor.mm,
        Tensor.bmm,
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        flat, shape = tree_flatten((args, kwargs or {}))
        flat = [CUDA if isinstance(x, str | torch.device) and str(x) == "cuda" else x for x in flat]
        if func in self.PRODUCTS and torch.is_autocast_enabled("cuda"):
            dtype = torch.get_autocast_dtype("cuda")
            flat = [x.to(dtype) if isinstance(x, SimulatedTensor) and x.dtype == torch.float32 else x for x in flat]
        args, kwargs = tree_unflatten(flat, shape)
        return func(*args, **kwargs)


class _Event:
    """Nothing is asynchronous here, so an event is past as soon as it is recorded."""

    def __init__(self, **_: object) -> None:
        self.time_s = 0.0

    def record(self, stream: object = None) -> None:
        self.time_s = perf_counter()

    def synchronize(self) -> None: ...

    def elapsed_time(self, later: _Event) -> float:
        """Milliseconds."""
        return (later.time_s - self.time_s) * 1e3


@contextmanager
def simulated_cuda() -> Iterator[None]:
    """Inside, `device="cuda"` is the simulated one, and torch.cuda says that there is a card."""
    lifts_on_cpu = torch._C._only_lift_cpu_tensors()
    with ExitStack() as stack:
        for name, value in _FACTS.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        # Optimizers ask its stream whether a graph is being captured; clipping asks the C++ core for the device.
        stack.enter_context(mock.patch.object(torch.accelerator, "current_accelerator", lambda *_, **__: None))
        stack.enter_context(mock.patch.object(clip_grad, "_device_has_foreach_support", lambda device: True))
        if importlib.util.find_spec("triton"):
            stack.enter_context(_interpreted_sweeps())
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(…, device="cuda") is made on the CPU and copied
        stack.callback(torch._C._set_only_lift_cpu_tensors, lifts_on_cpu)
        # Modules that move exchange their parameters, which keeps tied ones tied; `.data = ` would leave values behind.
        swapped = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, swapped)
        stack.enter_context(_Frontend())
        stack.enter_context(_Backend())
        yield


_FACTS: dict[str, Callable[..., object]] = {
    "is_available": lambda: True,
    "is_bf16_supported": lambda *_: True,
    "get_device_capability": lambda *_: (9, 0),
    "current_stream": lambda *_: None,
    "is_current_stream_capturing": lambda: False,
    "Event": _Event,
    "synchronize": lambda *_: None,
    "memory_allocated": lambda *_: 0,
    "max_memory_allocated": lambda *_: 1 << 20,  # memory is not simulated, but its readers run
    "reset_peak_memory_stats": lambda *_: None,
}


@contextmanager
def _interpreted_sweeps() -> Iterator[None]:
    """Triton's interpreter reads memory, so it is given the values."""
    from thack.losses import triton_sweeps

    launch = triton_sweeps._launch

    def on_values(kernel: Any, *operands: Any) -> None:
        assert all(isinstance(x, SimulatedTensor) for x in operands if isinstance(x, Tensor)), "sweeps: mixed devices"
        launch(kernel, *map(_inner, operands))

    with mock.patch.object(triton_sweeps, "_launch", on_values):
        yield
