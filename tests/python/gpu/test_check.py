"""`make check-gpu`: its benchmarks run, at sizes that take no time, and its sections are bounded and apart."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHES = Path(__file__).parents[3] / "benches"


@pytest.fixture
def benches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The folder's modules, by the names that they give each other."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(BENCHES))
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(BENCHES)):
            del sys.modules[name]


@pytest.mark.parametrize("name", ["rows", "head", "capture", "training", "generation"])
def test_every_benchmark_runs(cuda: torch.device, benches: None, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import check_gpu
    import gpu_cost
    from gpu_shapes import Shapes

    whole = gpu_cost.cost
    for module in ("gpu_cost", "gpu_head", "gpu_model"):
        monkeypatch.setattr(f"{module}.cost", lambda work: whole(work, most=1))
    section = next(s for s in check_gpu.SECTIONS if s.name == name)
    shapes = Shapes(
        rows=20, hidden=16, vocab=264, kept=8, sampled=4, drawn_rows=6, model_hidden=32, layers=2, heads=4, kv_heads=2,
        intermediate=48, sequences=2, prompt_tokens=3, response_tokens=6, new_tokens=3,
    )  # fmt: skip
    found = list(getattr(__import__(section.module), section.function)(shapes))
    assert len(found) >= 2
    for one in found:
        assert one.ours > 0 and one.unit in ("ms", "GiB", "tokens/s")
        assert one.theirs is not None if one.peer else one.ratio is None
        assert one.what in check_gpu.line_of(one.document())


MEASURES = 'import sys; open(sys.argv[1], "w").write({lines!r}); {ending}'


@pytest.mark.parametrize(
    ("lines", "ending", "state", "reason"),
    [
        ('{"what": "a"}\n', "sys.exit(0)", "passed", ""),
        ('{"what": "a"}\n{"error": "ValueError: no"}\n', "sys.exit(1)", "failed", "ValueError: no"),
        ('{"what": "a"}\n', "import os; os.abort()", "failed", "exit code -6"),
        ('{"what": "a"}\n', "import time; time.sleep(60)", "stopped", "at its limit of 1 s; the rest was not run"),
    ],
)
def test_a_section_keeps_what_it_measured(
    benches: None, monkeypatch: pytest.MonkeyPatch, lines: str, ending: str, state: str, reason: str
) -> None:
    import check_gpu

    code = MEASURES.format(lines=lines, ending=ending)
    monkeypatch.setattr(
        check_gpu, "command", lambda section, numbers, *, has_card: [sys.executable, "-c", code, str(numbers)]
    )
    found = check_gpu.in_a_process(check_gpu.SECTIONS[1], 1.0 if state == "stopped" else 60.0, has_card=True)
    assert (found.state, found.reason, found.measurements) == (state, reason, [{"what": "a"}])


def test_one_failure_does_not_hide_the_others(
    benches: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import check_gpu

    def found(section: Any, limit_s: float, *, has_card: bool) -> Any:
        broken = section.name == "rows"
        return check_gpu.Outcome(state="failed" if broken else "passed", reason="ValueError: no" if broken else "")

    monkeypatch.setattr(check_gpu, "in_a_process", found)
    monkeypatch.setattr(check_gpu, "about", lambda: {"device": "a card", "torch": "2"})
    monkeypatch.setattr(sys, "path", list(sys.path))
    out = tmp_path / "gpu.json"
    assert check_gpu.main(["--json", str(out)]) == 1
    said = capsys.readouterr().out
    assert "rows        failed" in said and "ValueError: no" in said and "generation  passed" in said
    written = json.loads(out.read_text())
    assert written["device"] == "a card" and written["sections"]["rows"]["state"] == "failed"
    assert [written["sections"][s.name]["state"] for s in check_gpu.SECTIONS].count("passed") == 5


def test_without_a_card_it_says_so_and_writes_nothing(
    benches: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import check_gpu

    passed = check_gpu.Outcome(state="passed")
    monkeypatch.setattr(check_gpu, "in_a_process", lambda section, limit_s, *, has_card: passed)
    monkeypatch.setattr(check_gpu, "about", lambda: {"device": None})
    monkeypatch.setattr(sys, "path", list(sys.path))
    out = tmp_path / "gpu.json"
    assert check_gpu.main(["--json", str(out)]) == 0 and not out.exists()
    said = capsys.readouterr().out
    assert "no CUDA device" in said and said.count("skipped after") == 5


def test_when_time_runs_out_the_rest_is_skipped(benches: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import check_gpu

    monkeypatch.setattr(check_gpu, "TOTAL_S", 10)
    outcomes = check_gpu.run(check_gpu.SECTIONS, has_card=True)
    assert {found.state for found in outcomes.values()} == {"skipped"}
    assert "s are left" in outcomes["tests"].reason
