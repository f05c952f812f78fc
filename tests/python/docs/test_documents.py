"""Every command of the documents runs as it stands, in the order a reader would type it: one test for each block.

Blocks fenced as `sh` and `python` are run; in blocks fenced as `sh dry-run`, which would take minutes or hours, each
command gets `--dry-run`. Indented commands name models, servers or machines that are not here: they are not run, but
their flags and settings have to exist. Blocks without a language (make, which .ci/run runs; output) are not run.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import typer

import hooks
from thack import config
from thack.cli import app

ROOT = Path(__file__).parents[3]
GENERATED = {ROOT / "docs" / name for name in hooks.pages()}  # pages of the site that are made from the code
DOCUMENTS = [
    "README.md",
    "docs/index.md",
    "docs/your-own-model.md",
    "docs/how-to/another-tokenizer.md",
    "docs/how-to/targets.md",
    "docs/how-to/several-teachers.md",
    "docs/how-to/large-teacher.md",
    "docs/how-to/fresh.md",
    "docs/how-to/without-oracle.md",
    "docs/how-to/trainers.md",
    "docs/how-to/log.md",
    "docs/how-to/extend.md",
    "docs/reference/python.md",
    "docs/how-to/lora.md",
    "docs/how-to/worth.md",
    "docs/how-to/hard-soft.md",
    "docs/how-to/frozen-head.md",
    "docs/how-to/on-policy.md",
    "docs/how-to/teacher-prompt.md",
    "docs/cluster.md",
    "docs/concepts/verdict.md",
    "docs/concepts/hacking.md",
    "docs/concepts/targets.md",
    "docs/concepts/detectors.md",
    "docs/concepts/determinism.md",
    "docs/grid.md",
    *(f"docs/research/{path.name}" for path in sorted((ROOT / "docs/research").glob("*.md"))),
]
#: Pages with blocks that other tests run, for want of a server or a real model here.
RUN_ELSEWHERE = {"docs/tutorial.md": "real/test_tutorial.py", "docs/exchange.md": "integrations/test_recipes.py"}
PAGES = ["README.md", *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md")))]
_BLOCK = re.compile(r"^```([a-z][a-z -]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    document: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"

    def commands(self) -> list[str]:
        """Its lines, those that end in a backslash joined."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for line in lines if line.strip() and not line.startswith("#")]


def blocks_of(document: str) -> Iterator[Block]:
    text = (ROOT / document).read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        yield Block(document, text.count("\n", 0, found.start()) + 1, found[1], found[2])


def shown_commands(document: str) -> Iterator[str]:
    """The indented commands of a document, those left out that are shortened by `…`."""
    text = _BLOCK.sub("", (ROOT / document).read_text(encoding="utf-8"))
    for found in re.finditer(r"^ {4}(?:torchrun .* -m )?(thack .*(?:\n {8,}.*)*)$", text, re.MULTILINE):
        command = re.split(r" {3,}[(#]", found[1].replace("\n", " "))[0]
        if "…" not in command:
            yield command


SHOWN = [(page, command) for page in PAGES for command in shown_commands(page)]
BLOCKS = [block for document in DOCUMENTS for block in blocks_of(document)]


@dataclass(slots=True)
class Reader:
    """Somebody who types the blocks one after the other in one directory: later ones use what earlier ones left."""

    directory: Path
    outcomes: list[BaseException | None] = field(default_factory=list)

    def read(self, number: int, capfd: pytest.CaptureFixture[str]) -> None:
        """Run every block up to `number` that has not been run; raise what went wrong in that one."""
        while len(self.outcomes) <= number:
            try:
                run_block(BLOCKS[len(self.outcomes)], capfd)
            except BaseException as error:
                self.outcomes.append(error)
            else:
                self.outcomes.append(None)
        failure = self.outcomes[number]
        if failure is not None:
            raise failure


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    return Reader(tmp_path_factory.mktemp("reader"))


def run_block(block: Block, capfd: pytest.CaptureFixture[str]) -> None:
    if block.language == "python":
        exec(compile(block.text, str(block), "exec"), {"__name__": "__main__"})
        return
    assert block.language in ("sh", "sh dry-run"), f"{block}: say in this test how {block.language} is run"
    for line in block.commands():
        run_command(line, capfd, dry_run=block.language == "sh dry-run")


def run_command(line: str, capfd: pytest.CaptureFixture[str], *, dry_run: bool) -> None:
    words = shlex.split(line, comments=True)
    target = words[words.index(">") + 1] if ">" in words else None
    words = words[: words.index(">")] if ">" in words else words
    words += ["--dry-run"] if dry_run else []
    if words[0] == "thack":
        code = app.run(words[1:])
    else:
        assert words[0] in ("torchrun", "bash", "cmp"), f"{words[0]}: say in this test how it is run"
        program = [sys.executable, "-m", "torch.distributed.run"] if words[0] == "torchrun" else [words[0]]
        code = subprocess.run([*program, *words[1:]], check=False, timeout=150).returncode
    captured = capfd.readouterr()
    assert code == 0, f"{line}\n{captured.err}"
    if target:
        Path(target).write_text(captured.out)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", range(len(BLOCKS)), ids=map(str, BLOCKS))
def test_a_block_runs_as_it_stands(
    number: int, reader: Reader, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(reader.directory)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    reader.read(number, capfd)


def test_the_blocks_of_every_page_are_run_somewhere() -> None:
    pages = {page for page in PAGES if any(blocks_of(page))}
    assert pages == set(RUN_ELSEWHERE) | {block.document for block in BLOCKS}
    for page, test in RUN_ELSEWHERE.items():
        assert page.removeprefix("docs/") in (ROOT / "tests/python" / test).read_text(encoding="utf-8")


@pytest.mark.parametrize(("page", "command"), SHOWN)
def test_a_command_that_is_not_run_is_understood(page: str, command: str, capfd: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(command)[1:]
    leaf: Any = typer.main.get_command(app.make_app())
    while hasattr(leaf, "commands"):
        leaf = leaf.commands[words[0]]
        words = words[1:]
    leaf.make_context(leaf.name, list(words))
    if any("--show-settings" in parameter.opts for parameter in leaf.params):
        code = app.run([*shlex.split(command)[1:], "--show-settings"])
        assert code == 0, capfd.readouterr().err


def test_every_setting_of_the_documents_can_be_set() -> None:
    settings = [cls for name, cls in vars(config).items() if name.endswith("Settings")]
    known = {setting.key for cls in settings for setting in config.describe(cls)}
    for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        named = re.findall(r"--set '?([a-z][\w.]*)=", path.read_text(encoding="utf-8"))
        assert set(named) <= known, f"{path}: {set(named) - known}"


@pytest.mark.parametrize("document", PAGES)
def test_links_and_pictures_are_there(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)", text):
        if not target.startswith("http"):
            place = ((ROOT / document).parent / target).resolve()
            assert place.exists() or place in GENERATED, f"{document}: {target}"
