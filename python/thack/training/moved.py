"""Models and data that were moved or renamed while a run was stopped: their content decides, their paths are free."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from thack.errors import MismatchError
from thack.models.checkpoint import fingerprint_like
from thack.models.load import load_model
from thack.reading import read_json
from thack.schema.run import Manifest

#: Settings that name a place. What is there is compared by content: here the student, the others with the run's facts.
PLACES = ("cache", "teacher", "student", "oracle", "judge", "model", "tokenizer", "eval_data", "data.path")
_FIRST = ("student", "model")  # of distill and sft: where the run began, which is not read again


def moved(before: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """The places that have another path now; one that is set in one of them alone is a change, not a move."""
    return [key for key in PLACES if before.get(key) and now.get(key) and before[key] != now[key]]


def check_first_model(run: Path, places: list[str], now: Mapping[str, object]) -> None:
    """Compare the model that a run began with, if it was moved.

    Raises:
        MismatchError: another model is there now.
        ModelError: there is none.
    """
    place = run / "manifest.json"
    for key in (key for key in places if key in _FIRST):
        models = Manifest.parse(read_json(place), str(place)).facts.models
        recorded = models.get("base", models["student"])
        found = fingerprint_like(recorded, load_model(str(now[key]), role="student"))
        if found != recorded:
            raise MismatchError(
                f"{run} was started with another {key} than the one in {now[key]}",
                details=[f"then  {recorded}", f"now   {found}"],
                hint="give the same one, wherever it is now, or another `out`",
            )
