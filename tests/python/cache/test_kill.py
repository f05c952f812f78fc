"""Jobs killed at random points lose nothing: resumed, they give the same bytes and leave no orphans."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

LONG = os.environ.get("THACK_LONG") == "1"


def test_killed_jobs_resume_to_the_same_bytes(tmp_path: Path) -> None:
    kills = 500 if LONG else 25
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    killer = [sys.executable, str(Path(__file__).with_name("killer.py")), str(tmp_path), str(kills), "5"]
    done = subprocess.run(killer, capture_output=True, text=True, env=environment, timeout=3600)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    print(report)
    assert report["kills"] >= kills
    assert report["identical"] == report["jobs"]
    assert report["orphans"] == 0
