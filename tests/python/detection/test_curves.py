"""Reading runs and foreign logs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detection.synthetic import STEPS, write_run
from thack.api import read_curves
from thack.detection import Curves, verdict, verdict_without_oracle
from thack.errors import DataError, UsageError
from thack.files import claim_output
from thack.reporting.prose import reasons
from thack.schema import metrics

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
    curves = Curves.from_run(run, metric=replace(metrics.GOLDEN, reduction="sequence_sum"))
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
        Curves.from_log(path, {"golden": "golden"})


def test_a_directory_that_is_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no metrics\.jsonl"):
        Curves.from_run(tmp_path)


def test_an_experiment_that_has_not_ended_says_so(tmp_path: Path) -> None:
    claim_output(tmp_path / "grid", "experiment")
    with pytest.raises(DataError, match="grid is an experiment that has not ended") as told:
        Curves.from_run(tmp_path / "grid")
    assert told.value.hint == f"run it again to continue it, or pass its runs: {tmp_path}/grid/runs/*"


def test_a_run_before_its_first_evaluation_says_so(tmp_path: Path) -> None:
    _write(tmp_path / "metrics.jsonl", [{"event": "train", "step": 1, "loss": 2.0}])
    with pytest.raises(DataError, match="golden"):
        Curves.from_run(tmp_path)


def test_a_foreign_log_is_mapped_and_its_rows_merged_by_step(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"global_step": 5, "loss": 1.0}]
    for step in (100, 200, 300):
        rows += [{"global_step": step, "eval": {"golden": 1.0 + step}}, {"global_step": step, "eval/kl": 0.5}]
    path = _write(tmp_path / "log.jsonl", rows)
    mapping = {"golden": "eval/golden", "proxy": "eval/kl", "step": "global_step"}
    curves = Curves.from_log(path, mapping)
    assert list(curves.step_E) == [100, 200, 300]
    assert list(curves.of("golden").value) == [101, 201, 301]
    assert list(curves.of("proxy").value) == [0.5] * 3
    assert list(curves.of("train_loss").value) == [1.0]


def test_dots_name_nested_columns_too(tmp_path: Path) -> None:
    path = _write(tmp_path / "log.jsonl", [{"step": 1, "eval": {"golden": 1.5}}])
    assert Curves.from_log(path, {"golden": "eval.golden"}).of("golden").value[0] == 1.5


def test_a_transformers_state_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "trainer_state.json"
    path.write_text(json.dumps({"log_history": [{"step": 3, "eval_kl": 0.5}, {"step": 6, "eval_kl": 0.4}]}))
    assert list(Curves.from_log(path, {"proxy": "eval_kl"}).of("proxy").value) == [0.5, 0.4]


def test_a_step_that_was_run_twice_keeps_the_later_values(tmp_path: Path) -> None:
    path = _write(tmp_path / "log.jsonl", [{"step": 1, "g": 1.0}, {"step": 2, "g": 9.0}, {"step": 2, "g": 2.0}])
    assert list(Curves.from_log(path, {"golden": "g"}).of("golden").value) == [1.0, 2.0]


def test_a_misspelt_column_is_guessed(tmp_path: Path) -> None:
    path = _write(tmp_path / "log.jsonl", [{"step": 1, "eval/golden": 1.5}])
    with pytest.raises(DataError, match="did you mean 'eval/golden'"):
        Curves.from_log(path, {"golden": "eval/goldn"})


def test_a_log_without_steps_or_metrics_says_what_it_has(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column for the step"):
        Curves.from_log(_write(tmp_path / "a.jsonl", [{"time": 1, "kl": 1.5}]), {"golden": "kl"})
    with pytest.raises(DataError, match="neither a golden nor a proxy"):
        Curves.from_log(_write(tmp_path / "b.jsonl", [{"step": 1, "kl": 1.5}]))


def test_an_unknown_curve_in_a_mapping_is_guessed() -> None:
    with pytest.raises(UsageError, match="did you mean 'golden'"):
        Curves.from_log("nowhere.jsonl", {"goldn": "x"})


def test_values_that_are_not_finite_are_noted(tmp_path: Path) -> None:
    path = _write(tmp_path / "log.jsonl", [{"step": 1, "g": None}, {"step": 2, "g": 2.0}, {"step": 3, "g": 1.0}])
    path.write_text(path.read_text().replace("null", "NaN"))
    curves = Curves.from_log(path, {"golden": "g"})
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
    assert any("no intervals" in note for note in found.notes)


def _log(path: Path, **columns: object) -> Path:
    """A hacking student's log of 14 evaluations; `columns` are functions of number and step, or values."""
    rows: list[dict[str, object]] = []
    for number, step in enumerate(range(50, 750, 50)):
        row: dict[str, object] = {"step": step, "golden": 1 + abs(step - 300) / 1000, "proxy": 3 * step**-0.4}
        row |= {name: f(number, step) if callable(f) else f for name, f in columns.items()}
        rows.append(row)
    return _write(path, rows)


