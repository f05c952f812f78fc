"""Questions about the packages of Debian, as its package manager describes them: prompts for a chat model, no answers.

    What does the Debian package nmap do? Its description: The Network Mapper

The text is what `apt-cache dumpavail` prints: all packages of the releases that this machine follows, or, where it
keeps no such lists, those that are installed. Descriptions that several packages share count once.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from heapq import nsmallest

from thack.data.formats import to_record
from thack.data.records import Record
from thack.errors import DataError

_PROGRAM = "apt-cache"
_TIMEOUT_S = 300
_MAX_RECORDS = 9000  # of some sixty thousand; as many as of other tasks
_ELSEWHERE = "elsewhere, write prompts into DIR/NAME.jsonl and use `data = DIR`, `task = NAME`"


def debian_records() -> list[Record]:
    """One question for each package, as a conversation, in the order of their ids.

    Raises:
        DataError: this machine has no apt-cache, it failed, or it knows no packages.
    """
    names: dict[str, str] = {}
    for name, description in _packages(_available()):
        names.setdefault(description, name)
    if not names:
        raise DataError(f"{_PROGRAM} knows no package with a description", hint="run `apt-get update` first")
    records = [_question(name, description) for description, name in names.items()]
    return nsmallest(_MAX_RECORDS, records, key=lambda record: record.prompt_id)


def system_release() -> str:
    """The name and version of this system, such as `debian 12`; empty where it does not say."""
    with suppress(OSError):
        found = platform.freedesktop_os_release()
        return f"{found['ID']} {found.get('VERSION_ID', '')}".strip()
    return ""


def _question(name: str, description: str) -> Record:
    text = f"What does the Debian package {name} do? Its description: {description}"
    return to_record({"messages": [{"role": "user", "content": text}]})


def _available() -> str:
    program = shutil.which(_PROGRAM)
    if program is None:
        raise DataError(f"task debian reads {_PROGRAM}, which this machine does not have", hint=_ELSEWHERE)
    try:
        done = subprocess.run([program, "dumpavail"], capture_output=True, timeout=_TIMEOUT_S, check=True)
    except subprocess.CalledProcessError as error:
        last = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise DataError(f"{_PROGRAM} dumpavail failed", details=last, hint=_ELSEWHERE) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DataError(f"{_PROGRAM} dumpavail failed ({error})", hint=_ELSEWHERE) from error
    return done.stdout.decode(errors="replace")


def _packages(text: str) -> Iterator[tuple[str, str]]:
    """Name and first line of the description of every paragraph that has both."""
    for paragraph in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and line[0] not in " \t")
        description = fields.get("Description") or fields.get("Description-en")
        if description and "Package" in fields:
            yield fields["Package"].strip(), " ".join(description.split())
