"""A stand-in for apt-cache."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def install_apt_cache(directory: Path, monkeypatch: pytest.MonkeyPatch, lists: str = "", *, script: str = "") -> None:
    """Put an apt-cache before all others: one that prints `lists`, or does what the shell script says."""
    bin = directory / "bin"
    bin.mkdir()
    (bin / "lists").write_text(lists, encoding="utf-8")
    program = bin / "apt-cache"
    program.write_text(f"#!/bin/sh\n{script or f'/bin/cat {bin}/lists'}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(bin), prepend=os.pathsep)
