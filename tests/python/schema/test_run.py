"""What a run says of itself comes back from its files, and a resumed run is compared with it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from thack.errors import DataError
from thack.schema.run import Costs, Manifest, RunFacts, Status, TrainerState

FACTS = RunFacts(
    models={"student": "sha256:1", "teacher": "sha256:2"},
    origins={"student": "org/small@abc", "teacher": "./big"},
    tokenizer="sha256:3",
    data="sha256:4",
    eval_set="sha256:5",
    compared_ids=264,
    sequences=10,
    precision={"student": "float32 (asked for)"},
)


def test_files_come_back() -> None:
    status = Status(state="stopped", step=7, exit_code=75, reason="stopped by SIGTERM")
    assert Status.parse(json.loads(json.dumps(status.dump()))) == status
    manifest = Manifest(command="distill", facts=FACTS)
    raw = json.loads(json.dumps(manifest.dump()))
    assert raw["kind"] == "run" and Manifest.parse(raw) == manifest
    state = TrainerState(step=3, costs=Costs(teacher_tokens=5, seconds=0.5), hooks={"guard": {"written": [0]}})
    assert TrainerState.parse(json.loads(json.dumps(state.dump()))) == state


@pytest.mark.parametrize("changes", [{"kind": "cache"}, {"command": "corpus"}, {"schema": 2}, {"facts": {}}])
def test_a_manifest_of_something_else_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(DataError, match=r"manifest\.json: "):
        Manifest.parse(Manifest(command="sft", facts=FACTS).dump() | changes)


def test_what_a_resumed_run_may_not_change() -> None:
    assert FACTS.changes(FACTS) == {}
    now = replace(FACTS, models={**FACTS.models, "teacher": "sha256:9"}, data=None, sequences=11)
    assert FACTS.changes(now) == {
        "models.teacher": ("sha256:2", "sha256:9"),
        "data": ("sha256:4", None),
        "sequences": (10, 11),
    }


def test_what_it_may_change() -> None:
    """The student, which now comes from a checkpoint; what depends on the machine; new roles."""
    now = replace(
        FACTS,
        models={"student": "sha256:8", "teacher": "sha256:2", "judge": "sha256:6"},
        origins={"teacher": "/elsewhere/big"},
        precision={"student": "bfloat16"},
        ranks=4,
    )
    assert FACTS.changes(now) == {}
    kept = now.with_student_of(FACTS)
    assert kept.models == {"student": "sha256:1", "teacher": "sha256:2", "judge": "sha256:6"}
    assert kept.origins == {"teacher": "/elsewhere/big", "student": "org/small@abc"}
    unnamed = replace(FACTS, origins={})  # a new model has no origin
    assert replace(now, origins={}).with_student_of(unnamed).origins == {}


def test_costs_as_columns() -> None:
    assert Costs(generated_tokens=3, seconds=1.23456).columns() == {
        "generated_tokens": 3,
        "teacher_tokens": 0,
        "evaluation_generated_tokens": 0,
        "evaluation_scored_tokens": 0,
        "seconds_evaluation": 0.0,
        "seconds": 1.235,
    }
