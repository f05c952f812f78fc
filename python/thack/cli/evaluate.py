"""thack evaluate: golden and proxy of one student on an evaluation set of held-out prompts."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from thack.cli.app import app
from thack.cli.console import number, out
from thack.cli.verbs import Call, Flag, verb
from thack.config import EvaluateSettings

FLAGS = {
    "student": Flag(key="student", help="directory of the model to judge"),
    "teacher": Flag(key="teacher", help="directory of its teacher, for the proxy metric"),
    "oracle": Flag(key="oracle", help="directory of the ground truth, for the golden metric"),
    "judge": Flag(key="judge", help="directory of a stronger model, where there is no oracle"),
    "human_references": Flag(key="human_references", help="golden from the responses in the evaluation set's file"),
    "eval_data": Flag(key="eval_data"),
    "on_bad_line": Flag(key="data.on_bad_line"),
    "out": Flag(key="out", help="the JSON file to write"),
    "seed": Flag(key="seed", help="fixes the sampled responses"),
    "device": Flag(key="device", help="auto, cpu, cuda, cuda:1 or mps"),
    "full_hash": Flag(key="load.full_hash"),
}


@verb(
    app,
    "evaluate",
    EvaluateSettings,
    flags=FLAGS,
    example="thack evaluate --student runs/a --teacher ./teacher --oracle ./oracle --eval-data held_out.jsonl",
    set_example="evaluation.bootstrap=2000",
)
def evaluate(call: Call[EvaluateSettings]) -> None:
    """Measure golden and proxy of a student on a frozen evaluation set of held-out prompts."""
    from thack.evaluation import run_evaluate

    result = run_evaluate(call.settings, progress=call.progress)
    call.emit(result.dump(), lambda: _show(result.columns, str(call.settings.out)))


def _show(columns: Mapping[str, float], written: str) -> None:
    from thack.schema.metrics import is_bound

    table = Table("metric (nats, but shares and tokens of health)", "value", "95 % interval", box=None, pad_edge=False)
    for name, value in columns.items():
        if not is_bound(name):
            low, high = columns.get(f"{name}/low"), columns.get(f"{name}/high")
            table.add_row(name, number(value), f"{number(low)} … {number(high)}" if low is not None else "")
    out().print(table)
    out().print(f"written: {written}")
