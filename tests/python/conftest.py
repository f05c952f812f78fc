"""Shared by all Python tests: one thread per worker, no network, warnings are errors (see pyproject.toml)."""

from __future__ import annotations

import os

# before torch is imported: xdist runs one process per core
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
