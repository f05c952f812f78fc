"""The command line as a user meets it: help, flags, errors, exit codes, JSON."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from thack.cli import app
from thack.cli.session import session
from thack.config import CacheSettings, DistillSettings, load_settings
from thack.errors import HackingFound, Preempted, ThackError

COMMANDS = [
    "demo",
    "experiment",
    "corpus",
    "sft",
    "generate",
    "cache-logits",
    "distill",
    "evaluate",
    "verdict",
    "report",
    "cache inspect",
    "cache verify",
    "cache probe",
    "cache export",
    "cache import",
    "slurm",
    "doctor",
]


def thack(*arguments: str) -> tuple[int, str, str]:
    """Run `python -m thack` and give exit code, stdout, stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "thack", *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    return done.returncode, done.stdout, done.stderr


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """The same within this process."""
    code = app.run(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_is_quick_and_imports_no_torch() -> None:
    script = (
        "import sys; from thack.cli.app import run; code = run(['--help']);"
        "heavy = {'torch', 'transformers', 'matplotlib', 'pyarrow'} & set(sys.modules);"
        "assert not heavy, heavy;"
        "sys.exit(code)"
    )
    before = _children_cpu_s()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    took_s = _children_cpu_s() - before
    assert "distill" in done.stdout
    assert took_s < 1.5  # processor time: other tests run beside; the target is 0.5 s on an idle machine


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, *name.split(), "--help")
    assert code == 0
    assert "Example:" in out
    assert f"thack {name}" in " ".join(out.split())


def test_version_and_bare_call(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version")[1].startswith("thack 0.")
    code, out, err = run(capsys)
    assert code == 2
    assert "Usage" in out + err
    assert "error" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["distil"], "no such command 'distil'. Did you mean 'distill'?"),
        (["distill", "--bogus", "3"], "no such option: --bogus"),
        (["distill", "--set", "epochs=many"], 'epochs = "many": must be a whole number'),
        (["distill", "--divergence", "jdd"], "did you mean jsd?"),
        (["distill", "--config", "none.toml"], "none.toml does not exist"),
        (["demo", "--seeds", "x"], "--seeds x: not seeds"),
        (["slurm", "doctor"], "no job for thack doctor"),
        (["verdict"], "missing argument"),
    ],
)
def test_usage_errors_are_one_line_with_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert err.startswith("error: ")
    assert message.lower() in err.lower()
    assert "Traceback" not in err
    assert out == ""


def test_json_errors_are_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "distill", "--json", "--set", "x=3")
    document = json.loads(out)
    assert code == document["exit_code"] == 2
    assert document["details"] == ["x: no such key (in --set x=3)"]


def test_show_settings_prints_toml_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "distill", "--student", "s", "--set", "loss.beta=0.1", "--show-settings")
    assert code == 0
    (tmp_path / "c.toml").write_text(out)
    loaded = load_settings(DistillSettings, [tmp_path / "c.toml"])
    assert (loaded.student, loaded.loss.beta) == ("s", 0.1)
    assert "# jsd: M = " in out


def test_flags_win_over_set_and_imply_their_kind(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def settings(*arguments: str) -> CacheSettings:
        (tmp_path / "c.toml").write_text(run(capsys, "cache-logits", *arguments, "--show-settings")[1])
        return load_settings(CacheSettings, [tmp_path / "c.toml"])

    assert settings("--top-k", "8", "--set", "top_k=4").top_k == 8
    assert settings("--sampled", "4").kind == "sampled"
    assert settings("--sampled", "4", "--kind", "dense").kind == "dense"
    assert settings("--generate").generate is True
    assert settings("--sampled", "4", "--top-k", "8", "--kind", "top-k").kind == "top-k"


def test_flags_that_ask_for_two_kinds_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, said = run(capsys, "cache-logits", "--sampled", "4", "--top-k", "8", "--show-settings")
    assert code == 2
    assert "--sampled asks for kind = sampled, another flag for top-k" in said


def test_a_mistyped_out_leaves_what_is_there_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A finished run is not failed because a cache cannot lie in it."""
    (tmp_path / "thack.json").write_text('{"kind": "run", "format": 1}')
    (tmp_path / "STATUS.json").write_text('{"state": "finished", "step": 7}')
    for command in (["cache-logits", "--teacher", "t"], ["generate", "--model", "t"]):
        code, _, said = run(capsys, *command, "--data", "d", "--out", str(tmp_path))
        assert (code, "holds a run" in said) == (2, True)
    assert json.loads((tmp_path / "STATUS.json").read_text()) == {"state": "finished", "step": 7}
    (tmp_path / "file").touch()
    code, _, said = run(capsys, "generate", "--model", "t", "--data", "d", "--out", str(tmp_path / "file"))
    assert (code, "is a file" in said) == (2, True)


class _Raises:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, *_: object, **__: object) -> object:
        raise self.error


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ThackError("broken", hint="mend it"), 1, "mend it"),
        (HackingFound("hacking found in a"), 3, "hacking found"),
        (Preempted("stopped by SIGTERM", details=["kept: step 3"]), 75, "to continue: thack"),
        (KeyboardInterrupt(), 130, "to continue: thack"),
        (MemoryError(), 1, "out of memory"),
        (FileNotFoundError(2, "No such file or directory", "x/y"), 1, "x/y: no such file or directory"),
        (ZeroDivisionError("division by zero"), 1, "this should not happen: ZeroDivisionError"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_exit_codes(
    error: BaseException,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("thack.api.verdict", _Raises(error))
    found, _, err = run(capsys, "verdict", "runs/a")
    assert found == code
    assert said in err
    assert "Traceback" not in err


def test_verbose_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("thack.api.verdict", _Raises(ThackError("broken")))
    assert "Traceback" in run(capsys, "verdict", "runs/a", "-v")[2]
    assert session.verbose
    assert "Traceback" not in run(capsys, "verdict", "runs/a")[2], "the flag must not leak into the next call"


def test_many_processes_are_refused_where_one_works(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = run(capsys, "generate", "--data", "x")
    assert code == 2
    assert "runs as one process, but 2 were started" in err


def test_module_entry_point_and_no_control_codes_in_pipes() -> None:
    code, out, err = thack("doctor", "--out", "/tmp")
    assert code == 0, err
    assert "threads" in out
    assert "\x1b" not in out + err


def test_doctor_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "doctor", "--json", "--out", str(tmp_path / "not" / "yet"))
    names = [finding["name"] for finding in json.loads(out)]
    assert code == 0
    assert {"thack", "simd", "threads", "O_EXCL", "hard link", "fsync", "free space"} <= set(names)
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"
