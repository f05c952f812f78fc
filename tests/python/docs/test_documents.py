"""Every command of the documents runs as it stands, in the order a reader would type it.

Blocks marked `sh` and `python` are run; blocks without a mark (make, which .ci/run runs) are not.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from thack.cli import app

ROOT = Path(__file__).parents[3]
DOCUMENTS = ["README.md", "docs/your-own-model.md", "docs/cluster.md", "docs/verdict.md"]
_BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(document: str) -> list[tuple[str, str]]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return [(found[1], found[2]) for found in _BLOCK.finditer(text)]


def commands(block: str) -> list[str]:
    """The lines of a block, those that end in a backslash joined."""
    lines = block.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def run_command(line: str, capfd: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(line, comments=True)
    target = words[words.index(">") + 1] if ">" in words else None
    words = words[: words.index(">")] if ">" in words else words
    if words[0] == "thack":
        code = app.run(words[1:])
    else:
        assert words[0] in ("torchrun", "bash"), f"{words[0]}: say in this test how it is run"
        program = [sys.executable, "-m", "torch.distributed.run"] if words[0] == "torchrun" else ["bash"]
        code = subprocess.run([*program, *words[1:]], check=False, timeout=150).returncode
    captured = capfd.readouterr()
    assert code == 0, f"{line}\n{captured.err}"
    if target:
        Path(target).write_text(captured.out)


@pytest.mark.timeout(600)
def test_documents_run_as_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """All documents, one after the other in one directory: later ones build on what earlier ones left."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    for document in DOCUMENTS:
        for kind, block in blocks(document):
            if kind == "python":
                exec(compile(block, document, "exec"), {"__name__": "__main__"})
                continue
            for line in commands(block):
                run_command(line, capfd)


def test_links_and_pictures_are_there() -> None:
    for document in DOCUMENTS:
        text = (ROOT / document).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#]+)", text):
            if not target.startswith("http"):
                assert ((ROOT / document).parent / target).exists(), f"{document}: {target}"
