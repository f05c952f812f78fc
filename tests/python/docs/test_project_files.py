"""Files for those who cite, release, package or deploy thack: they agree with the project, and what they run exists."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import TypeAlias

import pytest
import yaml

from thack.cli import app

ROOT = Path(__file__).parents[3]
CLUSTERS = ROOT / "examples" / "clusters"
Yaml: TypeAlias = "dict[str, Yaml] | list[Yaml] | str | int | float | bool | None"


def read_yaml(path: Path) -> Yaml:
    document: Yaml = yaml.safe_load(path.read_text("utf-8"))
    return document


def walk(document: Yaml, *keys: str) -> Yaml:
    for key in keys:
        assert isinstance(document, dict), f"{key} is looked up in {document!r}"
        document = document[key]
    return document


def version() -> str:
    return str(tomllib.loads((ROOT / "Cargo.toml").read_text("utf-8"))["package"]["version"])


def test_the_citation_has_the_version_of_the_crate() -> None:
    citation = read_yaml(ROOT / "CITATION.cff")
    assert walk(citation, "version") == version()
    assert walk(citation, "cff-version") == "1.2.0" and walk(citation, "authors")


def test_the_changelog_begins_with_this_version() -> None:
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert newest is not None and newest[1] == version()


def test_every_action_is_pinned_to_a_commit() -> None:
    workflows = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    used = [use for path in workflows for use in re.findall(r"uses: (\S+)(.*)", path.read_text("utf-8"))]
    assert used and all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", name) for name, _ in used)
    assert all(re.fullmatch(r" # v\d+\.\d+\.\d+", comment) for _, comment in used)


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda path: path.stem)
def test_every_template_and_workflow_is_yaml(path: Path) -> None:
    assert isinstance(read_yaml(path), dict)


def test_hooks_run_linters_of_this_environment() -> None:
    text = (ROOT / ".pre-commit-config.yaml").read_text("utf-8")
    entries = re.findall(r"entry: (.*)", text)
    lint = (ROOT / "Makefile").read_text("utf-8").replace("$(BIN)", ".venv/bin")
    assert entries and all(entry.removesuffix(" --force-exclude") in lint for entry in entries)


def sky_command() -> list[str]:
    run = walk(read_yaml(CLUSTERS / "skypilot.yaml"), "run")
    assert isinstance(run, str)
    return shlex.split(run)[1:]


def kubernetes_command() -> list[str]:
    containers = walk(read_yaml(CLUSTERS / "kubernetes.yaml"), "spec", "template", "spec", "containers")
    assert isinstance(containers, list)
    arguments = walk(containers[0], "args")
    assert isinstance(arguments, list)
    return [str(argument) for argument in arguments]


@pytest.mark.parametrize("command", [sky_command(), kubernetes_command()], ids=["skypilot", "kubernetes"])
def test_the_commands_of_job_files_are_understood(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run([*command, "--show-settings"]) == 0
    assert "sampled" in capsys.readouterr().out


def test_the_tasks_of_the_kubernetes_job_have_ranks_as_the_code_reads_them() -> None:
    document = (CLUSTERS / "kubernetes.yaml").read_text("utf-8")
    spec = walk(read_yaml(CLUSTERS / "kubernetes.yaml"), "spec")
    tasks = walk(spec, "completions")
    assert walk(spec, "completionMode") == "Indexed" and tasks == walk(spec, "parallelism")
    assert re.search(rf'name: WORLD_SIZE\s+value: "{tasks}"', document)


def test_the_page_on_installation_has_every_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    page = (ROOT / "docs" / "install.md").read_text("utf-8")
    table = page[page.index("| extra |") :].split("\n\n")[0]
    named = [name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(named) == sorted(extras)


@pytest.mark.parametrize("name", ["Containerfile", "thack.def"])
def test_containers_install_extras_that_exist(name: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    asked = re.findall(r"\$wheel\[([\w,]+)\]", (ROOT / "containers" / name).read_text("utf-8"))
    assert asked and set(asked[0].split(",")) <= set(extras)
