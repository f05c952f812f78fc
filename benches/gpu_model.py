"""A capture's step, a distillation's step and generation with a decoder of random weights."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eager import eager_divergence
from gpu_cost import compare_rates, cost
from gpu_rows import CUDA
from gpu_shapes import Shapes
from harness import Measurement, Work
from thack.cache.capture.job import capture
from thack.cache.capture.preparation import prepare_directory, prepare_job
from thack.cache.capture.scorer import Scorer
from thack.config import CacheSettings, LossSettings, OptimizerSettings, SamplingSettings
from thack.data.eos import Ends
from thack.data.sequence import TokenSequence
from thack.data.tokenizer import Tokenizer
from thack.generation.sampler import GenerationRequest, generate
from thack.losses import cross_entropy
from thack.models.batch import Batch
from thack.models.native.architecture import Architecture
from thack.models.native.llama import Llama
from thack.models.precision import Precision
from thack.schema.targets import TargetSpec
from thack.targets import ProjectedTeacher, Target, TopKTarget, select
from thack.training.live import LiveTeacher
from thack.training.objective import Objective
from thack.training.optimizer import build_optimizer, clip_gradients

HALF = torch.bfloat16


class Ids(Tokenizer):
    """As much of a tokenizer as a model of random weights needs: ids that stand for nothing."""

    pad_id = 0
    eos_id = 1
    ends = Ends(eos=eos_id)

    def __init__(self, size: int) -> None:
        self.size = size

    def for_architecture(self, *, encoder_decoder: bool) -> Tokenizer:
        return self

    def fingerprint(self) -> str:
        return f"sha256:{self.size} ids"

    def save(self, directory: Path) -> None:
        """Nothing: there is no text."""
        directory.mkdir(parents=True, exist_ok=True)


def measure_capture(shapes: Shapes) -> Iterator[Measurement]:
    """The teacher in bfloat16: what a batch costs beside the forward that it needs anyway, and a whole capture."""
    teacher, batch = random_model(shapes, HALF).eval(), sequences(shapes)

    def forward() -> object:
        with torch.inference_mode():
            return teacher(Batch.of(batch, CUDA))

    with tempfile.TemporaryDirectory() as scratch:
        for kind in ("top-k", "sampled"):
            settings = CacheSettings(
                out=Path(scratch) / f"step-{kind}",
                kind=kind,
                top_k=shapes.kept,
                sampled=shapes.sampled,
                batch_size=shapes.sequences,
                dtype="bfloat16",
            )
            prepare_directory(settings.out)
            plan = prepare_job(settings, teacher=teacher, sequences=batch).plan
            scorer = Scorer(teacher, plan, settings)
            yield from compare_rates(
                f"capture step, {kind}",
                shapes.tokens,
                lambda scorer=scorer: scorer.score(batch).wait(),  # type: ignore[misc]
                forward,
                "the teacher's forward alone",
            )
        yield whole_capture(teacher, Path(scratch) / "whole", shapes)


def whole_capture(teacher: Llama, out: Path, shapes: Shapes) -> Measurement:
    """Four batches, from the plan to the manifest: the teacher's fingerprint, packing and writing included."""
    data = sequences(shapes, batches=4)
    settings = CacheSettings(out=out, top_k=shapes.kept, batch_size=shapes.sequences, dtype="bfloat16")
    began = time.perf_counter()
    capture(settings, teacher=teacher, sequences=data)
    return Measurement(
        what=f"whole capture of {len(data)} sequences, top-{shapes.kept}",
        ours=4 * shapes.tokens / (time.perf_counter() - began),
        unit="tokens/s",
        is_rate=True,
    )


def measure_generation(shapes: Shapes) -> Iterator[Measurement]:
    """Responses at temperature 1 by the native decoder; its peer is the same by the most likely ids."""
    model, data = random_model(shapes, HALF).eval(), sequences(shapes, batches=4)

    def write(sampling: SamplingSettings) -> Work:
        request = GenerationRequest(sampling=sampling, max_new_tokens=shapes.new_tokens, seed=0)
        return lambda: generate(model, [s.prompt_ids for s in data], request, examples=range(len(data)))

    tokens = len(data) * shapes.new_tokens  # but for those that end early: one token of the vocabulary does that
    yield from compare_rates(
        f"generation, {len(data)} responses",
        tokens,
        write(SamplingSettings()),
        write(SamplingSettings(greedy=True)),
        "the same, greedy",
    )


