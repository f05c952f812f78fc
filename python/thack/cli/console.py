"""Output for people: results on stdout; progress, notes and errors on stderr.

Text may come from files of strangers. What would steer a terminal is shown escaped, here, where everything is written.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from thack.errors import ThackError
from thack.runtime.streams import escaped

VERDICT_STYLES = {"hacking": "bold red", "over-fitting": "yellow", "healthy": "green", "no alarm": "green"}


class SafeConsole(Console):
    """rich's console, on which no text steers the terminal or is read as markup; styles are given by type (`Text`)."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, soft_wrap=False, markup=False, emoji=False)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of a renderable, their text escaped."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(escaped(segment.text), segment.style)


def stdout() -> Console:
    """For results. Created for every use, so that redirected streams are seen; lines are not wrapped in a pipe."""
    return _console(stderr=False)


def stderr() -> Console:
    """For everything that is not a result."""
    return _console(stderr=True)


def _console(stderr: bool) -> Console:
    console = SafeConsole(stderr=stderr)
    if not console.is_terminal:
        console.width = 10_000  # a log line stays one line
        console.soft_wrap = True
    return console


def print_json(document: object) -> None:
    """The document of `--json`."""
    sys.stdout.write(escaped(json.dumps(document, indent=2, ensure_ascii=False, default=str)) + "\n")
    sys.stdout.flush()


def print_file(text: str) -> None:
    """The text of a file that the user keeps: as it is in a pipe, escaped on a terminal."""
    sys.stdout.write(escaped(text) if sys.stdout.isatty() else text)


def print_error(error: ThackError) -> None:
    """One red line, the details, and what to do next."""
    console = stderr()
    # Escaped before rich leaves out some of it.
    console.print(Text.assemble(("error: ", "bold red"), (escaped(error.message), "red")), soft_wrap=True)
    for detail in error.details:
        console.print(Text(escaped(f"  {detail}")), soft_wrap=True)
    if error.hint:
        console.print(Text(escaped(f"  {error.hint}"), style="cyan"), soft_wrap=True)


def print_item(text: str) -> None:
    """One item of a list; on a terminal, further lines are indented as the first."""
    console = stdout()
    width = max(20, console.width - 4)
    for number, line in enumerate(Text(text).wrap(console, width)):
        line.rstrip()
        console.print(Text.assemble("    " if number else "  · ", line))


def error_document(error: ThackError) -> dict[str, object]:
    """What `--json` prints instead of a result."""
    return {
        "error": error.message,
        "details": list(error.details),
        "hint": error.hint,
        "exit_code": error.exit_code,
    }


def number(value: float | None, digits: int = 4) -> str:
    """A number for a table cell: a dash for what was not measured."""
    return "–" if value is None else f"{value:.{digits}g}" if abs(value) < 1e-3 and value else f"{value:.{digits}f}"


def percent(fraction: float | None) -> str:
    """A signed change in percent."""
    return "–" if fraction is None else f"{fraction:+.1%}".replace("%", " %")


def count(value: float) -> str:
    """A count with thousands separated."""
    return f"{value:,.0f}"


def byte_size(value: float) -> str:
    """Bytes in the largest unit that gives a number of 1 or more."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(value) < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} PB"


def duration(seconds: float) -> str:
    """A length of time in its two largest units."""
    for size, large, small, parts in ((86400, "d", "h", 24), (3600, "h", "min", 60), (60, "min", "s", 60)):
        if seconds >= size:
            whole = round(seconds / size * parts)
            return f"{whole // parts:,} {large} {whole % parts} {small}"
    return f"{seconds:.1f} s"
