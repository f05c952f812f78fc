"""thack doctor: is this machine ready, and do a teacher, a student and data go together?"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import typer
from rich.table import Table
from rich.text import Text

from thack import api
from thack.cli.command import Call, Flag, SettingsCommand
from thack.cli.console import stdout
from thack.cli.session import emit, session
from thack.config import DoctorSettings
from thack.errors import ThackError
from thack.schema.preflight import Finding

MARKS = {"ok": ("✓", "green"), "note": ("!", "yellow"), "wrong": ("✗", "bold red")}
FLAGS = (
    Flag(key="teacher"),
    Flag(key="student"),
    Flag(key="data.path", name="data"),
    Flag(key="data.on_bad_line"),
    Flag(key="data.prompt_key"),
    Flag(key="data.response_key"),
    Flag(key="data.max_response_tokens"),
    Flag(key="sample"),
    Flag(key="device"),
    Flag(key="out"),
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    SettingsCommand(
        name="doctor",
        settings=DoctorSettings,
        run=run,
        flags=FLAGS,
        example="thack doctor --teacher ./teacher --student ./student --data chats.jsonl",
        set_example="data.end=<|im_end|>",
    ).add_to(app)


def run(call: Call[DoctorSettings]) -> None:
    """Check this machine and the file system of --out; with models and --data, whether these go together."""
    settings = call.settings
    if settings.teacher or settings.student or settings.data.path:
        found = api.preflight(settings)
        findings: Sequence[Finding] = found.findings
        emit(found.dump(), lambda: show_findings(findings))
    else:
        findings = api.doctor(settings.out)
        emit([dataclasses.asdict(finding) for finding in findings], lambda: show_findings(findings))
    wrong = [finding.name for finding in findings if finding.state == "wrong"]
    if wrong and session.json:
        raise typer.Exit(1)  # the document says it
    if wrong:
        raise ThackError(f"not ready: {', '.join(wrong)}", hint="each line marked ✗ says what to do")


def show_findings(findings: Sequence[Finding]) -> None:
    """One line each, with what to type where something is wrong."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for finding in findings:
        mark, style = MARKS[finding.state]
        advice = f"\n→ {session.names.translate(finding.advice)}" if finding.advice else ""
        value = Text.assemble(finding.value, (advice, "dim"))
        table.add_row(Text(mark, style=style), Text(finding.name, style="bold"), value)
    stdout().print(table)