MAPPED = {"golden": "golden", "proxy": "proxy"}


def test_numbers_in_quotes_and_events_of_other_trainers_are_read(tmp_path: Path) -> None:
    plain = verdict(Curves.from_log(_log(tmp_path / "a.jsonl"), MAPPED))
    assert plain.name == "hacking"
    quoted = _log(tmp_path / "b.jsonl", step=lambda _, s: str(s), golden=lambda _, s: str(1 + abs(s - 300) / 1000))
    foreign = _log(tmp_path / "c.jsonl", event="eval", seen=10**400)
    for path in (quoted, foreign):
        assert verdict(Curves.from_log(path, MAPPED)).golden == plain.golden


@pytest.mark.parametrize("value", [None, "n/a", [1.0]])
def test_a_metric_without_a_number_is_named(tmp_path: Path, value: object) -> None:
    path = _log(tmp_path / "log.jsonl", golden=value)
    with pytest.raises(DataError, match=r"column 'golden' \(for golden\) has no number"):
        Curves.from_log(path, MAPPED)


def test_a_run_that_diverged_at_once_is_read(tmp_path: Path) -> None:
    """A callback reads its own log within somebody's training."""
    column = "proxy/forward_kl/reference_sampled/token_mean"
    _write(tmp_path / "metrics.jsonl", [{"event": "evaluation", "step": s, column: None} for s in (100, 200)])
    found = verdict_without_oracle(Curves.from_run(tmp_path))
    assert found.name == "inconclusive" and "proxy has no number at any evaluation" in found.notes


def test_a_training_column_is_no_metric_of_a_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    with pytest.raises(DataError, match="column 'loss'"):
        Curves.from_run(run, mapping={"proxy": "loss"})


def test_what_a_mapping_names_is_not_replaced_in_silence(tmp_path: Path) -> None:
    path = _log(tmp_path / "log.jsonl")
    with pytest.raises(DataError, match="no column 'golden/kl'"):
        Curves.from_log(path, MAPPED | {"golden": "golden/kl"})


def test_a_mapping_applies_to_a_run_too_and_takes_the_baseline_of_its_divergence(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    other = "jsd/reference_sampled/token_mean"
    for row in rows:
        row |= {f"golden/{other}": row[f"{GOLDEN}/token_mean"] / 4} if row["event"] == "evaluation" else {}
    _write(run / "metrics.jsonl", rows)
    curves = Curves.from_run(run, mapping={"golden": f"golden/{other}"})
    assert curves.column_of["golden"] == f"golden/{other}"
    assert "baseline" not in curves.column_of, "a JSD is not compared with KL(oracle‖teacher)"
    assert read_curves(run, {"golden": f"golden/{other}"}).column_of == curves.column_of
    assert Curves.from_run(run).has("baseline")


def test_a_student_that_diverged_at_the_end_is_not_healthy(tmp_path: Path) -> None:
    falling = {"golden": lambda n, s: 3 * s**-0.4 if n < 9 else float("nan")}
    found = verdict(Curves.from_log(_log(tmp_path / "log.jsonl", **falling), MAPPED))
    assert found.name == "inconclusive" and "last value of golden is no number" in " ".join(found.notes)
    columns = {"proxy": falling["golden"], "monitor": lambda _, s: s**-0.4}
    path = _log(tmp_path / "other.jsonl", **columns)
    assert (
        verdict_without_oracle(Curves.from_log(path, {"proxy": "proxy", "monitor": "monitor"})).name == "inconclusive"
    )


def test_a_reward_is_no_distance(tmp_path: Path) -> None:
    path = _log(tmp_path / "log.jsonl", golden=lambda _, s: -1 - s / 1000)
    with pytest.raises(DataError, match=r"golden is a distance, but golden is -1\.7"):
        verdict(Curves.from_log(path, MAPPED))


def test_metrics_that_never_meet_are_said_to(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"step": s + n, name: 1.0} for s in range(50, 750, 50) for n, name in enumerate(MAPPED)
    ]
    found = verdict(Curves.from_log(_write(tmp_path / "log.jsonl", rows), MAPPED))
    assert found.name == "inconclusive" and "never measured at the same step" in " ".join(found.notes)


def test_a_step_beyond_a_million_keeps_its_digits(tmp_path: Path) -> None:
    path = _log(tmp_path / "log.jsonl", step=lambda _, s: 1_000_001 + s)
    found = verdict(Curves.from_log(path, MAPPED))
    assert "step 1000301" in found.headline and "step 1000301 " in reasons(found)[0]
