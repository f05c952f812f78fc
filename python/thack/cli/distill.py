"""thack distill: train a student to match a teacher."""

from __future__ import annotations

import typer

from thack import api
from thack.cli.command import Call, Flag, SettingsCommand
from thack.cli.console import stdout
from thack.cli.session import emit
from thack.config import DistillSettings

EVAL_COUNT = "evaluations after the one at step 0; without it, fewer where they would take most of the run's work"
BASELINE = "with sft, also fine-tune on the same responses, steps and rate afterwards, and say what distillation gained"
POLICY = (
    "train by log-probabilities alone: k1, policy gradient with advantage log p − log q (reverse KL), or k3, derived "
    "p/q − 1 − log p/q"
)
FLAGS = (
    Flag(key="student"),
    Flag(key="cache"),
    Flag(key="cache_weights", name="cache_weight"),
    Flag(key="teacher"),
    Flag(key="server.url", name="server"),
    Flag(key="server.model", name="model"),
    Flag(key="data.path", name="data"),
    Flag(key="data.prompt_key"),
    Flag(key="data.response_key"),
    Flag(key="data.max_prompt_tokens"),
    Flag(key="data.max_response_tokens"),
    Flag(key="data.limit"),
    Flag(key="data.on_bad_line"),
    Flag(key="source.kind", name="source"),
    Flag(key="guard.on", name="guard"),
    Flag(key="loss.divergence", implies={"loss.weight": 1.0}),
    Flag(key="baseline", help=BASELINE),
    Flag(
        key="loss.policy.estimator", name="policy", help=POLICY, implies={"loss.policy.weight": 1.0, "loss.weight": 0.0}
    ),
    Flag(key="loss.mix", implies={"loss.ce_weight": 1.0}, unless="sum"),
    Flag(key="oracle"),
    Flag(key="eval_data"),
    Flag(key="evaluation.count", name="eval_count", help=EVAL_COUNT, implies={"evaluation.max_share": 1.0}),
    Flag(key="evaluation.every", name="eval_every"),
    Flag(key="out"),
    Flag(key="epochs"),
    Flag(key="steps"),
    Flag(key="batch_size"),
    Flag(key="optimizer.learning_rate"),
    Flag(key="seed"),
    Flag(key="device"),
    Flag(key="load.full_hash"),
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    SettingsCommand(
        name="distill",
        settings=DistillSettings,
        run=run,
        flags=FLAGS,
        example="thack distill --cache cache/ --student ./student --out runs/a",
        set_example="loss.temperature=2, or data.teacher_system=TEXT for a text that the teacher alone reads",
        many=True,
    ).add_to(app)


def run(call: Call[DistillSettings]) -> None:
    """Train a student to match a teacher, from a cache or live.

    The proxy metric is its distance to the teacher on held-out prompts, the golden metric that to an oracle.
    A student hacks its teacher where the proxy falls while golden rises.
    """
    result = api.distill(call.settings, progress=call.progress)

    def show() -> None:
        stdout().print(f"run: {result.path} · {result.steps} steps · student: {result.model}")
        if result.best is not None:
            stdout().print(f"nearest to the teacher on held-out prompts: {result.best}")
        if result.supervised is not None:
            stdout().print(f"plain fine-tuning beside it: {result.supervised}")
        if call.settings.eval_data:
            stdout().print(f"next: thack verdict {result.path} · thack report {result.path}")

    emit({"run": str(result.path), "student": str(result.model), "steps": result.steps}, show, out=result.path)
