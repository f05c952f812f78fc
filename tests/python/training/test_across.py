"""A student with another tokenizer than its teacher's: from a cache, and from a live teacher."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from runtime.said import Said
from thack.api import preflight
from thack.cache import Cache, probe
from thack.cache.capture.job import capture
from thack.config import (
    CacheSettings,
    DoctorSettings,
    LossSettings,
    TargetSettings,
)
from thack.cross_tokenizer import Rewriter, read_bpe
from thack.data.sequence import TokenSequence
from thack.detection import Curves, verdict
from thack.errors import CacheError, MismatchError, Preempted, UndefinedLoss, UsageError
from thack.models.batch import Batch
from thack.models.load import load_model
from thack.reporting.gained import gained
from thack.runtime.progress import SILENT
from thack.schema.cross_tokenizer import PUBLISHED
from thack.schema.metrics import GOLDEN, PROXY
from thack.schema.preflight import CellShares
from thack.targets.shares import cell_findings, cut_share
from thack.training import run_distill
from thack.training.plan import Plan

from .across_world import across, build_across, compared, evaluations, losses, other, theirs
from .small import rows
from .world import DATA, records, signal_at, write

pytestmark = pytest.mark.usefixtures("compared_once")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_across(tmp_path_factory.mktemp("across"))


@pytest.mark.parametrize(
    ("kind", "variant"),
    [
        ("dense", "cell"),
        ("top-k", "cell-next"),
        ("sampled", "auto"),
        ("live", "auto"),
        ("sampled", "alm"),
        ("top-k", "uld-common"),
        ("dense", "gold"),
        ("live", "uld"),
    ],
)
def test_trains_and_says_what_it_does(world: Path, tmp_path: Path, kind: str, variant: Any) -> None:
    said = Said()
    published = variant in PUBLISHED
    loss = LossSettings(cross_tokenizer=variant, ce_weight=1.0 if published else 0.0)
    settings = across(world, tmp_path / "run", kind, loss=loss, epochs=3)
    result = run_distill(settings, said)
    found = losses(result.path)
    assert np.mean(found[-5:]) < np.mean(found[:5])
    text = "\n".join(said.lines)
    what = {"alm": "is ALM", "uld": "is ULD", "uld-common": "is ULD", "gold": "is GOLD's"}.get(
        variant, "compares cells"
    )
    assert f"another tokenizer: the loss {what}" in text
    assert ("mass left out" in text, "outside cells" in text) == (not published, not published)
    facts = json.loads((result.path / "manifest.json").read_text())["facts"]
    assert facts["teacher_tokenizer"] == theirs().fingerprint() != facts["tokenizer"] == other().fingerprint()
    assert 0 < facts["preflight"]["cells/common"] < 1
    assert (result.path / "cells.npz").is_file()
    assert load_model(result.model).tokenizer.fingerprint() == other().fingerprint()


def test_a_cache_and_the_live_teacher_train_alike(world: Path, tmp_path: Path) -> None:
    cached = run_distill(across(world, tmp_path / "cached", "dense", steps=3))
    live = run_distill(across(world, tmp_path / "live", "live", steps=3))
    np.testing.assert_allclose(losses(cached.path), losses(live.path), rtol=2e-3)
    drawn = across(world, tmp_path / "drawn", "live", target=TargetSettings(kind="sampled", k=8), steps=3)
    np.testing.assert_allclose(
        losses(run_distill(drawn).path),
        losses(run_distill(across(world, tmp_path / "sampled", "sampled", steps=3)).path),
        rtol=2e-2,
    )


def test_stopped_and_resumed(world: Path, tmp_path: Path) -> None:
    whole = run_distill(across(world, tmp_path / "whole", "sampled", steps=6))
    settings = across(world, tmp_path / "cut", "sampled", steps=6)
    with pytest.MonkeyPatch.context() as patch:
        signal_at(patch, 4)
        with pytest.raises(Preempted):
            run_distill(settings)
    assert losses(run_distill(settings).path) == losses(whole.path)


@pytest.mark.parametrize("kind", ["sampled", "live"])
def test_evaluated_in_nats_per_byte_and_resumed_to_the_bit(world: Path, tmp_path: Path, kind: str) -> None:
    given = {
        "teacher": str(world / "teacher"),
        "oracle": str(world / "oracle"),
        "eval_data": str(world / "held_out.jsonl"),
        "steps": 6,
    }
    said = Said()
    whole = run_distill(across(world, tmp_path / "whole", kind, **given), said)
    assert "proxy: in nats per byte, since the student has another tokenizer" in said.lines
    settings = across(world, tmp_path / "cut", kind, **given)
    with pytest.MonkeyPatch.context() as patch:
        signal_at(patch, 4)
        with pytest.raises(Preempted):
            run_distill(settings)
    resumed = run_distill(settings)
    assert evaluations(whole.path) == evaluations(resumed.path)
    assert (whole.path / "per_prompt.jsonl").read_bytes() == (resumed.path / "per_prompt.jsonl").read_bytes()
    first, *_, last = evaluations(whole.path)
    assert {str(PROXY.per_byte), str(GOLDEN), str(GOLDEN.per_byte), str(GOLDEN.per_byte.of_baseline)} <= first.keys()
    assert str(PROXY) not in first and str(GOLDEN.of_baseline) not in first
    assert first[str(GOLDEN.per_byte.of_baseline)] == last[str(GOLDEN.per_byte.of_baseline)] > 0
    assert first[str(PROXY.per_byte)] > 0
    assert whole.best is not None and resumed.best is not None  # of the proxy in nats per byte


def test_plain_fine_tuning_beside_it_reads_the_students_ids(world: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"teacher": str(world / "teacher"), "eval_data": str(world / "held_out.jsonl")}
    settings = across(world, tmp_path / "run", "top-k", baseline="sft", steps=4, **given)
    result = run_distill(settings)
    assert result.supervised is not None
    own, beside = (rows(path) for path in (result.path, result.supervised))
    assert [row["tokens"] for row in own if row["event"] == "train"] == [
        row["tokens"] for row in beside if row["event"] == "train"
    ]
    student = load_model(world / "student")
    rewrite, cached = Rewriter(theirs(), other(), compared()), Cache.open(world / "top-k")
    size, every = settings.batch_size, settings.source.refresh_steps
    window = Plan(num_sequences=10, batch_size=size, seed=settings.seed, total_steps=4, window_steps=every).window(0)
    batch = Batch.of(window.batch([rewrite(cached.sequences(int(i))) for i in window.positions], 0))
    with torch.no_grad():
        expected = float(torch.nn.functional.cross_entropy(student(batch).double(), batch.labels_N))
    assert losses(result.supervised)[0] == pytest.approx(expected, rel=1e-5)
    found = verdict(Curves.from_run(result.path))
    assert [gain.column for gain in found.gains] == ["proxy/log_ratio/reference_sampled"]
    assert "nats per byte on the proxy" in gained(found.gains)


def test_fused_or_not(world: Path, tmp_path: Path) -> None:
    fused, plain = (
        run_distill(across(world, tmp_path / str(fused), "top-k", steps=3, loss=LossSettings(fused=fused)))
        for fused in (True, False)
    )
    np.testing.assert_allclose(losses(fused.path), losses(plain.path), rtol=1e-4)


def test_prompts_of_the_data_are_those_of_the_cache(world: Path, tmp_path: Path) -> None:
    data = replace(DATA, path=str(world / "prompts.jsonl"), max_response_tokens=30)
    given = run_distill(across(world, tmp_path / "given", "top-k", data=data, steps=3))
    decoded = run_distill(across(world, tmp_path / "decoded", "top-k", steps=3))
    assert losses(given.path) == losses(decoded.path)


def test_pitfall_20_another_prompt_under_the_same_id_is_refused(world: Path, tmp_path: Path) -> None:
    """The student read the data's, and the records are of what the teacher read; a resumed run saw no change."""
    path = write(tmp_path / "prompts.jsonl", records(10))
    data = replace(DATA, path=str(path), max_response_tokens=30)
    stopped = across(world, tmp_path / "run", "top-k", data=data, steps=3)
    with pytest.MonkeyPatch.context() as patch:
        signal_at(patch, 2)
        with pytest.raises(Preempted):
            run_distill(stopped)
    write(path, [*records(9), replace(records(10)[9], prompt="something else")])
    for settings in (stopped, replace(stopped, out=tmp_path / "new")):
        with pytest.raises(CacheError, match=r"1 of 10 cached responses stand behind another prompt[\s\S]*: id9"):
            run_distill(settings)


