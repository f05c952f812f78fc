"""Limits of the machine, as `ulimit` sets them: one clear line, and what to do."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from thack.runtime.failures import explained_failure, is_panic

from .conftest import Calls, Run

# Python leaves torn files of its own behind where a limit on their size is low.
ENVIRONMENT = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}


def limited(command: list[str], limit: Callable[[], None]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, preexec_fn=limit, capture_output=True, text=True, check=False, timeout=240, env=ENVIRONMENT
    )


WRITES = """
import sys
from pathlib import Path
from thack import api, files
from thack.cli import app
def corpus(out, **_):
    files.claim_output(Path(out), "run")
    files.write_bytes(Path(out) / "big", bytes(99_999))
api.corpus = corpus
sys.exit(app.run(["corpus", "--out", sys.argv[1]]))
"""


def test_a_file_beyond_the_limit_of_its_size(tmp_path: Path) -> None:
    done = limited(
        [sys.executable, "-c", WRITES, str(tmp_path / "out")],
        lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9999, 9999)),
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"error: cannot write {tmp_path}/out/big: file too large\n"
        "  nothing is lost: raise `ulimit -f` and run the same command again\n"
    )
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thack.json"], "no part of a file is left"


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs another user without processes")
def test_no_thread_but_the_first(tmp_path: Path) -> None:
    """Root is exempt from the limit, so the command runs as a user who has no other process."""
    capabilities = "+dac_override,+dac_read_search"
    user = ("setpriv", "--reuid=65533", "--keep-groups", f"--inh-caps={capabilities}", f"--ambient-caps={capabilities}")
    command = [*user, sys.executable, "-m", "thack", "corpus", "--out", str(tmp_path / "data")]
    done = limited(command, lambda: resource.setrlimit(resource.RLIMIT_NPROC, (1, 1)))
    assert done.returncode == 1
    assert done.stderr == (
        "error: this machine grants no further thread\n"
        "  raise `ulimit -u`, or set THACK_NUM_THREADS to a lower number\n"
    )


class PanicException(BaseException):
    """As PyO3 names it."""


def test_a_panic_of_a_library_in_rust_ends_with_one_line(run: Run, calls: Calls) -> None:
    """tokenizers starts threads of its own, and panics where it gets none."""
    none = PanicException("The global thread pool has not been initialized.: ThreadPoolBuildError { kind: IOError }")
    assert is_panic(none) and not is_panic(RuntimeError())
    assert "grants no further thread" in str(explained_failure(none))
    calls.answer("verdict", none)
    code, _, err = run("verdict", "runs/a")
    assert code == 1 and err.startswith("error: this machine grants no further thread") and "Traceback" not in err
    calls.answer("verdict", PanicException("index out of bounds"))
    code, _, err = run("verdict", "runs/a")
    assert code == 1 and "this should not happen: PanicException: index out of bounds" in err
