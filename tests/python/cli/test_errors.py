"""Failures are one line, what to do next, and an exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from thack.cli.session import session
from thack.errors import HackingFound, PeerFailed, Preempted, ThackError, UsageError

from .conftest import Calls, Run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["distil"], "no such command 'distil'. Did you mean 'distill'?"),
        (["distill", "--bogus", "3"], "no such option: --bogus"),
        (["distill", "--set", "epochs=many"], 'epochs = "many": must be a whole number'),
        (["distill", "--set", "epochs"], "--set epochs: not of the form key=value"),
        (["distill", "--divergence", "jdd"], "did you mean jsd?"),
        (["distill", "--batch-size", "0"], "batch_size = 0: must be 1 or more"),
        (["distill", "--config", "none.toml"], "none.toml does not exist"),
        (["demo", "--seeds", "x"], "--seeds x: not seeds"),
        (["experiment", "nothing"], "there is no recipe 'nothing'"),
        (["experiment", "demo", "--cell", "0", "--dry-run"], "--cell cannot be combined with --dry-run or --array"),
        (["slurm", "doctor"], "no job for thack doctor"),
        (["slurm", "sft", "--array", "2", "--", "--out", "a"], "--array 2 would run the same command 2 times"),
        (["verdict"], "missing argument"),
        (["verdict", "a", "--chosen-on", "b"], "--chosen-on chooses thresholds for --score"),
        (["verdict", "a", "--map", "golden"], "--map 'golden' is not of the form word=column"),
        (["corpus", "--held-out", "0"], "held-out"),
    ],
)
def test_usage_errors_are_one_line_with_exit_code_2(arguments: list[str], message: str, run: Run) -> None:
    code, out, err = run(*arguments)
    assert code == 2
    assert err.startswith("error: ")
    assert message.lower() in err.lower()
    assert "Traceback" not in err
    assert out == ""


@pytest.mark.parametrize(
    "arguments",
    [
        "report none",
        "report p.jsonl --out new/report.html",
        "verdict none",
        "cache-logits --teacher none --data p.jsonl --out new/cache",
        "generate --model none --data p.jsonl --out new/responses.jsonl",
        "distill --cache none --student none --out new/run",
        "sft --data none.jsonl --out new/run",
    ],
)
def test_what_is_refused_leaves_no_folder(
    arguments: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.jsonl").write_text('{"prompt": "a"}\n', encoding="utf-8")
    assert run(*arguments.split()).code in (1, 2)
    assert os.listdir() == ["p.jsonl"]


def test_a_wrong_setting_says_where_it_came_from_and_how_to_list_all(run: Run) -> None:
    err = run("distill", "--set", "x=3").err
    assert err == (
        "error: a setting is wrong\n  x: no such key (in --set x=3)\n"
        "  --show-settings lists every key with its default\n"
    )


def test_json_errors_are_one_document(run: Run) -> None:
    done = run("distill", "--json", "--set", "x=3")
    assert done.code == done.document["exit_code"] == 2
    assert done.document["details"] == ["x: no such key (in --set x=3)"]
    assert run("distill", "--json", "--zzz").document["error"] == "no such option: --zzz"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ThackError("broken", hint="mend it"), 1, "mend it"),
        (UsageError("no", hint="give another `mapping`"), 2, "give another --map"),
        (HackingFound("hacking found in a"), 3, "hacking found"),
        (Preempted("stopped by SIGTERM", details=["kept: step 3"]), 75, "to continue: thack"),
        (KeyboardInterrupt(), 130, "to continue: thack"),
        (MemoryError(), 1, "out of memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), 1, "out of memory"),
        (FileNotFoundError(2, "No such file or directory", "x/y"), 1, "x/y: no such file or directory"),
        (ZeroDivisionError("division by zero"), 1, "this should not happen: ZeroDivisionError"),
        (RuntimeError("odd"), 1, "this should not happen: RuntimeError: odd"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_exit_codes(error: BaseException, code: int, said: str, run: Run, calls: Calls) -> None:
    calls.answer("verdict", error)
    found, _, err = run("verdict", "runs/a")
    assert found == code
    assert said in err
    assert "Traceback" not in err


def test_out_of_memory_names_the_flags_of_the_command(run: Run, calls: Calls) -> None:
    calls.answer("distill", MemoryError())
    err = run("distill").err
    assert "lower --batch-size (distill: --set micro_batch_size=…), or --max-response-tokens" in err


def test_verbose_shows_the_traceback(run: Run, calls: Calls) -> None:
    calls.answer("verdict", ThackError("broken"))
    assert "Traceback" in run("verdict", "runs/a", "-v").err
    assert session.verbose
    assert "Traceback" not in run("verdict", "runs/a").err, "the flag must not leak into the next call"


def test_many_processes_are_refused_where_one_works(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = run("generate", "--data", "x")
    assert code == 2
    assert "rank 1: thack generate runs as one process, but 2 were started" in err


def test_the_first_rank_speaks_for_all_where_all_stop(monkeypatch: pytest.MonkeyPatch, run: Run, calls: Calls) -> None:
    calls.answer("distill", PeerFailed("a peer rank exited"))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run("distill") == (1, "", "")
    monkeypatch.setenv("RANK", "0")
    assert "a peer rank exited" in run("distill").err


def test_wrong_rank_variables_are_the_error_to_show(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    monkeypatch.setenv("RANK", "one")
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = run("distill")
    assert code == 2 and "RANK" in err


def test_a_closed_pipe_ends_quietly() -> None:
    script = f"{sys.executable} -m thack distill --show-settings | head -n 1"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.startswith("out = ")
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


def test_the_module_is_an_entry_point_and_pipes_get_no_control_codes() -> None:
    command = [sys.executable, "-m", "thack", "doctor", "--out", "/tmp"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "threads" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