_TEMPLATE = (
    "{% for m in messages %}{{ m.role }} {{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}assistant {% endif %}"
)


@pytest.mark.parametrize("train_on", ["last", "all"])
def test_a_cache_of_several_turns_is_refused(world: Path, tmp_path: Path, train_on: Any) -> None:
    """They share one id: the student read the last turn's prompt before each. A space may move to the response."""
    own = Path(shutil.copytree(world, tmp_path / "world"))
    for role in ("teacher", "student"):
        path = own / role / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": _TEMPLATE}))
    said = [("user", "q"), ("assistant", "give"), ("user", "more"), ("assistant", "back")]
    messages = [{"role": role, "content": content} for role, content in said]
    (own / "chat.jsonl").write_text(json.dumps({"id": "a", "messages": messages}) + "\n")
    data = replace(DATA, path=str(own / "chat.jsonl"), max_prompt_tokens=60, max_response_tokens=20)
    given = CacheSettings(out=own / "turns", teacher=str(own / "teacher"), top_k=4, device="cpu")
    capture(replace(given, data=replace(data, train_on=train_on)), SILENT)
    settings = across(own, tmp_path / "run", "turns", data=data, steps=1)
    if train_on == "last":
        assert run_distill(settings).steps == 1
        return
    with pytest.raises(CacheError, match=r"1 of 2 cached responses stand behind another prompt[\s\S]*the last turns"):
        run_distill(settings)


