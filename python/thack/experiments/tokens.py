"""What the responses of a run have cost: how many tokens teacher and student wrote, and how many the teacher scored."""

from __future__ import annotations

from thack.data.store import read_manifest
from thack.detection import Curves
from thack.experiments.methods import has_cache
from thack.experiments.plan import PlannedRun
from thack.reading import read_json
from thack.schema.experiment import ResponseTokens
from thack.schema.run import Manifest


def response_tokens(planned: PlannedRun, curves: Curves) -> ResponseTokens | None:
    """Of a complete run; None where it does not say how much was given to it, as a copy without its manifest.

    The cross-entropy alone needs no scores, so those of the cache that it reads its responses from are not counted.
    """
    arm, given = planned.cell.arm, _given_tokens(planned)
    if given is None:
        return None
    new, live = (int(curves.last(column) or 0) for column in ("generated_tokens", "teacher_tokens"))
    scored = live + (given if has_cache(arm) else 0)
    by_start = given if arm.method == "offline-policy-gradient" else 0
    by_student = by_start + (new if arm.source == "online-student" else 0)
    return ResponseTokens(
        teacher_wrote=given + new - by_student,
        teacher_scored=0 if arm.method == "sft" else scored,
        student_wrote=by_student,
    )


def _given_tokens(planned: PlannedRun) -> int | None:
    """Response tokens that were there before the run began."""
    if has_cache(planned.cell.arm):
        path = planned.run.path / "manifest.json"
        costs = Manifest.parse(read_json(path), str(path)).facts.cache_costs if path.is_file() else None
        return None if costs is None else costs.tokens
    found = [stage for stage in planned.run.needs if stage.kind == "teacher-responses"]
    manifests = [read_manifest(stage.path) for stage in found]
    return sum(0 if one is None else one.tokens for one in manifests)
