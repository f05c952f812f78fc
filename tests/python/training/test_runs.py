"""run_sft and run_distill on directories, as the commands call them."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from thack import config
from thack.config import (
    ArchitectureSettings,
    CheckpointSettings,
    DistillSettings,
    LossSettings,
    MemorySettings,
    OptimizerSettings,
    ParallelSettings,
    SftSettings,
    SourceSettings,
)
from thack.data.tokenizer import Tokenizer
from thack.errors import CacheError, MismatchError, Preempted, ThackError, UsageError
from thack.evaluation import EvalSet
from thack.files import flattened
from thack.models.load import load_model
from thack.runtime.failures import out_of_memory
from thack.runtime.status import read_status
from thack.schema.metrics import Role
from thack.training import RunResult, checkpoint, final_model, order, run_distill, run_sft
from thack.training.checkpoint import checkpoints, step_of

from .small import rows, tokenizer
from .world import DATA, build_world, distill_settings, records, signal_at, write

GOLDEN = "golden/forward_kl/reference_sampled/token_mean"
PROXY = "proxy/forward_kl/reference_sampled/token_mean"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_world(tmp_path_factory.mktemp("world"))


def student_of(result: RunResult) -> dict[str, torch.Tensor]:
    return dict(load_model(result.model).named_parameters())  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["offline", "online-teacher", "online-student", "mixture"])
def test_every_source_trains_and_writes_the_whole_run(world: Path, tmp_path: Path, kind: str) -> None:
    result = run_distill(distill_settings(world, tmp_path / "run", kind))
    assert result.steps == 10
    names = {path.name for path in result.path.iterdir()}
    assert {"config.toml", "environment.json", "manifest.json", "STATUS.json", "metrics.jsonl"} <= names
    assert json.loads((result.path / "STATUS.json").read_text())["state"] == "finished"
    logged = rows(result.path)
    evaluations = [row for row in logged if row["event"] == "evaluation"]
    assert [row["step"] for row in evaluations] == [0, 1, 3, 10]
    assert evaluations[-1][PROXY] < evaluations[0][PROXY]
    assert evaluations[-1]["train_kl/monitor"] < evaluations[0]["train_kl/monitor"]
    assert {"train_kl/fresh", GOLDEN, f"{GOLDEN}/low", f"{GOLDEN}/high"} <= evaluations[0].keys()
    assert (logged[-1]["generated_tokens"] > 0) == (kind != "offline")
    assert [p.name for p in checkpoints(result.path / "checkpoints")] == ["step_000003", "step_000010"]
    assert not any(path.name in ("optimizer.safetensors", "trainer.json") for path in result.model.iterdir())
    lowest = min(evaluations[1:], key=lambda row: float(row[PROXY]))["step"]
    assert result.best == result.path / "best"
    weights = [
        folder / "model.safetensors" for folder in (result.best, result.path / "checkpoints" / f"step_{lowest:06d}")
    ]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    per_prompt = [json.loads(line) for line in (result.path / "per_prompt.jsonl").read_text().splitlines()]
    for row, evaluation in zip(per_prompt, evaluations, strict=True):
        sums = row["proxy/forward_kl/reference_sampled"]
        assert sum(sums["nats"]) / sum(sums["tokens"]) == pytest.approx(evaluation[PROXY])


def test_a_run_without_a_checkpoint_accepts_other_settings(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ThackError):
        run_distill(distill_settings(world, tmp_path / "run", cache=str(tmp_path / "nowhere")))
    result = run_distill(distill_settings(world, tmp_path / "run"))
    with pytest.raises(UsageError, match="other settings"):
        run_distill(distill_settings(world, tmp_path / "run", epochs=3))
    assert result.steps == 10


def test_a_file_of_prompts_becomes_an_evaluation_set_of_the_run(world: Path, tmp_path: Path) -> None:
    held_out = write(tmp_path / "held_out.jsonl", records(5, 200))
    settings = distill_settings(world, tmp_path / "run", eval_data=str(held_out))
    with pytest.MonkeyPatch.context() as patch:
        signal_at(patch, 2)
        with pytest.raises(Preempted):
            run_distill(settings)
    (saved,) = settings.out.glob("eval_set-*")
    before = (saved / "prompts.jsonl").stat().st_mtime_ns
    run_distill(settings)
    assert [path.name for path in settings.out.glob("eval_set-*")] == [saved.name]
    assert (saved / "prompts.jsonl").stat().st_mtime_ns == before
    assert EvalSet.load(saved).origin.writers[Role.TEACHER] == load_model(world / "teacher").fingerprint()
    other = run_distill(replace(settings, out=tmp_path / "other", seed=1))
    assert [path.name for path in other.path.glob("eval_set-*")] != [saved.name]


@pytest.mark.parametrize("kind", ["offline", "online-teacher", "online-student", "mixture"])
def test_pitfall_28_stopped_in_the_middle_of_a_window_and_resumed(world: Path, tmp_path: Path, kind: str) -> None:
    whole = run_distill(distill_settings(world, tmp_path / "whole", kind))
    settings = distill_settings(world, tmp_path / "cut", kind)
    for step in (2, 7):  # windows are three steps wide
        with pytest.MonkeyPatch.context() as patch:
            signal_at(patch, step)
            with pytest.raises(Preempted):
                run_distill(settings)
        status = json.loads((settings.out / "STATUS.json").read_text())
        assert (status["state"], status["exit_code"], status["step"]) == ("stopped", 75, step)
    cut = run_distill(settings)
    assert rows(cut.path) == rows(whole.path)
    assert (cut.path / "per_prompt.jsonl").read_text() == (whole.path / "per_prompt.jsonl").read_text()
    for name, value in student_of(whole).items():
        assert torch.equal(value, student_of(cut)[name]), name


@pytest.mark.parametrize("begun", ["sorted", "keyed", None])
def test_pitfall_28_a_run_resumes_with_the_order_that_it_began_with(
    world: Path, tmp_path: Path, begun: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above a number of sequences a new run's order is keyed; None: a manifest of before there was a choice."""
    monkeypatch.setattr(order, "_MOST_SORTED", 0 if begun == "keyed" else 1000)
    whole = run_distill(distill_settings(world, tmp_path / "whole"))
    assert json.loads((whole.path / "manifest.json").read_text())["facts"]["order"] == (begun or "sorted")
    settings = distill_settings(world, tmp_path / "cut")
    with pytest.MonkeyPatch.context() as patch:
        signal_at(patch, 4)
        with pytest.raises(Preempted):
            run_distill(settings)
    manifest = json.loads((settings.out / "manifest.json").read_text())
    if begun is None:
        del manifest["facts"]["order"]
    (settings.out / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setattr(order, "_MOST_SORTED", 1000 if begun == "keyed" else 0)
    cut = run_distill(settings)
    assert rows(cut.path) == rows(whole.path)
    assert json.loads((cut.path / "manifest.json").read_text())["facts"]["order"] == (begun or "sorted")


@pytest.mark.parametrize("what", ["teacher", "prompts.jsonl", "cache"])
def test_pitfall_20_a_run_does_not_go_on_with_what_changed_behind_its_names(
    world: Path, tmp_path: Path, what: str
) -> None:
    own = Path(shutil.copytree(world, tmp_path / "world"))
    settings = distill_settings(own, tmp_path / "run", "offline" if what == "cache" else "online-teacher")
    settings = replace(settings, teacher="" if what == "cache" else settings.teacher, eval_data="", oracle="")
    with pytest.MonkeyPatch.context() as patch:
        signal_at(patch, 2)
        with pytest.raises(Preempted):
            run_distill(settings)
    before = {name: (settings.out / name).read_bytes() for name in ("manifest.json", "metrics.jsonl")}
    other = build_world(tmp_path / "other", start=50, seed=7)
    changed = own / what
    changed.rename(tmp_path / "kept")
    (other / what).rename(changed)
    with pytest.raises(MismatchError, match="other models or data"):
        run_distill(settings)
    assert before == {name: (settings.out / name).read_bytes() for name in before}
    shutil.rmtree(changed) if changed.is_dir() else changed.unlink()
    (tmp_path / "kept").rename(changed)
    run_distill(settings)
    now, then = (json.loads(text) for text in ((settings.out / "manifest.json").read_text(), before["manifest.json"]))
    assert now == then  # also of the student, which was read from a checkpoint


def test_pitfall_27_a_damaged_checkpoint_is_skipped(world: Path, tmp_path: Path) -> None:
    settings = distill_settings(world, tmp_path / "run", checkpoint=CheckpointSettings(every_steps=1, keep=3))
    whole = run_distill(settings)
    before, student = rows(whole.path), student_of(whole)
    shutil.rmtree(whole.path / "model")
    newest = checkpoints(whole.path / "checkpoints")[-1]
    (newest / "model.safetensors").write_bytes(b"torn")
    again = run_distill(settings)
    assert rows(again.path) == before
    assert all(torch.equal(value, student_of(again)[name]) for name, value in student.items())


def test_a_cache_and_the_live_teacher_give_the_same_run(world: Path, tmp_path: Path) -> None:
    """Two target sources, one response source: the curves agree to rounding."""
    cached = run_distill(distill_settings(world, tmp_path / "cached", eval_data="", oracle=""))
    responses = tmp_path / "responses.jsonl"
    from thack.cache import Cache

    cache = Cache.open(world / "cache")
    found = [cache.sequences(i) for i in range(len(cache))]
    lines = [
        {"id": s.prompt_id, "prompt": f"def f{s.prompt_id[2:]}(x)", "response_ids": s.response_ids.tolist()}
        for s in found
    ]
    responses.write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = distill_settings(world, tmp_path / "live", cache="", eval_data="", oracle="")
    live = run_distill(replace(settings, data=replace(DATA, path=str(responses))))
    losses = [[row["loss"] for row in rows(r.path) if row["event"] == "train"] for r in (cached, live)]
    # Lengths are known beforehand without a cache, so batches are bucketed: other batches, the same pairs.
    assert np.mean(losses[0]) == pytest.approx(np.mean(losses[1]), rel=0.1)


def test_a_finished_run_is_returned_and_other_settings_are_refused(world: Path, tmp_path: Path) -> None:
    settings = distill_settings(world, tmp_path / "run", eval_data="", oracle="")
    first = run_distill(settings)
    written = (first.path / "metrics.jsonl").read_bytes()
    assert run_distill(settings) == first
    assert (first.path / "metrics.jsonl").read_bytes() == written
    with pytest.raises(UsageError, match=r"other settings[\s\S]*loss.divergence  'forward_kl' then, 'jsd' now"):
        run_distill(replace(settings, loss=LossSettings(divergence="jsd")))


def test_a_finished_run_without_its_checkpoints_is_still_of_its_settings(world: Path, tmp_path: Path) -> None:
    """Removed to save space: its model was returned for any settings, which config.toml then claimed."""
    settings = distill_settings(world, tmp_path / "run", eval_data="", oracle="")
    first = run_distill(settings)
    written = (first.path / "config.toml").read_bytes()
    shutil.rmtree(first.path / "checkpoints")
    with pytest.raises(UsageError, match=r"other settings[\s\S]*seed  0 then, 9 now"):
        run_distill(replace(settings, seed=9))
    assert (first.path / "config.toml").read_bytes() == written
    again = run_distill(settings)
    assert (again.model, again.steps) == (first.model, first.steps)


def test_combinations_that_cannot_work_are_refused_before_anything_is_written(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    refused: list[tuple[dict[str, Any], str]] = [
        ({"source": SourceSettings(kind="online-student")}, "online-student does not go with a cache"),
        ({"cache": "", "teacher": ""}, "needs a teacher"),
        ({"student": ""}, "needs a student"),
        ({"cache": ""}, "needs prompts"),
    ]
    for changes, message in refused:
        with pytest.raises(UsageError, match=message):
            run_distill(distill_settings(world, out, **changes))
    assert not out.exists()


def test_pitfall_20_tokenizers_and_teachers_that_do_not_belong_together(world: Path, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger"
    shutil.copytree(world / "student", stranger)
    Tokenizer.train(["quite another text"] * 3, 264).save(stranger)
    same = distill_settings(world, tmp_path / "a", student=str(stranger))
    with pytest.raises(MismatchError, match=r"teacher +sha256:[\s\S]*student +sha256:"):
        run_distill(replace(same, loss=replace(same.loss, cross_tokenizer="refuse")))
    with pytest.raises(MismatchError, match=r"another teacher's[\s\S]*cache +sample:[\s\S]*teacher +sample:"):
        run_distill(distill_settings(world, tmp_path / "b", teacher=str(world / "oracle"), eval_data=""))
    assert json.loads((tmp_path / "b" / "STATUS.json").read_text())["state"] == "failed"


def sft_settings(out: Path, **changes: Any) -> SftSettings:
    settings = SftSettings(
        out=out,
        tokenizer_size=264,
        architecture=ArchitectureSettings(hidden_size=16, num_layers=1, num_heads=2, max_positions=48, dropout=0.1),
        data=replace(DATA, max_response_tokens=24),
        validation_fraction=0.3,
        epochs=3,
        batch_size=4,
        optimizer=OptimizerSettings(learning_rate=1e-2, schedule="cosine", warmup_steps=2),
        device="cpu",
    )
    return replace(settings, **changes)


def test_sft_keeps_the_best_epoch(tmp_path: Path) -> None:
    directory = run_sft(sft_settings(tmp_path / "run", epochs=4), records(30))
    assert directory == final_model(tmp_path / "run") == tmp_path / "run" / "model"
    nll = {r["step"]: r["validation/nll/token_mean"] for r in rows(tmp_path / "run") if r["event"] == "evaluation"}
    best = min((step for step in nll if step), key=nll.__getitem__)
    assert nll[best] < nll[0]
    kept = load_model(directory)
    chosen = load_model(tmp_path / "run" / "checkpoints" / f"step_{best:06d}")
    assert kept.fingerprint() == chosen.fingerprint()


def test_sft_resumes_to_the_bit_and_keeps_the_best_through_it(tmp_path: Path) -> None:
    run_sft(sft_settings(tmp_path / "whole"), records(30))
    for step in (3, 9):
        with pytest.MonkeyPatch.context() as patch:
            signal_at(patch, step)
            with pytest.raises(Preempted):
                run_sft(sft_settings(tmp_path / "cut"), records(30))
    run_sft(sft_settings(tmp_path / "cut"), records(30))
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    models = [load_model(final_model(tmp_path / name)).fingerprint() for name in ("whole", "cut")]
    assert models[0] == models[1]


def test_sft_starts_from_a_model_and_from_a_tokenizer(tmp_path: Path) -> None:
    tokenizer().save(tmp_path / "tokenizer")
    first = run_sft(sft_settings(tmp_path / "a", tokenizer=str(tmp_path / "tokenizer"), epochs=1), records(8))
    assert load_model(first).tokenizer.fingerprint() == tokenizer().fingerprint()
    data = replace(DATA, path=str(write(tmp_path / "pairs.jsonl", records(8))), max_response_tokens=24)
    second = run_sft(sft_settings(tmp_path / "b", model=str(first), data=data, validation_fraction=0.0))
    assert step_of(checkpoints(tmp_path / "b" / "checkpoints")[-1]) == 6
    assert load_model(second).fingerprint() != load_model(first).fingerprint()


def test_a_cache_that_does_not_cover_the_data_is_refused(world: Path, tmp_path: Path) -> None:
    for count, fits in ((10, True), (13, False)):
        data = replace(DATA, path=str(write(tmp_path / f"{count}.jsonl", records(count))))
        settings = distill_settings(world, tmp_path / f"run_{count}", data=data, eval_data="", oracle="", steps=1)
        if fits:
            run_distill(settings)
        else:
            with pytest.raises(ThackError, match=r"does not cover the data: 3 of 13[\s\S]*missing: id10, id11, id12"):
                run_distill(settings)


def test_a_run_stands_for_its_model(world: Path, tmp_path: Path) -> None:
    first = run_sft(sft_settings(tmp_path / "a", epochs=1, validation_fraction=0.0), records(8))
    assert load_model(tmp_path / "a").fingerprint() == load_model(first).fingerprint()
    shutil.rmtree(first)
    with pytest.raises(ThackError, match=r"student: .*has not finished[\s\S]*checkpoints/step_"):
        load_model(tmp_path / "a", role="student")


def test_the_published_model_keeps_the_number_format_and_the_generation_settings(world: Path, tmp_path: Path) -> None:
    """Also of a run that was resumed; checkpoints keep float32."""
    student = tmp_path / "student"
    load_model(world / "student").save(student, dtype=torch.bfloat16)
    place = student / "generation_config.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), "temperature": 0.7, "top_p": 0.8}))
    settings = distill_settings(world, tmp_path / "run", student=str(student), steps=2)
    run_distill(settings)
    (tmp_path / "run" / "STATUS.json").unlink()
    shutil.rmtree(tmp_path / "run" / "model")
    result = run_distill(settings)
    formats = {
        path.parent.name: {t.dtype for t in load_file(path).values()}
        for path in [result.model / "model.safetensors", *result.path.glob("checkpoints/*/model.safetensors")]
    }
    assert formats.pop("model") == {torch.bfloat16} and set(map(frozenset, formats.values())) == {
        frozenset([torch.float32])
    }
    for directory in (result.model, checkpoints(result.path / "checkpoints")[-1]):
        found = json.loads((directory / "generation_config.json").read_text())
        assert (found["temperature"], found["top_p"]) == (0.7, 0.8)


def test_a_cache_that_seems_shifted_can_be_accepted(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shifted(*_: object, **__: object) -> None:
        raise CacheError("the cache's rows are off by +1 token", details=["mean mass"], hint="check_alignment")

    monkeypatch.setattr("thack.training.alignment.check_shifts", shifted)
    with pytest.raises(CacheError, match="off by"):
        run_distill(distill_settings(world, tmp_path / "a", steps=1))
    run_distill(distill_settings(world, tmp_path / "b", steps=1, check_alignment=False))


def test_memory_settings_change_no_number_but_what_they_say(world: Path, tmp_path: Path) -> None:
    """Activation checkpointing draws the same dropout again; weights without float32 masters round."""
    plain = run_sft(sft_settings(tmp_path / "a", epochs=1), records(12))
    again = MemorySettings(checkpoint_activations=True)
    light = run_sft(sft_settings(tmp_path / "b", epochs=1, memory=again), records(12))
    assert rows(tmp_path / "a") == rows(tmp_path / "b")
    assert load_model(plain).fingerprint() == load_model(light).fingerprint()
    with pytest.raises(UsageError, match=r"memory.compile is for GPUs"):
        run_sft(sft_settings(tmp_path / "d", epochs=1, memory=MemorySettings(compile=True)), records(12))
    narrow = MemorySettings(master_weights=False)
    settings = sft_settings(tmp_path / "c", epochs=1, memory=narrow, dtype="bfloat16")
    saved = load_file(run_sft(settings, records(12)) / "model.safetensors")
    assert {value.dtype for value in saved.values()} == {torch.bfloat16}
    assert rows(tmp_path / "c")[1]["loss"] == pytest.approx(rows(tmp_path / "a")[1]["loss"], rel=0.02)


def test_a_failed_save_in_the_background_stops_the_run_and_keeps_the_checkpoint_before(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Path] = []

    def full_at_the_second(folder: Path, *arguments: Any) -> Path:
        calls.append(folder)
        if len(calls) == 2:
            from safetensors import SafetensorError

            with checkpoint._explained(folder):
                raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        return checkpoint.save_checkpoint(folder, *arguments)

    monkeypatch.setattr("thack.training.saver.save_checkpoint", full_at_the_second)
    settings = sft_settings(tmp_path / "a", epochs=4, checkpoint=CheckpointSettings(every_steps=1))
    with pytest.raises(ThackError, match=r"cannot write .*no space left[\s\S]*free space"):
        run_sft(settings, records(12))
    assert [step_of(p) for p in checkpoints(tmp_path / "a" / "checkpoints")] == [1]
    assert json.loads((tmp_path / "a" / "STATUS.json").read_text())["state"] == "failed"
    run_sft(settings, records(12))  # there is room again
    run_sft(replace(settings, out=tmp_path / "b", checkpoint=CheckpointSettings(every_steps=1, background=False)),
            records(12))  # fmt: skip
    assert rows(tmp_path / "a") == rows(tmp_path / "b")


@pytest.mark.parametrize("error", [KeyError("a bug"), ValueError("another"), OSError("unplugged"), AssertionError()])
def test_an_unexpected_exception_is_a_failed_run_too(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr("thack.training.optimizer.clip_gradients", broken)
    with pytest.raises(type(error)):
        run_distill(distill_settings(world, tmp_path / "a", eval_data="", oracle=""))
    status = read_status(tmp_path / "a")
    assert status is not None and (status.state, status.exit_code) == ("failed", 1)
    assert type(error).__name__ in status.reason
    with pytest.raises(type(error)):
        run_sft(sft_settings(tmp_path / "b"), records(8))
    assert (tmp_path / "b" / "STATUS.json").read_text() == (tmp_path / "a" / "STATUS.json").read_text()


def test_out_of_memory_says_what_to_lower(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hungry(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 TB")

    monkeypatch.setattr("thack.training.trainer.Batch.of", hungry)
    with pytest.raises(ThackError, match=r"out of memory[\s\S]*lower `micro_batch_size`"):
        run_distill(distill_settings(world, tmp_path / "a", eval_data="", oracle=""))
    assert json.loads((tmp_path / "a" / "STATUS.json").read_text())["state"] == "failed"


def named(text: str) -> set[str]:
    """The settings in backticks."""
    return {match.split(" = ")[0] for match in re.findall("`([^`]+)`", text)}


def test_what_the_message_names_for_resuming_is_what_a_resumed_run_may_change(world: Path, tmp_path: Path) -> None:
    resumes, starts_anew = str(out_of_memory(MemoryError()).hint).split("; ")
    before = distill_settings(world, tmp_path / "run", "online-student")
    lower = replace(
        before,
        micro_batch_size=1,
        evaluation=replace(before.evaluation, batch_size=2),
        source=replace(before.source, batch_size=2),
        memory=MemorySettings(checkpoint_activations=True),
        parallel=ParallelSettings(strategy="fsdp"),
    )
    changed = changes(before, lower)
    assert named(resumes) == changed
    with pytest.MonkeyPatch.context() as patch:
        signal_at(patch, 4)
        with pytest.raises(Preempted):
            run_distill(before)
    other = replace(before, batch_size=1, data=replace(before.data, max_response_tokens=4))
    assert named(starts_anew) - {"out"} == changes(before, other)
    with pytest.raises(UsageError) as refused:
        run_distill(replace(lower, batch_size=other.batch_size, data=other.data))
    assert {line.split()[0] for line in refused.value.details} == changes(before, other)
    assert run_distill(lower).steps == 10


def changes(before: DistillSettings, now: DistillSettings) -> set[str]:
    """The keys whose values differ."""
    values = [flattened(config.to_dict(settings)) for settings in (before, now)]
    return {key for key in values[0] if values[0][key] != values[1][key]}
