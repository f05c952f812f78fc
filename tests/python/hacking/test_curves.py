"""Reading runs and foreign logs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from synthetic import STEPS, write_run

from thack.errors import DataError, UsageError
from thack.hacking import Curves, parse_mapping, verdict

GOLDEN = "golden/forward_kl/reference_sampled"


def _write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_run_directory_is_read_with_its_prompts(tmp_path: Path) -> None:
    curves = Curves.from_run(write_run(tmp_path / "run", num_prompts=40))
    assert tuple(curves.step_E) == STEPS
    prompts = curves.prompts("golden")
    assert prompts is not None and prompts.nats_EP.shape == (len(STEPS), 40)
    by_hand = prompts.nats_EP.sum(axis=1) / prompts.tokens_EP.sum(axis=1)
    np.testing.assert_allclose(curves.of("golden").value, by_hand, rtol=1e-12)
    assert len(curves.of("train_loss")) == 480 and len(curves.of("monitor")) == len(STEPS)
    assert curves.last("teacher_tokens") == 550 * 960


def test_a_column_averages_where_a_sequence_sum_is_asked_for(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", num_prompts=40)
    curves = Curves.from_run(run, readout="forward_kl/reference_sampled/sequence_sum")
    prompts = curves.prompts("golden")
    assert prompts is not None
    np.testing.assert_allclose(curves.of("golden").value, prompts.nats_EP.mean(axis=1), rtol=1e-12)
    found = verdict(curves)
    assert found.golden is not None and found.golden.rise_interval is not None


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"event": "evaluation", "step": 12')
    assert Curves.from_run(run).step_E[-1] == 960


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "golden": 1}\nnot json\n{"step": 2, "golden": 1}\n')
    with pytest.raises(DataError, match=r"log\.jsonl:2"):
        Curves.from_jsonl(path, {"golden": "golden"})


def test_a_directory_that_is_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no metrics\.jsonl"):
        Curves.from_run(tmp_path)


def test_a_run_before_its_first_evaluation_says_so(tmp_path: Path) -> None:
    _write(tmp_path / "metrics.jsonl", [{"event": "train", "step": 1, "loss": 2.0}])
    with pytest.raises(DataError, match="golden"):
        Curves.from_run(tmp_path)


def test_a_foreign_log_is_mapped_and_its_rows_merged_by_step(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"global_step": 5, "loss": 1.0}]
    for step in (100, 200, 300):
        rows += [{"global_step": step, "eval": {"golden": 1.0 + step}}, {"global_step": step, "eval/kl": 0.5}]
    path = _write(tmp_path / "log.jsonl", rows)
    mapping = parse_mapping("golden=eval/golden, proxy=eval/kl,step=global_step")
    curves = Curves.from_jsonl(path, mapping)
    assert list(curves.step_E) == [100, 200, 300]
    assert list(curves.of("golden").value) == [101, 201, 301]
    assert list(curves.of("proxy").value) == [0.5] * 3
    assert list(curves.of("train_loss").value) == [1.0]


def test_dots_name_nested_columns_too(tmp_path: Path) -> None:
    path = _write(tmp_path / "log.jsonl", [{"step": 1, "eval": {"golden": 1.5}}])
    assert Curves.from_jsonl(path, {"golden": "eval.golden"}).of("golden").value[0] == 1.5


def test_a_transformers_state_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "trainer_state.json"
    path.write_text(json.dumps({"log_history": [{"step": 3, "eval_kl": 0.5}, {"step": 6, "eval_kl": 0.4}]}))
    assert list(Curves.from_jsonl(path, {"proxy": "eval_kl"}).of("proxy").value) == [0.5, 0.4]


def test_a_step_that_was_run_twice_keeps_the_later_values(tmp_path: Path) -> None:
    path = _write(tmp_path / "log.jsonl", [{"step": 1, "g": 1.0}, {"step": 2, "g": 9.0}, {"step": 2, "g": 2.0}])
    assert list(Curves.from_jsonl(path, {"golden": "g"}).of("golden").value) == [1.0, 2.0]


def test_a_misspelt_column_is_guessed(tmp_path: Path) -> None:
    path = _write(tmp_path / "log.jsonl", [{"step": 1, "eval/golden": 1.5}])
    with pytest.raises(DataError, match="did you mean 'eval/golden'"):
        Curves.from_jsonl(path, {"golden": "eval/goldn"})


def test_a_log_without_steps_or_metrics_says_what_it_has(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column for the step"):
        Curves.from_jsonl(_write(tmp_path / "a.jsonl", [{"time": 1, "kl": 1.5}]), {"golden": "kl"})
    with pytest.raises(DataError, match="neither a golden nor a proxy"):
        Curves.from_jsonl(_write(tmp_path / "b.jsonl", [{"step": 1, "kl": 1.5}]))


@pytest.mark.parametrize("text", ["golden", "golden=", "=x,"])
def test_a_mapping_of_the_wrong_form_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        mapping = parse_mapping(text)
        Curves.from_jsonl("nowhere.jsonl", mapping)


def test_an_unknown_word_in_a_mapping_is_guessed() -> None:
    with pytest.raises(UsageError, match="did you mean 'golden'"):
        Curves.from_jsonl("nowhere.jsonl", {"goldn": "x"})


def test_values_that_are_not_finite_are_noted(tmp_path: Path) -> None:
    path = _write(tmp_path / "log.jsonl", [{"step": 1, "g": None}, {"step": 2, "g": 2.0}, {"step": 3, "g": 1.0}])
    path.write_text(path.read_text().replace("null", "NaN"))
    curves = Curves.from_jsonl(path, {"golden": "g"})
    assert len(curves.of("golden")) == 2 and "1 of 3" in curves.notes[0]


def test_prompts_that_change_between_evaluations_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", num_prompts=20)
    rows = [json.loads(line) for line in (run / "per_prompt.jsonl").read_text().splitlines()]
    rows[3][GOLDEN]["nats"].pop()
    rows[3][GOLDEN]["tokens"].pop()
    _write(run / "per_prompt.jsonl", rows)
    with pytest.raises(DataError, match="the same prompts"):
        Curves.from_run(run)


def test_an_evaluation_without_prompts_means_no_intervals(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", num_prompts=20)
    lines = (run / "per_prompt.jsonl").read_text().splitlines(keepends=True)
    (run / "per_prompt.jsonl").write_text("".join(lines[:-1]))
    found = verdict(Curves.from_run(run))
    assert found.golden is not None and found.golden.rise_interval is None
    assert any("no intervals" in reason for reason in found.reasons)
