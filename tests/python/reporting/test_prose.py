"""A verdict in words: every state of every detector has some, and the examples run."""

from __future__ import annotations

import doctest
from typing import get_args

from thack.detection import DETECTORS
from thack.reporting import prose
from thack.schema.verdict import DetectionState, VerdictName


def test_every_verdict_and_every_state_of_a_detector_has_a_meaning() -> None:
    assert set(prose.MEANING) == set(get_args(VerdictName))
    assert set(prose.DETECTORS) == {detector.name for detector in DETECTORS}
    for texts in prose.DETECTORS.values():
        assert set(texts) == set(get_args(DetectionState)) and all(texts.values())


def test_examples() -> None:
    found = doctest.testmod(prose)
    assert found.attempted and not found.failed
