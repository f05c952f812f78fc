"""No content of a file that thack reads is a bug of thack: damaged in any way, it is read or refused by name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from thack.cache.format.plan import read_plan
from thack.config import DistillSettings, load_settings
from thack.data.readers import read_data
from thack.data.store import read_manifest
from thack.errors import ThackError
from thack.models.directory import read_config
from thack.reading import read_json
from thack.runtime import runlog
from thack.runtime.status import read_status
from thack.schema.cache import CacheManifest, ResponseEnds
from thack.schema.evaluation import EvalSetManifest
from thack.schema.experiment import RunLabels, StageRecord, Summary
from thack.schema.run import Manifest, TrainerState
from thack.schema.verdict import Verdict

FILES: dict[str, Callable[[Path], object]] = {
    "plan.json": lambda path: read_plan(path.parent),
    "cache/manifest.json": lambda path: CacheManifest.parse(read_json(path)),
    "ends.json": lambda path: ResponseEnds.parse(read_json(path)),
    "eval_set/manifest.json": lambda path: EvalSetManifest.parse(read_json(path), "manifest"),
    "responses/manifest.json": lambda path: read_manifest(path.parent),
    "run/manifest.json": lambda path: Manifest.parse(read_json(path), "manifest"),
    "trainer.json": lambda path: TrainerState.parse(read_json(path), "trainer"),
    "STATUS.json": lambda path: read_status(path.parent),
    "stage.json": lambda path: StageRecord.parse(read_json(path), "stage"),
    "labels/experiment.json": lambda path: RunLabels.parse(read_json(path), "labels"),
    "experiment.json": lambda path: Summary.parse(read_json(path), "summary"),
    "verdict.json": lambda path: Verdict.parse(read_json(path)),
    "config.toml": lambda path: load_settings(DistillSettings, [path]),
    "config.json": lambda path: read_config(path.parent),
    "metrics.jsonl": runlog.read,
    "data.jsonl": lambda path: read_data(path),
    "data.json": lambda path: read_data(path),
}
ODD: list[Any] = [None, True, -1, 1 << 70, 1e308, "", "x", "\ud800", [], [[]], {}, {"a": 1}, [1, "a"], "9" * 5000]
WORDS = st.sampled_from(
    [
        *(
            "schema",
            "kind",
            "format",
            "plan",
            "shards",
            "firsts",
            "record",
            "state",
            "step",
            "facts",
            "runs",
            "key",
            "stage",
        ),
        *(
            "tokens",
            "origin",
            "content",
            "messages",
            "prompt",
            "response",
            "role",
            "hidden_size",
            "loss",
            "fingerprints",
        ),
    ]
)
VALUES = st.recursive(
    st.sampled_from(ODD) | st.floats() | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)
CONTENT = (
    st.binary(max_size=60)
    | st.builds(lambda value: json.dumps(value).encode(), VALUES)
    | st.builds(lambda value, cut: json.dumps(value).encode()[:cut], VALUES, st.integers(0, 80))
    | st.builds(lambda value, code: json.dumps(value).encode(code), VALUES, st.sampled_from(["utf-16", "utf-8-sig"]))
    | st.sampled_from([b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000, b"NaN", b'{"a":1,"a":2}', b"\x00" * 9])
)


@pytest.mark.parametrize("name", FILES)
@settings(
    max_examples=int(os.environ.get("THACK_FUZZ", "25")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(content=CONTENT)
def test_damaged_files_are_read_or_refused(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with suppress(ThackError):
        FILES[name](path)
