"""Synthetic runs come from ../detection, grids of them from here."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "detection"), str(HERE)]
