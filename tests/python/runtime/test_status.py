"""STATUS.json is true however the work ends, and exceptions of the machine come out in a user's words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from thack.errors import DataError, Interrupted, MismatchError, PeerFailed, Preempted, ThackError, UsageError
from thack.files import claim_output
from thack.runtime.failures import explained_failure
from thack.runtime.preemption import StopRequest
from thack.runtime.status import STATUS, read_status, recorded
from thack.schema.run import Status


@pytest.fixture
def out(tmp_path: Path) -> Path:
    claim_output(tmp_path / "out", "run")
    return tmp_path / "out"


ENDINGS = [
    (KeyError("x"), "failed", 1, "KeyError: 'x'"),
    (ValueError("two\nlines"), "failed", 1, "ValueError: two"),
    (AssertionError(), "failed", 1, "AssertionError: "),
    (OSError("no number"), "failed", 1, "OSError: no number"),
    (SystemExit(3), "failed", 1, "SystemExit: 3"),
    (UsageError("wrong"), "failed", 2, "wrong"),
    (Preempted("stopped by SIGTERM"), "stopped", 75, "stopped by SIGTERM"),
    (Interrupted("stopped by Ctrl-C"), "stopped", 130, "stopped by Ctrl-C"),
    (KeyboardInterrupt(), "stopped", 130, "stopped by Ctrl-C"),
    (StopRequest("SIGTERM"), "stopped", 75, "stopped by SIGTERM"),
    (MemoryError(), "failed", 1, "out of memory"),
]


@pytest.mark.parametrize(("error", "state", "code", "reason"), ENDINGS, ids=lambda value: type(value).__name__)
def test_every_end_is_recorded(out: Path, error: BaseException, state: str, code: int, reason: str) -> None:
    steps = iter((2, 7))
    raised = pytest.raises(ThackError if "stopped" in reason or reason == "out of memory" else type(error))
    with raised, recorded(out, "run", step=lambda: next(steps)):
        assert read_status(out) == Status(state="running", step=2)
        raise error
    assert read_status(out) == Status(state=state, step=7, exit_code=code, reason=reason)  # type: ignore[arg-type]


def test_a_good_end_is_recorded_and_slurm_finds_its_line(out: Path) -> None:
    with recorded(out, "run"):
        pass
    assert json.loads((out / STATUS).read_text()) == Status(state="finished").dump()
    with pytest.raises(Preempted), recorded(out, "run"):
        raise Preempted("stopped by SIGUSR2")
    assert '"exit_code": 75' in (out / STATUS).read_text()  # what the batch scripts look for


@pytest.mark.parametrize("error", [UsageError("other settings"), MismatchError("other data")])
def test_a_finished_output_stays_finished_where_it_refuses_a_command(out: Path, error: ThackError) -> None:
    for before in ("failed", "finished"):
        with pytest.raises(type(error)), recorded(out, "run"):
            raise error
        found = read_status(out)
        assert found is not None and found.state == before
        with recorded(out, "run"):
            pass


def test_a_directory_of_another_kind_or_of_nobody_is_left_alone(out: Path, tmp_path: Path) -> None:
    for directory, kind in ((out, "cache"), (tmp_path / "nowhere", "run"), (out / "thack.json", "run")):
        with pytest.raises(KeyError), recorded(directory, kind):
            raise KeyError
    assert not (out / STATUS).exists() and not (tmp_path / "nowhere").exists()


def test_a_directory_that_is_claimed_inside_is_ours_at_the_end(tmp_path: Path) -> None:
    with recorded(tmp_path / "new", "cache"):
        claim_output(tmp_path / "new", "cache")
    assert read_status(tmp_path / "new") == Status(state="finished")


def test_only_the_first_rank_writes(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with recorded(out, "run"):
        pass
    assert read_status(out) is None


def test_shared_work_runs_until_the_rank_that_finds_it_complete(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, is_complete, state in (("0", False, "running"), ("1", False, "running"), ("1", True, "finished")):
        monkeypatch.setenv("RANK", rank)
        with recorded(out, "run", complete=lambda is_complete=is_complete: is_complete):  # type: ignore[misc]
            pass
        found = read_status(out)
        assert found is not None and found.state == state


def test_a_disk_that_is_full_does_not_hide_why_the_work_ended(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise ThackError("cannot write: no space left")

    with pytest.raises(ZeroDivisionError), recorded(out, "run"):
        monkeypatch.setattr("thack.runtime.status.write_json", full)
        raise ZeroDivisionError


def test_a_full_disk_keeps_the_status_true_where_it_fits_into_the_old_one(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise ThackError("cannot write: no space left")

    for reason, state in (("x", "failed"), ("x" * (1 << 20), "running")):
        with pytest.raises(UsageError), monkeypatch.context() as patch, recorded(out, "run"):
            patch.setattr("thack.runtime.status.write_json", full)
            raise UsageError(reason)
        found = read_status(out)
        assert found is not None and found.state == state
    with recorded(out, "run"):
        pass
    assert read_status(out) == Status(state="finished")


def test_a_status_of_another_layout_is_refused(out: Path) -> None:
    (out / STATUS).write_text('{"state": "finished"}')
    with pytest.raises(DataError, match=r"STATUS.json: schema None, but this version of thack reads 1"):
        read_status(out)


class _DistBackendError(torch.distributed.DistError):
    pass


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), ThackError, "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 1 TB"), ThackError, "out of memory"),
        (_DistBackendError("NCCL error in: unhandled system error"), PeerFailed, "a peer rank exited or timed out"),
        (FileNotFoundError(2, "No such file or directory", "x/y"), ThackError, "x/y: no such file or directory"),
    ],
)
def test_failures_of_the_machine_explained_failure(error: Exception, kind: type[ThackError], message: str) -> None:
    found = explained_failure(error)
    assert type(found) is kind and found.message == message


@pytest.mark.parametrize("error", [RuntimeError("peer review of gloo failed"), KeyError("x"), OSError("plain")])
def test_what_is_not_known_may_be_a_bug_and_stays_what_it_is(error: Exception) -> None:
    assert explained_failure(error) is None
