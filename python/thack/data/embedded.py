"""The tasks that need no file: Python's own standard library, and the package descriptions of Debian."""

from __future__ import annotations

from thack.data import stdlib
from thack.data.debian import debian_records
from thack.data.records import Record
from thack.errors import UsageError

QUESTIONS = ("debian",)  # conversations without answers: they need an oracle that can chat as it is
TASKS = (*stdlib.TASKS, *QUESTIONS)


def embedded_records(task: str) -> list[Record]:
    """All records of one task, in a fixed order.

    Raises:
        UsageError: there is no such task.
        DataError: this machine does not have its text.
    """
    if task not in TASKS:
        raise UsageError(f"unknown task {task!r}", details=["tasks: " + ", ".join(TASKS)])
    return debian_records() if task in QUESTIONS else stdlib.stdlib_records(task)
