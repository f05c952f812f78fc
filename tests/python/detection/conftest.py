"""Makes the synthetic runs importable by the tests here and in ../reporting."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
