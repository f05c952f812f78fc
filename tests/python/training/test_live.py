"""A live teacher: the targets of a cache without the cache, and what is refused before anything is loaded."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from thack.cache.capture.data import CaptureData, ListedSequences
from thack.cache.capture.preparation import make_plan
from thack.cache.capture.scorer import Scorer
from thack.checks import check_combination
from thack.config import CacheSettings, DistillSettings, LossSettings, TargetSettings
from thack.config.specs import cache_settings
from thack.errors import UndefinedLoss, UsageError
from thack.models.batch import Batch
from thack.schema.targets import TargetSpec
from thack.targets import ProjectedTeacher
from thack.training.live import LiveTeacher

from .small import model, sequences


def tensors(target: Any) -> list[Tensor]:
    values = [getattr(target, f.name) for f in fields(target)]
    return [value for value in values if isinstance(value, Tensor)]


@pytest.mark.parametrize("word", ["dense", "top-k:5", "sampled:4"])
def test_a_live_teacher_keeps_what_a_capture_records(word: str) -> None:
    """To the last bit, by one seed, in every epoch: both call `targets.select` on the same logits."""
    teacher, data, spec = model(1), sequences(6), TargetSpec.parse(word)
    settings = cache_settings(CacheSettings(seed=5), spec)
    captured = (
        Scorer(teacher, make_plan(settings, teacher, CaptureData(ListedSequences(data))), settings).score(data).target
    )
    live = LiveTeacher(teacher, teacher.vocab_size, spec.as_live(), seed=5, examples=data)
    for epoch in (0, 3):
        found = live.target(data, Batch.of(data, teacher.device), epoch)
        assert type(found) is type(captured)
        assert all(map(torch.equal, tensors(found), tensors(captured)))


@pytest.mark.parametrize("word", ["live/sampled:3", "live/multinomial:3", "live/mixed:3+2"])
def test_draws_change_with_the_epoch_where_they_are_asked_to_or_the_responses_do(word: str) -> None:
    teacher, data, spec = model(1), sequences(4), TargetSpec.parse(word)
    batch = Batch.of(data, teacher.device)

    def drawn(spec: TargetSpec, epoch: int, examples: Any = data) -> list[Tensor]:
        live = LiveTeacher(teacher, teacher.vocab_size, spec, seed=0, examples=examples)
        return tensors(live.target(data, batch, epoch))

    fixed = drawn(spec, 0)
    assert all(map(torch.equal, fixed, drawn(spec, 5)))
    assert not all(map(torch.equal, fixed, drawn(replace(spec, redraw=True), 5)))
    assert not all(map(torch.equal, drawn(spec, 1, []), drawn(spec, 2, [])))


def test_draws_do_not_depend_on_the_batch() -> None:
    teacher, data = model(1), sequences(4)
    live = LiveTeacher(teacher, teacher.vocab_size, TargetSpec.parse("live/sampled:3"), seed=0, examples=data)
    whole = tensors(live.target(data, Batch.of(data, teacher.device), 0))
    parts = [tensors(live.target(part, Batch.of(part, teacher.device), 0)) for part in (data[:1], data[1:])]
    for one, first, second in zip(whole, *parts, strict=True):
        torch.testing.assert_close(torch.cat([first, second]), one, atol=1e-6, rtol=1e-5)


def test_a_dense_target_can_stay_before_the_head() -> None:
    teacher, data = model(1), sequences(4)
    batch, width = Batch.of(data, teacher.device), teacher.vocab_size - 5
    found = [
        LiveTeacher(teacher, width, TargetSpec(live=True), seed=0, projects=projects).target(data, batch, 0)
        for projects in (False, True)
    ]
    assert isinstance(found[0], ProjectedTeacher)
    torch.testing.assert_close(tensors(found[0].to_dense())[0], tensors(found[1])[0])


def test_the_prior_is_the_mean_tail_of_the_examples() -> None:
    teacher, data = model(1), sequences(5)
    live = LiveTeacher(teacher, teacher.vocab_size, TargetSpec.parse("live/mixed:3+prior"), seed=0, examples=data)
    p = torch.log_softmax(teacher(Batch.of(data, teacher.device)).detach().double(), 1).exp().numpy()
    np.put_along_axis(p, np.argsort(-p, axis=1)[:, :3], 0, 1)
    mean = p.sum(0) / p.sum()
    found = live._prior().double().numpy()
    np.testing.assert_allclose(found, (mean + 1e-3 / len(mean)) / (1 + 1e-3), rtol=1e-4)


BASE = DistillSettings(student="s", teacher="t", data=replace(DistillSettings().data, path="d"))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"target": TargetSettings(kind="mixed")}, UsageError, "leaves a share of the tail"),
        ({"target": TargetSettings(tail_prior=0.5)}, UsageError, "belong to kind = mixed"),
        ({"target": TargetSettings(kind="top-k", redraw=True)}, UsageError, "a top-k target draws nothing"),
        ({"cache": "c", "target": TargetSettings(kind="top-k")}, UsageError, "applies only to a live teacher"),
        (
            {"target": TargetSettings(kind="sampled"), "loss": LossSettings(divergence="jsd")},
            UndefinedLoss,
            "jsd is not defined on sampled targets",
        ),
        (
            {"target": TargetSettings(kind="multinomial"), "loss": LossSettings(add=("reverse_kl:0.5",))},
            UndefinedLoss,
            "reverse_kl is not defined on multinomial targets",
        ),
        (
            {"target": TargetSettings(kind="top-k"), "loss": LossSettings(temperature=2)},
            UndefinedLoss,
            "temperature 2 needs the tail at that temperature",
        ),
        ({"loss": LossSettings(add=("reverse_kl",))}, UndefinedLoss, "is not a divergence and its weight"),
        (
            {
                "target": TargetSettings(kind="mixed", tail_prior=1),
                "source": replace(BASE.source, kind="online-teacher"),
            },
            UsageError,
            "the prior is the mean tail",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_loaded(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        check_combination(replace(BASE, **changes))
