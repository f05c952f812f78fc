"""thack verdict on runs and on any trainer's log: what it prints, and its exit codes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from detection.synthetic import Noise, write_run
from thack.cli import app
from thack.detection import Curves, verdict, verdict_without_oracle
from thack.schema.run import State, Status

QUIET = Noise(prompt=0.03, checkpoint=0.0)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = app.run(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def made(path: Path, kind: str, **changes: object) -> Path:
    return write_run(path, kind, noise=QUIET, num_prompts=64, **changes)  # type: ignore[arg-type]


def foreign_log(path: Path, run: Path) -> Path:
    """The run's evaluations as another trainer might have logged them."""
    names = {"step": "global_step", "proxy/forward_kl/reference_sampled/token_mean": "eval_kl"}
    names |= {"golden/forward_kl/reference_sampled/token_mean": "eval_truth", "train_kl/monitor": "kl_train"}
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = [{new: row[old] for old, new in names.items() if old in row} for row in rows if row["event"] == "evaluation"]
    path.write_text("".join(json.dumps(row) + "\n" for row in kept))
    return path


MAPPING = "step=global_step,proxy=eval_kl,monitor=kl_train"


def test_a_run_that_hacks_fails_where_it_is_asked_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad, good = made(tmp_path / "bad", "hacking"), made(tmp_path / "good", "healthy")
    code, out, _ = run(capsys, "verdict", str(bad), str(good))
    assert code == 0 and "bad: HACKING from step 79" in out and "good: healthy" in out
    code, _, err = run(capsys, "verdict", str(bad), str(good), "--fail-on-hacking")
    assert code == 3 and "hacking in bad" in err
    code, out, _ = run(capsys, "verdict", str(bad), str(good), "--fail-on-hacking", "--json")
    documents = json.loads(out)
    assert code == 3
    assert [one["name"] for one in documents] == ["hacking", "healthy"]
    assert run(capsys, "verdict", str(good), "--fail-on-hacking")[0] == 0


@pytest.mark.parametrize("with_golden", [True, False])
def test_another_trainers_log_by_a_mapping(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], with_golden: bool
) -> None:
    log = foreign_log(tmp_path / "metrics.jsonl", made(tmp_path / "run", "hacking"))
    mapping = MAPPING + (",golden=eval_truth" if with_golden else "")
    code, out, _ = run(capsys, "verdict", str(log), "--map", mapping, "--fail-on-hacking")
    assert code == 3
    assert ("HACKING from step 79" if with_golden else "hacking suspected from step") in out
    sets = "margins.rise=0.5" if with_golden else "thresholds.slope_ratio=-5"
    assert run(capsys, "verdict", str(log), "--map", mapping, "--fail-on-hacking", "--set", sets)[0] == 0
    code, _, err = run(capsys, "verdict", str(log), "--map", mapping, "--set", "rise=0.5")
    assert code == 2 and "rise: no such key; did you mean margins.rise?" in err


def test_a_transformers_state_is_read_like_a_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = foreign_log(tmp_path / "log.jsonl", made(tmp_path / "run", "healthy"))
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    state = tmp_path / "trainer_state.json"
    state.write_text(json.dumps({"log_history": rows}))
    code, out, _ = run(capsys, "verdict", str(state), "--map", MAPPING, "--fail-on-hacking", "--json")
    assert code == 0 and json.loads(out)["name"] == "no alarm"


def test_detectors_are_scored_on_runs_that_have_an_oracle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [
        str(made(tmp_path / f"{kind}{seed}", kind, seed=seed)) for kind in ("hacking", "healthy") for seed in (0, 1)
    ]
    code, out, _ = run(capsys, "verdict", *runs, "--score", "--json")
    scores = {one["detector"]: one for one in json.loads(out)}
    assert code == 0 and scores["slope ratio"]["hits"] == 2 and scores["slope ratio"]["false_alarms"] == 0
    others = [str(made(tmp_path / f"other{kind}", kind, seed=5)) for kind in ("hacking", "healthy")]
    code, out, _ = run(capsys, "verdict", *runs, "--score", "--chosen-on", others[0], "--chosen-on", others[1])
    assert code == 0 and "2 of 2" in out and "false alarms" in out
    code, _, err = run(capsys, "verdict", runs[0], "--chosen-on", others[0])
    assert code == 2 and "add --score" in err


def test_detectors_are_scored_by_the_margins_that_are_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rising = str(made(tmp_path / "hacking", "hacking"))
    for sets, num_rising in (([], 1), (["--set", "margins.rise=0.99"], 0)):
        code, out, _ = run(capsys, "verdict", rising, "--score", "--json", *sets)
        assert code == 0 and {one["num_rising"] for one in json.loads(out)} == {num_rising}


def test_what_would_not_be_read_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = made(tmp_path / "run", "hacking")
    for option in (["--online", "nowhere"], ["--fail-on-hacking"]):
        code, _, err = run(capsys, "verdict", str(found), "--score", *option)
        assert code == 2 and f"{option[0]} belongs to the verdicts of runs, and --score scores detectors" in err
    log = str(foreign_log(tmp_path / "metrics.jsonl", found))
    code, _, err = run(capsys, "verdict", log, "--map", MAPPING, "--online", "nowhere")
    assert code == 2 and "has no golden metric, by which it is compared with the path of --online" in err


def test_what_a_guard_did_is_a_note_of_the_verdict(tmp_path: Path) -> None:
    path = made(tmp_path / "run", "healthy")
    events = [
        {"event": "guard", "step": 79, "action": "alarm", "detector": "slope ratio", "value": 0.35, "threshold": 0.5}
        | {"kept_step": 48},
        {"event": "guard", "step": 81, "action": "refresh", "epoch": 5, "fresh_set": 0, "fresh_tokens": 9200},
        {"event": "guard", "step": 241, "action": "refresh", "epoch": 15, "fresh_set": 1, "fresh_tokens": 9300},
    ]
    with (path / "metrics.jsonl").open("a") as log:
        log.writelines(json.dumps(event) + "\n" for event in events)
    curves = Curves.from_run(path)
    assert "value" not in curves.train
    note = verdict(curves).notes[-1]
    assert note == (
        "a guard was on: slope ratio 0.35 (alarm at 0.5) at step 79; the checkpoint of step 48 was kept; "
        "2 newly sampled responses per prompt (18,500 tokens) joined in epochs 5, 15"
    )
    assert note in verdict_without_oracle(curves).notes


def test_a_run_that_may_only_be_read_is_judged_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = made(tmp_path / "run", "hacking")
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK)
    code, out, _ = run(capsys, "verdict", str(found))
    assert code == 0 and "HACKING" in out and not (found / "verdict.json").exists()


@pytest.mark.parametrize("state", ["finished", "running", "failed"])
def test_a_run_that_is_not_finished_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str], state: State) -> None:
    found = made(tmp_path / "run", "healthy")
    (found / "STATUS.json").write_text(json.dumps(Status(state=state, step=960).dump()))
    _, out, _ = run(capsys, "verdict", str(found))
    assert ("not finished" in out) is (state != "finished")
