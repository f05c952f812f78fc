"""How the ranks of a run share a model: replicas whose gradients are summed, or FSDP2's shards.

    ddp    every rank has the whole model; one explicit sum of all gradients per step
    fsdp   every rank has 1/world of each block's weights, gradients and optimizer state

Gradients are those of Σ loss / (response tokens of the whole step). So they are summed over ranks and never averaged:
what a rank contributes is weighted by its tokens, whatever their number.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from thack.config import MemorySettings, ParallelSettings
from thack.errors import UsageError
from thack.models.protocol import LanguageModel
from thack.runtime.process_group import ProcessGroup, collective

_BUCKET_BYTES = 1 << 26
_BYTES_PER_PARAMETER = 16  # weight, gradient and Adam's two moments in float32; of a frozen one the weight alone


class WrappedModel:
    """One model on this rank.

    Attributes:
        model: Runs in step with the other ranks; if it is sharded, its forward communicates.
        plain: Runs on this rank alone, inside `summon_full_params()`, to generate and to evaluate. The same object as
            `model` if nothing is sharded, else without weights outside of it.
        copy: On the CPU of the rank that writes: the weights of a checkpoint until they are written.
    """

    def __init__(
        self, plain: LanguageModel, model: LanguageModel | None = None, copy: LanguageModel | None = None
    ) -> None:
        self.plain = plain
        self.model = plain if model is None else model
        self.copy = copy

    @property
    def sharded(self) -> bool:
        return self.model is not self.plain

    @contextmanager
    def summon_full_params(self) -> Iterator[LanguageModel]:
        """`plain` with all its weights, gathered for the length of the block; all ranks enter together."""
        if not self.sharded:
            yield self.plain
            return
        places = dict(as_module(self.plain).named_parameters())
        for name, value in full_tensors(self.model):
            places[name].data = value
        try:
            yield self.plain
        finally:
            _empty(self.plain)


@dataclass(frozen=True, slots=True, kw_only=True)
class WrappedModels:
    """The models that a step runs."""

    student: WrappedModel
    teacher: WrappedModel | None = None  # a live one

    @contextmanager
    def for_inference(self) -> Iterator[LanguageModel]:
        """The student in eval mode, with all its weights and the teacher's on every rank; then back to training."""
        with ExitStack() as stack:
            student = stack.enter_context(self.student.summon_full_params())
            if self.teacher is not None:
                stack.enter_context(self.teacher.summon_full_params())
            self.student.model.eval()
            try:
                yield student
            finally:
                self.student.model.train()


def as_module(model: LanguageModel) -> nn.Module:
    """Every `LanguageModel` is one."""
    assert isinstance(model, nn.Module)
    return model


def full_tensors(model: LanguageModel, *, trained: bool = False) -> Iterator[tuple[str, Tensor]]:
    """(name, full weight) one after the other, on every rank; only one of them is gathered at a time.

    `trained`: without those that are frozen below an adapter.
    """
    for module in as_module(model).modules():
        reshard: Any = getattr(module, "reshard", None)
        if reshard is not None:  # the root keeps its full weights after a forward
            reshard()
    for name, parameter in as_module(model).named_parameters():
        if parameter.requires_grad or not trained:
            yield name, full_tensor(parameter.detach())


def full_tensor(value: Tensor) -> Tensor:
    """A sharded tensor gathered, or the tensor itself; all ranks call it in the same order."""
    gather: Any = getattr(value, "full_tensor", None)
    return value if gather is None else gather()


def wrap_student(
    student: LanguageModel,
    parallel: ParallelSettings,
    group: ProcessGroup,
    *,
    memory: MemorySettings | None = None,
    background: bool = False,
) -> WrappedModel:
    """The student, replicated or sharded as `parallel` says; `background`: checkpoints are written from a copy."""
    shards = group.world_size > 1 and strategy(parallel, student) == "fsdp"
    spare = clone(student, _on_cpu) if group.is_first and (shards or background) else None
    memory = memory or MemorySettings()
    if not shards:
        apply_memory_options(student, memory)
        return WrappedModel(student, copy=spare)
    model = clone(student, lambda parameter: parameter)
    apply_memory_options(model, memory)
    return WrappedModel(student, _shard(model, student), spare)


def wrap_teacher(teacher: LanguageModel, settings: ParallelSettings, group: ProcessGroup) -> WrappedModel:
    """The teacher, replicated, or sharded for the forwards that all ranks make in step."""
    if group.world_size > 1 and settings.shard_teacher:
        return WrappedModel(teacher, _shard(clone(teacher, lambda parameter: parameter), teacher))
    return WrappedModel(teacher)


def strategy(settings: ParallelSettings, student: LanguageModel) -> str:
    """`auto` shards a student that would fill more than half of this rank's GPU."""
    if settings.strategy != "auto":
        return settings.strategy
    if student.device.type != "cuda" or not all(p.is_floating_point() for p in student.parameters()):
        return "ddp"  # packed weights below an adapter are not split
    needed = sum(
        p.numel() * (_BYTES_PER_PARAMETER if p.requires_grad else p.element_size()) for p in student.parameters()
    )
    return "fsdp" if needed > torch.cuda.get_device_properties(student.device).total_memory // 2 else "ddp"