def test_rewritten_sequences_hold_the_same_text(world: Path) -> None:
    rewrite = Rewriter(theirs(), other(), compared())
    cached = Cache.open(world / "top-k")
    for n, record in enumerate(records(10)):
        s = rewrite(cached.sequences(n))
        assert other().decode(s.prompt_ids) == record.prompt
        assert other().decode(s.response_ids) == record.response
        assert s.response_ids[-1] == other().eos_id
        assert s.source.position == s.position == n


def test_a_response_is_cut_at_a_control_token(world: Path) -> None:
    rewrite = Rewriter(theirs(), other(), compared())
    s = Cache.open(world / "top-k").sequences(0)
    pad = np.int32(theirs().pad_id)
    held = replace(s, response_ids=np.concatenate([s.response_ids[:3], [pad], s.response_ids[3:]]))
    found = rewrite(held)
    assert other().decode(found.response_ids) == theirs().decode(s.response_ids[:3])
    assert len(found.source.response_ids) == len(s.response_ids) + 1
    with pytest.raises(MismatchError, match="begins with '<pad>', which is no text"):
        rewrite(replace(s, response_ids=np.array([pad, *s.response_ids])))
    with pytest.raises(MismatchError, match="holds '<pad>', which is no text"):
        rewrite(replace(s, prompt_ids=np.array([pad, *s.prompt_ids])))


