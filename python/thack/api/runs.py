"""What became of runs: verdicts, detectors and reports."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from thack.errors import UsageError
from thack.schema.verdict import Margins, OracleFreeVerdict, Thresholds, Verdict

if TYPE_CHECKING:
    from thack.detection import Curves, Score


def verdict(
    run: str | Path,
    *,
    mapping: Mapping[str, str] | None = None,
    margins: Margins | None = None,
    thresholds: Thresholds | None = None,
    online: str | Path | None = None,
) -> Verdict | OracleFreeVerdict:
    """Judge a run by its golden and proxy curves; without a golden curve, by the detector that needs no oracle.

    A run directory that may be written gets verdict.json where there is a golden metric, and its model a card with the
    verdict.

    Args:
        run: Run directory, or a log of another trainer (JSONL, CSV or trainer_state.json).
        mapping: For such a log: its columns by what they measure, such as `{"golden": "eval/kl"}`.
        margins: What counts as a rise.
        thresholds: When a detector raises an alarm; used without a golden curve.
        online: A run of the same student on newly sampled responses and exact targets, for the cause of a rise.

    Returns:
        The verdict with its numbers; `explain` gives it in words.

    Raises:
        DataError: No metrics in the log, or no such column.
        UsageError: `online` is given, and the run has no golden metric.

    Example:
        >>> thack.verdict("runs/judged", margins=thack.Margins(rise=0.05)).name
        'inconclusive'
    """
    from thack.detection import verdict as judge
    from thack.detection import verdict_without_oracle
    from thack.files import write_text
    from thack.reporting import write_card

    path = Path(run)
    curves = read_curves(path, mapping)
    found: Verdict | OracleFreeVerdict
    if curves.has("golden"):
        path_of = None if online is None else read_curves(online, mapping)
        found = judge(curves, margins or Margins(), online=path_of)
    elif online is not None:
        raise UsageError(
            f"{curves.name} has no golden metric, by which it is compared with the path of `online`",
            hint="leave out `online`, or distill with an oracle and an evaluation set",
        )
    else:
        found = verdict_without_oracle(curves, thresholds or Thresholds())
    if path.is_dir() and os.access(path, os.W_OK):  # not somebody else's run, nor an archive
        if isinstance(found, Verdict):
            write_text(path / "verdict.json", found.to_json())
        write_card(path, found)
    return found


def explain(found: Verdict | OracleFreeVerdict) -> list[str]:
    """A verdict in sentences: what it means, and each reason.

    Args:
        found: What `verdict` returned.

    Returns:
        One sentence each, in the order in which the command line prints them.

    Example:
        >>> thack.explain(thack.verdict("runs/judged"))[0]
        'the numbers at hand do not decide'
    """
    from thack.reporting.prose import MEANING, reasons

    return [*([MEANING[found.name]] if found.name in MEANING else []), *reasons(found)]


def read_curves(run: str | Path, mapping: Mapping[str, str] | None = None) -> Curves:
    """The curves of a run directory, or of another trainer's log.

    Args:
        run: Run directory or log.
        mapping: The log's columns by what they measure.

    Returns:
        Golden, proxy and the others as arrays over evaluations: `curves.step_E`, `curves.of("golden").value`.

    Raises:
        DataError: No metrics in the log, or no such column.

    Example:
        >>> curves = thack.read_curves("runs/judged")
        >>> curves.has("proxy"), curves.of("golden").value.tolist()
        (False, [1.0, 1.0, 1.0])
    """
    from thack.detection import Curves

    path = Path(run)
    return Curves.from_run(path, mapping=mapping) if path.is_dir() else Curves.from_log(path, mapping)


def score_detectors(
    runs: Sequence[str | Path],
    *,
    chosen_on: Sequence[str | Path] = (),
    mapping: Mapping[str, str] | None = None,
    margins: Margins | None = None,
    thresholds: Thresholds | None = None,
) -> tuple[Score, ...]:
    """How well each detector that needs no oracle foresees the verdict on runs that have one, the best first.

    Args:
        runs: Run directories or logs with a golden metric.
        chosen_on: Other runs, on which the thresholds that separate best are chosen.
        mapping: Columns of foreign logs by what they measure.
        margins: What counts as a rise.
        thresholds: Used where `chosen_on` is empty.

    Returns:
        For each detector: the rises that it found, its false alarms, and how early it raised them.

    Raises:
        UsageError: A run without a golden metric.
    """
    from thack.detection import Case, with_chosen
    from thack.detection import score_detectors as score

    def cases(paths: Sequence[str | Path]) -> list[Case]:
        return [Case.of(read_curves(path, mapping), margins) for path in paths]

    limits = thresholds or Thresholds()
    if chosen_on:
        limits = with_chosen(cases(chosen_on), limits)
    return score(cases(runs), limits)


def report(runs: str | Path | Sequence[str | Path], out: str | Path | None = None) -> Path:
    """Write one self-contained HTML page about runs, or about an experiment.

    Args:
        runs: Run directories, side by side; or one directory that `experiment` wrote.
        out: The HTML file; by default report.html in the first directory.

    Returns:
        The path of the file.

    Raises:
        DataError: A directory that is no run.

    Example:
        >>> thack.report("runs/judged").name
        'report.html'
    """
    from thack.reporting import is_grid, write_grid_report, write_report

    paths = [Path(runs)] if isinstance(runs, str | Path) else [Path(run) for run in runs]
    path = Path(out) if out is not None else paths[0] / "report.html"
    if len(paths) == 1 and is_grid(paths[0]):
        return write_grid_report(paths[0], path)
    return write_report(paths, path)
