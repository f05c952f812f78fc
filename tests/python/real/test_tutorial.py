"""The tutorial's blocks run as they stand, on the model that its own lines convert (conftest)."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.test_documents import blocks_of, run_block

pytestmark = pytest.mark.timeout(900)


def test_the_tutorial_ends_in_a_verdict_and_a_report(
    smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "smollm2").symlink_to(smollm2)
    blocks = [block for block in blocks_of("docs/tutorial.md") if block.language != "python convert"]
    assert len(blocks) == 8
    for block in blocks:
        run_block(block, capfd)
    assert {path.name for path in (tmp_path / "runs" / "a").iterdir()} >= {"report.html", "model", "metrics.jsonl"}
