"""What is recorded of machine and process, and what is not."""

from __future__ import annotations

import getpass
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import thack
from thack.runtime import environment
from thack.schema.document import parse
from thack.schema.run import Environment


def test_the_environment_is_recorded_and_comes_back() -> None:
    found = environment.environment()
    raw = json.loads(json.dumps(found.dump()))
    assert raw["schema"] == 1 and parse(Environment, raw, "environment.json") == found
    assert found.thack == thack.__version__ == environment.native_version()
    assert torch.__version__.startswith(found.packages["torch"])  # without the build's own suffix
    assert found.threads >= 1 and found.thread_limits["affinity mask"] >= 1
    assert found.simd == environment.simd_level() and found.cpu and found.bf16


def test_nothing_in_it_names_the_user_or_a_path() -> None:
    text = json.dumps(environment.environment().dump())
    assert str(Path.home()) not in text and str(Path.cwd()) not in text
    assert getpass.getuser() == "root" or getpass.getuser() not in text


def test_ranks_and_the_job_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    found = environment.environment()
    assert (found.world_size, found.slurm_job) == (4, "77")


def test_only_packages_that_are_installed_have_a_version() -> None:
    assert environment.version("numpy")
    assert environment.version("no-such-distribution-of-ours") is None


def test_the_revision_is_that_of_the_checkout_or_absent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(*_: object, **__: object) -> None:
        raise subprocess.CalledProcessError(128, "git")

    with monkeypatch.context() as patch:
        patch.setattr("subprocess.run", fails)
        assert environment._git_revision() is None
    with monkeypatch.context() as patch:
        patch.setattr(environment, "__file__", str(tmp_path / "lib" / "thack" / "runtime" / "environment.py"))
        assert environment._git_revision() is None, "installed, not a checkout"


@pytest.mark.parametrize(
    ("system", "content", "expected"),
    [
        ("Linux", "processor : 0\nmodel name\t: Fast CPU 9000\n", "Fast CPU 9000"),
        ("Linux", "processor : 0\n", "arm"),
        ("Darwin", "model name\t: not read\n", "arm"),
    ],
)
def test_the_name_of_the_cpu(monkeypatch: pytest.MonkeyPatch, system: str, content: str, expected: str) -> None:
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "arm")
    monkeypatch.setattr(Path, "read_text", lambda self: content)
    assert environment.cpu_name() == expected


def test_gpus_are_named_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")
    assert environment.gpus() == ("GPU 0", "GPU 1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert environment.gpus() == ()


def test_torch_is_not_imported_where_there_can_be_no_gpu() -> None:
    """`thack --version` and `thack doctor` on a login node stay quick."""
    script = (
        "import sys\n"
        "from thack.runtime import environment\n"
        "environment._may_have_gpu = lambda: False\n"
        "assert environment.environment().gpus == ()\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
