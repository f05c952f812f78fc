"""thack distill: train a student to match a teacher."""

from __future__ import annotations

from thack.cli.app import app
from thack.cli.console import out
from thack.cli.verbs import Call, Flag, verb
from thack.config import DistillSettings

FLAGS = {
    "student": Flag(key="student", help="directory of the model to train"),
    "cache": Flag(key="cache"),
    "teacher": Flag(key="teacher"),
    "data": Flag(key="data.path"),
    "limit": Flag(key="data.limit"),
    "on_bad_line": Flag(key="data.on_bad_line"),
    "source": Flag(key="source.kind", help="who writes the responses, and when"),
    "guard": Flag(key="guard.on", help="watch for hacking without an oracle, and act (see guard.policy)"),
    "divergence": Flag(key="loss.divergence", help="what is minimised"),
    "oracle": Flag(key="oracle", help="directory of the ground truth, for the golden metric"),
    "eval_data": Flag(key="eval_data"),
    "out": Flag(key="out", help="where the run goes; run again to go on"),
    "epochs": Flag(key="epochs", help="passes over the data"),
    "steps": Flag(key="steps"),
    "batch_size": Flag(key="batch_size"),
    "learning_rate": Flag(key="optimizer.learning_rate", help="peak learning rate"),
    "seed": Flag(key="seed", help="fixes order, sampling and dropout"),
    "device": Flag(key="device", help="auto, cpu, cuda, cuda:1 or mps"),
    "full_hash": Flag(key="load.full_hash"),
}


@verb(
    app,
    "distill",
    DistillSettings,
    flags=FLAGS,
    example="thack distill --cache cache/ --student ./student --eval-data held_out.jsonl --out runs/a",
    many=True,
    set_example="loss.temperature=2",
)
def distill(call: Call[DistillSettings]) -> None:
    """Train a student to match a teacher, from a cache or live, and watch golden and proxy on the way."""
    from thack.training import run_distill

    result = run_distill(call.settings, progress=call.progress)

    def show() -> None:
        out().print(f"run: {result.path} · {result.steps} steps · student: {result.model}")
        if call.settings.eval_data:
            out().print(f"next: thack verdict {result.path} · thack report {result.path}")

    call.emit({"run": str(result.path), "student": str(result.model), "steps": result.steps}, show)
