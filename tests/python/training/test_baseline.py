"""Plain fine-tuning beside a distillation: what it trains on, that it resumes, and what distillation gained over it."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from thack import api
from thack.cache import Cache
from thack.checks import check_combination
from thack.config import DistillSettings, GuardSettings, LossSettings
from thack.data import Record
from thack.detection import Curves, verdict
from thack.errors import Preempted, UsageError
from thack.evaluation.eval_set import EvalSet
from thack.models.batch import Batch
from thack.models.load import load_model
from thack.runtime import preemption
from thack.runtime.runlog import read
from thack.runtime.status import read_status
from thack.schema.metric_rows import GuardRow, MetricsRow, PerPromptRow
from thack.schema.metrics import GOLDEN
from thack.schema.verdict import Margins, OracleFreeVerdict
from thack.training import run_distill
from thack.training.checkpoint import checkpoints
from thack.training.plan import Plan, plan_steps
from thack.training.run_directory import RunDirectory

from .small import rows
from .world import build_world, distill_settings, records, write


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_world(tmp_path_factory.mktemp("world"))


def short_settings(world: Path, out: Path, **changes: Any) -> DistillSettings:
    return distill_settings(world, out, **{"baseline": "sft", "epochs": 1} | changes)


@pytest.fixture(scope="module")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    assert run_distill(short_settings(world, out)).supervised == out / "sft"
    return out


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def test_both_train_on_the_same_tokens_at_the_same_rate_and_are_measured_at_the_same_steps(finished: Path) -> None:
    own, other = rows(finished), rows(finished / "sft")
    assert [(r["event"], r["step"]) for r in own] == [(r["event"], r["step"]) for r in other]
    pairs = [(a, b) for a, b in zip(own, other, strict=True) if a["event"] == "train"]
    assert all(a["tokens"] == b["tokens"] and a["lr"] == b["lr"] for a, b in pairs)
    assert all(b["teacher_tokens"] == 0 for _, b in pairs)
    first = {r["step"]: r for r in own if r["event"] == "evaluation"}[0]
    assert first[str(GOLDEN)] == next(r for r in other if r["event"] == "evaluation")[str(GOLDEN)]


def test_its_first_loss_is_the_cross_entropy_of_the_responses_and_its_weights_those_of_that_loss(
    world: Path, finished: Path, tmp_path: Path
) -> None:
    """The same run as a distillation with the cross-entropy alone; the first loss by its definition."""
    settings = short_settings(world, tmp_path / "ce", baseline="none", loss=LossSettings(weight=0.0, ce_weight=1.0))
    run_distill(settings)
    expected, found = weights(tmp_path / "ce"), weights(finished / "sft")
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    cache = Cache.open(world / "cache")
    plan = Plan(
        num_sequences=len(cache), batch_size=2, seed=0, total_steps=plan_steps(len(cache), 2, 1, 0), window_steps=3
    )
    window = plan.window(0)
    batch = window.batch([cache.sequences(int(i)) for i in window.positions], 0)
    student = load_model(world / "student")
    made = Batch.of(batch, torch.device("cpu"))
    log_q_NV = student(made).detach().double().log_softmax(dim=1)
    by_definition = -float(log_q_NV[torch.arange(len(made.labels_N)), made.labels_N].mean())
    assert rows(finished / "sft")[1]["loss"] == pytest.approx(by_definition, rel=1e-5)


def test_the_gain_is_the_difference_of_the_ends_and_its_interval_is_paired(finished: Path) -> None:
    found = verdict(Curves.from_run(finished), Margins(warmup_steps=0))
    ends = [
        {r.step: r.metrics for r in map(PerPromptRow.parse, read(path / "per_prompt.jsonl"))}
        for path in (finished, finished / "sft")
    ]
    last = max(step for step in ends[0] if step is not None)
    own, other = (end[last][GOLDEN.per_prompt] for end in ends)
    gain = next(g for g in found.gains if g.column == str(GOLDEN.per_prompt))
    assert gain.step == last and gain.value == pytest.approx(other.token_mean - own.token_mean)
    rng = np.random.default_rng(5)
    draws = rng.integers(0, len(own.nats_P), (4000, len(own.nats_P)))
    difference = (other.nats_P[draws].sum(1) - own.nats_P[draws].sum(1)) / own.tokens_P[draws].sum(1)
    assert gain.interval == pytest.approx(tuple(np.quantile(difference, [0.025, 0.975])), rel=0.1, abs=1e-4)
    assert [g.column.split("/")[0] for g in found.gains] == ["golden", "proxy"]


def test_verdict_report_and_card_say_it_in_one_line(finished: Path, tmp_path: Path) -> None:
    said = api.explain(api.verdict(finished))
    (line,) = [text for text in said if "distillation gained" in text]
    assert "over plain fine-tuning on the same responses (step 5)" in line and "nats on golden" in line
    assert "on the proxy" in line
    page = api.report(finished, tmp_path / "report.html").read_text()
    assert "distillation gained" in page
    assert "distillation gained" in (finished / "model" / "README.md").read_text()
    verdicts = api.verdict(finished, mapping={"proxy": "proxy/forward_kl/reference_sampled/token_mean"})
    assert verdicts.gains


def test_without_an_oracle_too_and_with_what_people_wrote(world: Path, tmp_path: Path) -> None:
    """From data, with a live teacher: prompts of a file, whose evaluation set both runs share."""
    held_out = write(
        tmp_path / "held_out.jsonl", [*records(4, 200), Record(prompt_id="z", prompt="def z", response="1")]
    )
    settings = short_settings(world, tmp_path / "run", cache="", oracle="", human_references=True)
    data = replace(settings.data, path=str(world / "prompts.jsonl"))
    run_distill(replace(settings, data=data, eval_data=str(held_out), steps=3))
    assert len(list((tmp_path / "run").glob("eval_set-*"))) == 1
    assert not list((tmp_path / "run" / "sft").glob("eval_set-*"))
    (frozen,) = (tmp_path / "run").glob("eval_set-*")
    assert len(EvalSet.load(frozen)) == 5
    found = api.verdict(tmp_path / "run")
    assert [gain.column.split("/")[0] for gain in found.gains] == ["proxy", "human"]
    assert any("the log-likelihood of human responses" in text for text in api.explain(found))
    suspicion = api.verdict(tmp_path / "run", mapping={"golden": "proxy/jsd/reference_sampled/token_mean"})
    assert not isinstance(suspicion, OracleFreeVerdict) and suspicion.gains == found.gains


def in_sft_at(patch: pytest.MonkeyPatch, step: int, act: Callable[[], None]) -> None:
    """Once the row of this step of the fine-tuning is logged."""
    append = RunDirectory.append

    def wrapped(run: RunDirectory, row: MetricsRow | GuardRow) -> None:
        append(run, row)
        if run.path.name == "sft" and row.step == step and isinstance(row, MetricsRow) and row.event == "train":
            act()

    patch.setattr(RunDirectory, "append", wrapped)


def test_a_stopped_one_resumes_to_the_bit(
    world: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = short_settings(world, tmp_path / "run")
    with monkeypatch.context() as patch:
        in_sft_at(patch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Preempted):
            run_distill(settings)
    status = read_status(tmp_path / "run")
    assert status is not None and (status.state, status.exit_code) == ("stopped", 75)
    assert (tmp_path / "run" / "model").is_dir() and not (tmp_path / "run" / "sft" / "model").exists()
    run_distill(settings)
    status = read_status(tmp_path / "run")
    assert status is not None and status.state == "finished"
    assert rows(tmp_path / "run" / "sft") == rows(finished / "sft")
    expected, found = weights(finished / "sft"), weights(tmp_path / "run" / "sft")
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_a_file_in_the_run_stops_or_saves_whichever_of_both_is_trained(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = short_settings(world, tmp_path / "run")
    stop, save = settings.out / "STOP", settings.out / "SAVE"
    monkeypatch.setattr(preemption, "_FILE_CHECK_S", 0.0)
    for asked, step in ((save, 2), (stop, 4)):
        in_sft_at(monkeypatch, step, asked.touch)
    with pytest.raises(Preempted, match="stopped by STOP file"):
        run_distill(settings)
    kept = [path.name for path in checkpoints(settings.out / "sft" / "checkpoints")]
    assert kept == ["step_000002", "step_000004"] and not stop.exists() and not save.exists()


def test_it_can_be_added_to_a_finished_run_and_is_not_repeated(world: Path, tmp_path: Path) -> None:
    settings = short_settings(world, tmp_path / "run", baseline="none", steps=2)
    assert run_distill(settings).supervised is None
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with_sft = replace(settings, baseline="sft")
    run_distill(with_sft)
    first = (tmp_path / "run" / "sft" / "metrics.jsonl").read_bytes()
    run_distill(with_sft)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    assert (tmp_path / "run" / "sft" / "metrics.jsonl").read_bytes() == first


def test_one_that_is_not_finished_is_compared_where_both_were_measured(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    place = tmp_path / "run" / "sft" / "per_prompt.jsonl"
    lines = place.read_text().splitlines(keepends=True)
    place.write_text("".join(lines[:-1]))
    found = Curves.from_run(tmp_path / "run")
    assert found.sft is not None and 0 < found.sft.step < 5
    assert any("has only come to step" in note for note in found.notes)
    place.write_text(lines[0])
    found = Curves.from_run(tmp_path / "run")
    assert found.sft is None and any("has no evaluation yet" in note for note in found.notes)
    place.write_text(re.sub(r'"tokens":\s*\[', '"tokens":[1,', re.sub(r'"nats":\s*\[', '"nats":[0,', lines[-1])))
    assert any("measured on other responses" in note for note in Curves.from_run(tmp_path / "run").notes)


def refused(world: Path, **changes: object) -> str:
    settings = short_settings(world, Path("run"))
    with pytest.raises(UsageError) as caught:
        check_combination(replace(settings, **changes))  # type: ignore[arg-type]
    return caught.value.message


def test_what_does_not_combine_is_refused(world: Path) -> None:
    online = distill_settings(world, Path("run"), "online-student")
    assert "needs given responses" in refused(world, cache="", source=online.source, data=online.data)
    assert "there are none" in refused(world, eval_data="")
    assert "guard.on" in refused(world, guard=GuardSettings(on=True))
    assert "both runs would be the same" in refused(world, loss=LossSettings(weight=0.0, ce_weight=1.0))
