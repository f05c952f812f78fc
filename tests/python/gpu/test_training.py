"""Targets of a live teacher, and steps of distillation, on the device against the same on the CPU."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from thack.config import LossSettings, OptimizerSettings, TargetSettings
from thack.config.specs import target_spec
from thack.models.batch import Batch
from thack.models.precision import Precision
from thack.targets import ProjectedTeacher, SampledTarget, Target
from thack.training.live import LiveTeacher
from thack.training.objective import Objective, has_plain_head, supervised
from thack.training.optimizer import build_optimizer, clip_gradients

from .host import HostCopies
from .small import VOCAB, model, relative_error, sequences

NUM_TOKENS = sum(len(s.response_ids) for s in sequences())
TARGETS = {
    "dense": TargetSettings(),
    "top-k": TargetSettings(kind="top-k", k=8),
    "renormalised": TargetSettings(kind="renormalised", k=8),
    "sampled": TargetSettings(kind="sampled", k=6),
    "multinomial": TargetSettings(kind="multinomial", k=6),
    "mixed with draws": TargetSettings(kind="mixed", k=8, tail_draws=4),
    "mixed with a prior": TargetSettings(kind="mixed", k=8, tail_prior=1.0),
}


def live_target(name: str, device: torch.device | str, *, projects: bool = True) -> Target | ProjectedTeacher:
    teacher = LiveTeacher(
        model(1, device).eval(), VOCAB, target_spec(TARGETS[name]), seed=5, examples=sequences(), projects=projects
    )
    return teacher.target(sequences(), Batch.of(sequences(), device), 0)


def tensors(target: Any) -> dict[str, Tensor]:
    return {f.name: value for f in fields(target) if isinstance(value := getattr(target, f.name), Tensor)}


@pytest.mark.parametrize("name", TARGETS)
def test_the_targets_of_a_live_teacher(cuda: torch.device, name: str) -> None:
    """Equal rows in nearly all places: the last bit of a logit can move a draw, or the last id that is kept."""
    found, expected = live_target(name, cuda), live_target(name, "cpu")
    assert type(found) is type(expected)
    same_N = torch.ones(NUM_TOKENS, dtype=torch.bool)
    for field, theirs in tensors(expected).items():
        ours = tensors(found)[field]
        assert ours.device.type == "cuda" and ours.dtype == theirs.dtype
        if field == "ids_NK":
            same_N = (ours.cpu() == theirs).all(1)
        elif field == "log_probs_NV":
            same_N = torch.isclose(ours.cpu(), theirs, rtol=1e-2, atol=2e-2).all(1)
        else:
            torch.testing.assert_close(ours.cpu()[same_N], theirs[same_N], rtol=1e-2, atol=1e-2)
        assert same_N.float().mean() > 0.9, field


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_stays_on_the_device(cuda: torch.device, name: str) -> None:
    """The prior is read off in two parts, of one id per entry."""
    live_target(name, cuda)
    with HostCopies(NUM_TOKENS * VOCAB):
        live_target(name, cuda)


CASES = {
    "top-k, fused": ("top-k", LossSettings(divergence="jsd", ce_weight=0.3)),
    "top-k": ("top-k", LossSettings(fused=False)),
    "multinomial, fused": ("multinomial", LossSettings()),
    "dense": ("dense", LossSettings(divergence="reverse_kl")),
    "dense, fused": ("dense", LossSettings(fused=True, temperature=2.0)),
    "tokens alone": ("", LossSettings()),
}


class Step:
    """Two steps of a student towards a live teacher, as training takes them."""

    def __init__(self, case: str, device: torch.device | str, dtype: torch.dtype = torch.float32) -> None:
        kind, settings = CASES[case]
        self.student, self.losses, self.norms = model(0, device).train(), [], []
        plain = has_plain_head(self.student, settings)
        precision = Precision(dtype=dtype)
        objective = Objective(
            settings=settings,
            model=self.student,
            width=VOCAB,
            precision=precision,
            plain_head=plain,
        )
        if not kind:
            objective = supervised(self.student, precision, plain_head=plain)
        optimizer = build_optimizer(self.student, OptimizerSettings(learning_rate=1e-3))
        parameters = list(self.student.parameters())
        for _ in range(2):
            batch = Batch.of(sequences(), device)
            target = live_target(kind, device, projects=False) if kind else None
            with precision.autocast(self.student):
                output_NX = self.student(batch, project=not objective.takes_hidden(NUM_TOKENS))
            loss = objective(output_NX, target, batch.labels_N).sum() / NUM_TOKENS
            loss.backward()
            self.losses.append(float(loss.detach()))
            self.norms.append(clip_gradients(parameters, 1.0))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


@pytest.mark.parametrize("case", CASES)
def test_steps(cuda: torch.device, case: str) -> None:
    expected = Step(case, "cpu")
    with HostCopies(NUM_TOKENS * VOCAB):
        found = Step(case, cuda)
    np.testing.assert_allclose(found.losses, expected.losses, rtol=2e-3)
    np.testing.assert_allclose(found.norms, expected.norms, rtol=1e-2)
    rows = zip(found.student.named_parameters(), expected.student.parameters(), model(0).parameters(), strict=True)
    for (name, ours), theirs, before in rows:
        assert ours.device.type == "cuda"
        changes = ours.detach().cpu() - before, theirs.detach() - before
        assert relative_error(*changes) < 0.2, name  # AdamW makes whole steps of gradients that are nearly 0


@pytest.mark.parametrize("case", CASES)
def test_steps_under_autocast(cuda: torch.device, case: str) -> None:
    expected, found = Step(case, "cpu"), Step(case, cuda, torch.bfloat16)
    np.testing.assert_allclose(found.losses, expected.losses, rtol=0.05)
    np.testing.assert_allclose(found.norms, expected.norms, rtol=0.1)


def test_samples_repeat(cuda: torch.device) -> None:
    """With one seed a live teacher draws the same twice."""
    first, second = live_target("sampled", cuda), live_target("sampled", cuda)
    assert isinstance(first, SampledTarget) and isinstance(second, SampledTarget)
    assert torch.equal(first.ids_NK.cpu(), second.ids_NK.cpu())