def test_a_response_that_was_cut_inside_a_character(world: Path) -> None:
    ids = theirs().encode("日")[:2]
    s = replace(Cache.open(world / "top-k").sequences(0), response_ids=ids)
    found = Rewriter(theirs(), other(), compared())(s)
    bytes_V = read_bpe(other()).bytes_V
    assert b"".join(bytes_V[int(i)] or b"" for i in found.response_ids) == "日".encode()[:2]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"loss": LossSettings(cross_tokenizer="refuse")}, MismatchError, "another tokenizer than the student"),
        ({"loss": LossSettings(divergence="reverse_kl")}, UndefinedLoss, "reverse_kl is not defined"),
        ({"loss": LossSettings(temperature=2.0)}, UndefinedLoss, "temperature 2 is not defined"),
        ({"loss": LossSettings(add=("jsd:1",))}, UndefinedLoss, "jsd is not defined"),
        (
            {"loss": LossSettings(cross_tokenizer="uld", divergence="jsd")},
            UndefinedLoss,
            "defined by loss.cross_tokenizer",
        ),
        ({"loss": LossSettings(cross_tokenizer="alm", fused=True)}, UndefinedLoss, "takes the logits of all tokens"),
        ({"loss": LossSettings(alm_temperature=2.0)}, UsageError, "belongs to loss.cross_tokenizer = alm"),
        ({"data": replace(DATA, train_on="all")}, UsageError, "train_on = all"),
    ],
)
def test_what_is_refused(world: Path, tmp_path: Path, changes: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        run_distill(across(world, tmp_path / "run", "dense" if "loss" in changes else "top-k", **changes))


@pytest.mark.parametrize(("kind", "loss"), [("sampled", "uld"), ("top-k", "gold")])
def test_a_published_loss_names_the_target_that_it_lacks(world: Path, tmp_path: Path, kind: str, loss: Any) -> None:
    with pytest.raises(UndefinedLoss, match=f"cross_tokenizer = {loss} is not defined on"):
        run_distill(across(world, tmp_path / "run", kind, loss=LossSettings(cross_tokenizer=loss)))


def test_a_published_loss_needs_two_tokenizers(world: Path, tmp_path: Path) -> None:
    loss = LossSettings(cross_tokenizer="alm")
    with pytest.raises(UndefinedLoss, match="have one tokenizer"):
        run_distill(across(world, tmp_path / "run", "dense", student=str(world / "teacher"), loss=loss))


def test_a_cache_without_its_tokenizer_needs_the_teacher(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "top-k", tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache" / "tokenizer")
    settings = across(world, tmp_path / "run", "top-k", cache=str(tmp_path / "cache"), steps=2)
    with pytest.raises(MismatchError, match="does not hold it"):
        run_distill(settings)
    assert run_distill(replace(settings, teacher=str(world / "teacher"))).steps == 2
    other().save(tmp_path / "cache" / "tokenizer")
    with pytest.raises(MismatchError, match="not the tokenizer whose ids are cached"):
        run_distill(replace(settings, out=tmp_path / "other"))


def test_doctor_and_probe_say_it_beforehand(world: Path, tmp_path: Path) -> None:
    data = replace(DATA, path=str(world / "prompts.jsonl"), max_response_tokens=30)
    found = preflight(DoctorSettings(teacher=str(world / "teacher"), student=str(world / "student"), data=data))
    lines = {finding.name: finding for finding in found.findings}
    assert "the loss compares cells" in lines["another tokenizer"].value
    assert "mass left out" in lines and "vocabulary" not in lines
    assert found.cells is not None and 0 < found.cells.common < 1 and found.cells.rows > 10
    run = run_distill(across(world, tmp_path / "run", "dense", steps=1))
    facts = json.loads((run.path / "manifest.json").read_text())["facts"]["preflight"]
    assert facts["cells/left_out"] == pytest.approx(found.cells.left_out, abs=2e-3)  # of all sequences alike
    assert facts["cells/common"] == pytest.approx(found.cells.common)
    capture = CacheSettings(teacher=str(world / "teacher"), data=data, device="cpu")
    assert [f.value for f in probe(replace(capture, student=str(world / "student"))).another_tokenizer] == [
        lines[name].value for name in ("another tokenizer", "mass left out", "outside cells")
    ]
    assert not probe(replace(capture, student=str(world / "teacher"))).another_tokenizer


def test_doctor_names_what_is_refused(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "student", tmp_path / "student")
    file = tmp_path / "student" / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"normalizer": {"type": "Lowercase"}}))
    data = replace(DATA, path=str(world / "prompts.jsonl"), max_response_tokens=30)
    found = preflight(DoctorSettings(teacher=str(world / "teacher"), student=str(tmp_path / "student"), data=data))
    (line,) = found.wrong
    assert line.name == "another tokenizer" and "normalizer Lowercase" in line.value and line.advice


def test_cuts_at_control_tokens_are_counted() -> None:
    rewrite = Rewriter(theirs(), other(), compared(), prompts=lambda _: np.zeros(0, np.int32))
    ids = theirs().encode("dive back, five of them")
    sequences = [
        TokenSequence(example=0, prompt_id="a", prompt_ids=ids, response_ids=np.append(response, end))
        for response, end in ((ids, theirs().eos_id), (np.append(ids, theirs().pad_id), ids[0]))
    ]
    found = [rewrite(s) for s in sequences]
    assert cut_share(found) == 0.5
    assert next(f for f in cell_findings(shares(cut=0.5)) if f.name == "control tokens").state == "note"
    assert "control tokens" not in [f.name for f in cell_findings(shares(cut=0.0))]


def shares(cut: float) -> CellShares:
    return CellShares(rows=1, common=1.0, settled=1.0, outside=0.0, left_out=0.0, forbidden=0.0, cut=cut)


def test_no_prompt_is_dropped_for_its_length_in_tokens_of_the_student(world: Path, tmp_path: Path) -> None:
    """The bound is in the teacher's tokens, which are fewer here."""
    given = [replace(record, prompt=f"{record.prompt_id} dive back, five of them") for record in records(4)]
    bound, longest = (max(len(one.encode(record.prompt)) for record in given) for one in (theirs(), other()))
    assert bound < longest <= 40
    data = replace(DATA, path=str(write(tmp_path / "prompts.jsonl", given)), max_prompt_tokens=bound)
    settings = across(world, tmp_path / "run", "live", epochs=1)
    result = run_distill(replace(settings, data=replace(data, max_response_tokens=30)))
    assert json.loads((result.path / "manifest.json").read_text())["facts"]["sequences"] == 4