def measure_training(shapes: Shapes) -> Iterator[Measurement]:
    """Steps with float32 weights under bfloat16 autocast, the optimizer's included."""
    student = random_model(shapes, torch.float32).train()
    batch = Batch.of(sequences(shapes), CUDA)
    optimizer = build_optimizer(student, OptimizerSettings(learning_rate=1e-5))

    def step(loss: Callable[[Tensor, Tensor], Tensor], *, project: bool) -> None:
        with torch.autocast(CUDA, HALF):
            output_NX = student(batch, project=project)
        (loss(output_NX, batch.labels_N).sum() / shapes.tokens).backward()
        clip_gradients(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def fused(settings: LossSettings, target: Callable[[], Target | ProjectedTeacher | None]) -> Work:
        objective = Objective(settings=settings, model=student, width=shapes.vocab, precision=Precision(dtype=HALF))
        return lambda: step(
            lambda x, labels: objective(x, target(), labels), project=not objective.fuses(shapes.tokens)
        )

    def plain(loss: Callable[[Tensor, Tensor], Tensor]) -> Work:
        return lambda: step(loss, project=True)

    tokens_alone = LossSettings(weight=0.0, ce_weight=1.0, fused=True)
    yield from compare_rates(
        "fine-tuning step",
        shapes.tokens,
        fused(tokens_alone, lambda: None),
        plain(cross_entropy),
        "the same from whole logits",
    )
    cached = cached_target(shapes)
    yield from compare_rates(
        f"distillation step, cached top-{shapes.kept}",
        shapes.tokens,
        fused(LossSettings(), lambda: cached),
        plain(lambda logits_NV, _: eager_divergence(logits_NV, cached)),
        "the same from whole logits, torch eager",
    )
    yield from live(fused, shapes)


def live(
    fused: Callable[[LossSettings, Callable[[], Target | ProjectedTeacher | None]], Work], shapes: Shapes
) -> Iterator[Measurement]:
    """A dense live teacher of the student's size, run in every step; beside it, what its forward alone costs."""
    data = sequences(shapes)
    teacher_model = random_model(shapes, HALF).eval()
    teacher = LiveTeacher(teacher_model, shapes.vocab, TargetSpec(live=True), seed=0, projects=False)

    def scored() -> Target | ProjectedTeacher:
        return teacher.target(data, Batch.of(data, CUDA), 0)

    own = cost(fused(LossSettings(fused=True), scored))
    alone = cost(scored)
    yield Measurement(
        what="distillation step, dense live teacher",
        ours=shapes.tokens / own.ms * 1e3,
        unit="tokens/s",
        is_rate=True,
        floor=shapes.tokens / alone.ms * 1e3,
        floor_is="the teacher's forward, without its head",
    )
    yield Measurement(what="distillation step, dense live teacher: memory", ours=own.total_gib, unit="GiB")


def cached_target(shapes: Shapes) -> TopKTarget:
    """Of 512 random rows, over and over."""
    logits_NV = torch.randn(512, shapes.vocab, device=CUDA) * 3
    target = select(logits_NV, TargetSpec(kind="top-k", k=shapes.kept), width=shapes.vocab)
    assert isinstance(target, TopKTarget)
    rows_N = torch.arange(shapes.tokens, device=CUDA) % 512
    assert target.log_tail_N is not None
    return TopKTarget(
        ids_NK=target.ids_NK[rows_N],
        log_probs_NK=target.log_probs_NK[rows_N],
        log_tail_N=target.log_tail_N[rows_N],
        vocab_size=shapes.vocab,
    )


def random_model(shapes: Shapes, dtype: torch.dtype) -> Llama:
    """Weights drawn on the device."""
    architecture = Architecture(
        vocab_size=shapes.vocab,
        hidden_size=shapes.model_hidden,
        intermediate_size=shapes.intermediate,
        num_layers=shapes.layers,
        num_heads=shapes.heads,
        num_kv_heads=shapes.kv_heads,
        head_dim=shapes.model_hidden // shapes.heads,
        max_positions=4096,
        tie_head=True,
    )
    torch.manual_seed(0)
    with torch.device(CUDA):
        model = Llama(architecture, Ids(size=shapes.vocab)).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.02)
    return model


def sequences(shapes: Shapes, batches: int = 1) -> Sequence[TokenSequence]:
    rng = np.random.default_rng(0)
    return [
        TokenSequence(
            example=i,
            prompt_id=f"p{i}",
            prompt_ids=rng.integers(2, shapes.vocab, shapes.prompt_tokens, dtype=np.int32),
            response_ids=rng.integers(2, shapes.vocab, shapes.response_tokens, dtype=np.int32),
        )
        for i in range(batches * shapes.sequences)
    ]
