"""thack evaluate: golden and proxy metrics of one student on held-out prompts."""

from __future__ import annotations

from collections.abc import Mapping

import typer
from rich.table import Table

from thack import api
from thack.cli.command import Call, Flag, SettingsCommand
from thack.cli.console import number, stdout
from thack.cli.session import emit
from thack.config import EvaluateSettings
from thack.schema.metrics import is_bound

FLAGS = (
    Flag(key="student"),
    Flag(key="teacher"),
    Flag(key="oracle"),
    Flag(key="judge"),
    Flag(key="human_references"),
    Flag(key="eval_data"),
    Flag(key="data.prompt_key"),
    Flag(key="data.response_key"),
    Flag(key="data.max_prompt_tokens"),
    Flag(key="data.max_response_tokens"),
    Flag(key="data.limit"),
    Flag(key="data.on_bad_line"),
    Flag(key="out"),
    Flag(key="seed"),
    Flag(key="device"),
    Flag(key="load.full_hash"),
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    SettingsCommand(
        name="evaluate",
        settings=EvaluateSettings,
        run=run,
        flags=FLAGS,
        example="thack evaluate --student runs/a --teacher ./teacher --eval-data p.jsonl",
        set_example="evaluation.bootstrap=2000",
    ).add_to(app)


def run(call: Call[EvaluateSettings]) -> None:
    """Measure the golden and proxy metrics of a student on a frozen evaluation set of held-out prompts."""
    result = api.evaluate(call.settings, progress=call.progress)
    emit(result.dump(), lambda: _show(result.columns, str(call.settings.out)), out=call.settings.out)


def _show(columns: Mapping[str, float], written: str) -> None:
    table = Table("metric (nats, but shares and tokens of health)", "value", "95 % interval", box=None, pad_edge=False)
    for name, value in columns.items():
        if not is_bound(name):
            low, high = columns.get(f"{name}/low"), columns.get(f"{name}/high")
            table.add_row(name, number(value), f"{number(low)} … {number(high)}" if low is not None else "")
    stdout().print(table)
    stdout().print(f"written: {written}")