def _shard(model: LanguageModel, plain: LanguageModel) -> LanguageModel:
    """`model`, which shares its weights with `plain`, in shards; `plain` is left without weights."""
    from torch.distributed.device_mesh import init_device_mesh  # seconds to import: only to shard
    from torch.distributed.fsdp import FSDPModule, fully_shard

    if not hasattr(FSDPModule, "set_force_sum_reduction_for_comms"):
        raise UsageError("parallel.strategy = fsdp needs torch 2.8 or newer", hint="use `parallel.strategy = ddp`")
    # Its output may be a view, and nothing here changes logits in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
    mesh = init_device_mesh(plain.device.type, (dist.get_world_size(),))
    for block in blocks_of(as_module(model)):
        fully_shard(block, mesh=mesh)
    # The root does not reshard embedding, norm and head between forward and backward: a fused loss reads the head.
    fully_shard(as_module(model), mesh=mesh, reshard_after_forward=False)
    for module in as_module(model).modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
            _add_up_idle(module)
    _empty(plain)
    return model


def _add_up_idle(module: nn.Module) -> None:
    """Zeros for a parameter without a gradient on this rank, such as an expert that got no token here.

    Without them ranks would add up different parameters, and torch aborts. Unlike one process and replicas, the
    optimizer then steps an expert that is idle on all ranks too, with a gradient of 0.

    Raises:
        UsageError: this torch cannot, and the module has experts.
    """
    fill: Any = getattr(module, "set_reduce_scatter_unused_params", None)
    if fill is not None:
        fill(True)
    elif any(isinstance(m, nn.ModuleList | nn.ModuleDict) and "expert" in name for name, m in module.named_modules()):
        raise UsageError(
            "parallel.strategy = fsdp needs torch 2.15 for experts, which may get no token on a rank",
            hint="use `parallel.strategy = ddp`",
        )


def apply_memory_options(model: LanguageModel, settings: MemorySettings) -> None:
    """Activation checkpointing and compilation, block by block.

    Raises:
        UsageError: compilation on a CPU.
    """
    if settings.compile and model.device.type == "cpu":
        raise UsageError(
            "memory.compile is for GPUs: on a CPU the blocks run on oneDNN's own products, which torch cannot compile",
            hint="use `memory.compile = false`",
        )
    for block in blocks_of(as_module(model)):
        if settings.checkpoint_activations:
            block.forward = _recomputed(block.forward)
        if settings.compile:
            block.compile(dynamic=True)


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    """`forward`, run again in the backward from the same random state: the same dropout, the same gradient."""

    def recomputed(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return recomputed


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The repeated layers: the members of every outermost ModuleList."""
    found: list[nn.Module] = []
    for child in model.children():
        found += list(child) if isinstance(child, nn.ModuleList) else blocks_of(child)
    return found


def clone(model: LanguageModel, weight: Callable[[nn.Parameter], nn.Parameter]) -> LanguageModel:
    """A second model of the same architecture, with `weight(p)` for every parameter p; tied weights stay tied."""
    memo: dict[int, Any] = {id(p): weight(p) for p in model.parameters()}
    memo[id(model.tokenizer)] = model.tokenizer
    return copy.deepcopy(model, memo)


def _on_cpu(parameter: nn.Parameter) -> nn.Parameter:
    """A place for a trained weight; a frozen one, below an adapter, is in no checkpoint and needs none."""
    if not parameter.requires_grad:
        return parameter
    return nn.Parameter(torch.empty_like(parameter, device="cpu"), requires_grad=False)


def _empty(model: LanguageModel) -> None:
    for parameter in model.parameters():
        parameter.data = torch.empty(0, dtype=parameter.dtype, device=parameter.device)


def sum_gradients(parameters: Sequence[nn.Parameter], group: ProcessGroup) -> None:
    """Sum replicas' gradients over ranks, many at a time; FSDP has summed its own during the backward."""
    if group.world_size == 1 or any(hasattr(p, "full_tensor") for p in parameters):
        return
    _fill_idle(parameters)
    gradients = [p.grad for p in parameters if p.grad is not None]
    for bucket in _buckets(gradients):
        flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
        with collective():
            dist.all_reduce(flat)
        parts = torch.split(flat, [gradient.numel() for gradient in bucket])
        for gradient, part in zip(bucket, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def _fill_idle(parameters: Sequence[nn.Parameter]) -> None:
    """Zeros where another rank has a gradient and this one has none, such as an expert that got no token here.

    So all ranks add up the same parameters. Where no rank has a gradient, none has one afterwards, as in one process.
    """
    if not parameters:
        return
    has_gradient = torch.tensor(
        [p.grad is not None for p in parameters], dtype=torch.uint8, device=parameters[0].device
    )
    with collective():
        dist.all_reduce(has_gradient, op=dist.ReduceOp.MAX)
    for parameter, anywhere in zip(parameters, has_gradient.tolist(), strict=True):
        if anywhere and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Runs of gradients of one type, each at most `_BUCKET_BYTES` (or one tensor)."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        full = sum(g.nbytes for g in bucket) + gradient.nbytes > _BUCKET_BYTES
        if bucket and (full or bucket[0].dtype != gradient.dtype):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket
