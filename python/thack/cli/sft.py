"""thack sft: train a model on prompts with responses."""

from __future__ import annotations

from thack.cli.app import app
from thack.cli.console import out
from thack.cli.verbs import Call, Flag, verb
from thack.config import SftSettings

FLAGS = {
    "data": Flag(key="data.path"),
    "limit": Flag(key="data.limit"),
    "on_bad_line": Flag(key="data.on_bad_line"),
    "model": Flag(key="model"),
    "out": Flag(key="out", help="where the run goes; run again to go on"),
    "epochs": Flag(key="epochs", help="passes over the data"),
    "batch_size": Flag(key="batch_size", help="sequences per optimizer step"),
    "learning_rate": Flag(key="optimizer.learning_rate", help="peak learning rate"),
    "seed": Flag(key="seed", help="fixes weights, order and dropout"),
    "device": Flag(key="device", help="auto, cpu, cuda, cuda:1 or mps"),
}


@verb(
    app,
    "sft",
    SftSettings,
    flags=FLAGS,
    example="thack sft --data pairs.jsonl --model ./base --out runs/teacher",
    many=True,
    set_example="optimizer.weight_decay=0.1",
)
def sft(call: Call[SftSettings]) -> None:
    """Train a model on prompts with responses: an oracle, a teacher, or a student to start from."""
    from thack.training import run_sft

    directory = run_sft(call.settings, progress=call.progress)
    call.emit({"out": str(directory)}, lambda: out().print(f"model: {directory}"))
