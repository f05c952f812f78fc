"""SIGKILL at random steps: whatever was being written, the curve comes out equal in hex."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = 50 if os.environ.get("THACK_LONG") else 5


@pytest.mark.timeout(1200)
def test_pitfall_28_killed_at_random_steps_the_curve_is_equal_in_hex(tmp_path: Path) -> None:
    script = Path(__file__).with_name("killer.py")
    command = [sys.executable, str(script), str(tmp_path), str(KILLS), "7"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"{KILLS} kills")
    print(done.stdout)
