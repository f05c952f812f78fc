"""Signals at random moments of every verb, and two starts at once: nothing is lost, and the files are the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

LONG = bool(os.environ.get("THACK_LONG"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_stopped_at_random_moments_every_verb_ends_with_the_same_files(tmp_path: Path) -> None:
    script = Path(__file__).with_name("stopper.py")
    stops, verbs = ("10", []) if LONG else ("1", ["generate", "distill"])
    command = [sys.executable, str(script), str(tmp_path), stops, "7", *verbs]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-2:] == ["two at once: equal", "experiment: 3 stops: equal"]
