"""Projected targets: they are of one student's head, which must stay as it is."""

from __future__ import annotations

from thack.config import CacheSettings, DistillSettings
from thack.errors import UsageError
from thack.schema.targets import TargetSpec


def check_projected(settings: CacheSettings) -> None:
    """Refuse a projected capture without a student; `check_capture` refuses one from a server.

    Raises:
        UsageError: names the setting.
    """
    if settings.kind != "projected":
        return
    if not settings.student:
        raise UsageError(
            "kind = projected is of a student's frozen head, and no student is given",
            hint="set `student` to the directory of the model that `distill` will train an adapter on",
        )


def check_frozen_head(settings: DistillSettings, spec: TargetSpec) -> None:
    """Refuse a projected target where the student's head trains, or the loss is not computed together with it.

    Raises:
        UsageError: names the setting.
    """
    if spec.kind != "projected":
        return
    if not settings.lora.rank:
        raise UsageError(
            "a projected target is of a frozen head, and lora.rank = 0 trains all weights, the head too",
            hint="set `lora.rank`, such as lora.rank = 16, or use another kind of target",
        )
    if settings.loss.fused is False:
        raise UsageError(
            "a projected target is compared with hidden states, and loss.fused = false computes logits first",
            hint="leave `loss.fused` at auto",
        )
