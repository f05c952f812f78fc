"""Students that train an adapter of peft on a frozen base model."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("peft")

import peft
import transformers

from thack import api
from thack.checks import check_combination, check_sft
from thack.config import (
    ArchitectureSettings,
    CheckpointSettings,
    DistillSettings,
    LoraSettings,
    MergeSettings,
    OptimizerSettings,
    SftSettings,
)
from thack.data import Record
from thack.data.stream import DataStream
from thack.errors import MismatchError, ModelError, Preempted, UsageError
from thack.models.batch import Batch
from thack.models.load import load_model, load_student, new_decoder, without_adapter
from thack.runtime.progress import SILENT
from thack.training import run_distill, run_sft
from thack.training.checkpoint import checkpoints

from .small import model, rows, sequences, tokenizer
from .world import DATA, build_world, distill_settings, records, signal_at

# peft asks transformers under a name that is about to go.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
LORA = LoraSettings(rank=4, alpha=8.0, dropout=0.1)
ADAPTER, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_world(tmp_path_factory.mktemp("world"))


def lora_settings(world: Path, out: Path, **changes: Any) -> DistillSettings:
    every = CheckpointSettings(every_steps=1, keep=9)
    return distill_settings(
        world,
        out,
        **{"lora": LORA, "epochs": 1, "teacher": "", "eval_data": "", "oracle": "", "checkpoint": every} | changes,
    )


@pytest.fixture(scope="module")
def trained(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without interruption."""
    return run_distill(lora_settings(world, tmp_path_factory.mktemp("trained") / "run")).path


def test_a_run_keeps_the_adapter_alone(world: Path, trained: Path) -> None:
    last = checkpoints(trained / "checkpoints")[-1]
    for directory in (trained / "model", last):
        names = {path.name for path in directory.iterdir()}
        assert {ADAPTER, CONFIG, "tokenizer.json"} <= names and not {"model.safetensors", "config.json"} & names
        assert json.loads((directory / CONFIG).read_text())["base_model_name_or_path"] == str(world / "student")
    saved = load_file(last / "optimizer.safetensors")
    assert saved and all("lora_" in name for name in saved)
    facts = json.loads((trained / "manifest.json").read_text())["facts"]
    assert facts["models"]["base"] == load_model(world / "student").fingerprint() != facts["models"]["student"]
    assert facts["origins"]["base"] == str(world / "student")
    assert facts["parameters"]["adapter"] == sum(v.numel() for v in load_file(last / ADAPTER).values())
    card = (trained / "model" / "README.md").read_text()
    assert "library_name: peft" in card and str(world / "student") in card and "AutoPeftModelForCausalLM" in card


def test_pitfall_28_stopped_twice_and_resumed(world: Path, trained: Path, tmp_path: Path) -> None:
    """With dropout; and its base was moved while it stood still."""
    settings = lora_settings(world, tmp_path / "cut")
    for step in (1, 3):
        with pytest.MonkeyPatch.context() as patch:
            signal_at(patch, step)
            with pytest.raises(Preempted):
                run_distill(settings)
    moved = shutil.copytree(world / "student", tmp_path / "moved")
    cut = run_distill(replace(settings, student=str(moved)))
    assert rows(cut.path) == rows(trained)
    assert (cut.model / ADAPTER).read_bytes() == (trained / "model" / ADAPTER).read_bytes()
    assert json.loads((cut.model / CONFIG).read_text())["base_model_name_or_path"] == str(moved)


def test_another_base_below_the_checkpoint_is_refused(world: Path, tmp_path: Path) -> None:
    student = shutil.copytree(world / "student", tmp_path / "student")
    settings = lora_settings(world, tmp_path / "run", student=str(student))
    with pytest.MonkeyPatch.context() as patch:
        signal_at(patch, 1)
        with pytest.raises(Preempted):
            run_distill(settings)
    model(seed=77).save(student)
    with pytest.raises(MismatchError, match=r"other models or data[\s\S]*models\.base"):
        run_distill(settings)


def test_merged_it_gives_the_logits_of_peft_and_of_transformers(world: Path, trained: Path, tmp_path: Path) -> None:
    api.merge(MergeSettings(model=str(trained), out=tmp_path / "merged"))
    merged: Any = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    wrapped = peft.AutoPeftModelForCausalLM.from_pretrained(str(trained / "model"))
    ids = torch.tensor([[5, 9, 40, 3, 100, 7]])
    with torch.no_grad():
        expected = wrapped.eval()(input_ids=ids).logits
        with wrapped.disable_adapter():
            base = wrapped(input_ids=ids).logits
        found = merged.eval()(input_ids=ids).logits
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(found, base, atol=1e-3)
        for name in (trained, tmp_path / "merged"):  # as a teacher, an oracle or a student
            ours = load_model(name)(Batch.of(sequences(3)))
            torch.testing.assert_close(ours, load_model(trained)(Batch.of(sequences(3))), atol=1e-5, rtol=1e-5)
    with pytest.raises(UsageError, match="exists already"):
        api.merge(MergeSettings(model=str(trained), out=tmp_path / "merged"))
    with pytest.raises(UsageError, match="holds no adapter"):
        api.merge(MergeSettings(model=str(world / "student"), out=tmp_path / "other"))


@pytest.mark.parametrize("changes", [{}, {"use_rslora": True}, {"use_dora": True}, {"target_modules": ("q_proj",)}])
def test_two_steps_are_those_of_a_plain_loop_with_peft(world: Path, tmp_path: Path, changes: Any) -> None:
    """All pairs in one batch, AdamW at a constant rate; the first loss is that of the base."""
    lora = replace(LORA, dropout=0.0, **changes)
    optimizer = OptimizerSettings(learning_rate=1e-2, warmup_steps=0, clip_norm=0.0)
    settings = SftSettings(
        out=tmp_path / "run",
        model=str(world / "student"),
        data=replace(DATA, max_response_tokens=24),
        validation_fraction=0.0,
        epochs=2,
        batch_size=8,
        optimizer=optimizer,
        lora=lora,
        seed=3,
        device="cpu",
    )
    run_sft(settings, records(8))
    losses = [row["loss"] for row in rows(tmp_path / "run") if row["event"] == "train"]

    expected, base_loss, network = plain_loop(world / "student", lora, seed=3)
    assert losses == pytest.approx(expected, rel=1e-5)
    assert losses[0] == pytest.approx(base_loss, rel=1e-5)
    ours = load_file(checkpoints(tmp_path / "run" / "checkpoints")[-1] / ADAPTER)
    theirs = peft.get_peft_model_state_dict(network)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], atol=1e-5, rtol=1e-4)


def plain_loop(directory: Path, lora: LoraSettings, seed: int) -> tuple[list[float], float, Any]:
    """Two losses, the base's loss before, and the network after: peft and torch alone."""
    base: Any = transformers.AutoModelForCausalLM.from_pretrained(directory)
    pairs = [ids_of(record) for record in records(8)]

    def loss_of(network: Any) -> torch.Tensor:
        sums = []
        for prompt, response in pairs:
            ids = torch.tensor([prompt + response])
            logits = network(input_ids=ids).logits[0, len(prompt) - 1 : -1]
            sums.append(torch.nn.functional.cross_entropy(logits, ids[0, len(prompt) :], reduction="sum"))
        return torch.stack(sums).sum() / sum(len(response) for _, response in pairs)

    before = float(loss_of(base).detach())
    torch.manual_seed(seed)
    network = peft.get_peft_model(
        base,
        peft.LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            target_modules="all-linear" if lora.target_modules == ("all-linear",) else list(lora.target_modules),
            use_rslora=lora.use_rslora,
            use_dora=lora.use_dora,
            task_type="CAUSAL_LM",
        ),
    )
    trained = [p for p in network.parameters() if p.requires_grad]
    adamw = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.0)
    losses = []
    for _ in range(2):
        loss = loss_of(network)
        loss.backward()
        adamw.step()
        adamw.zero_grad()
        losses.append(float(loss.detach()))
    return losses, before, network


def ids_of(record: Record) -> tuple[list[int], list[int]]:
    """The prompt and the response that `thack sft` trains on."""
    stream = DataStream(replace(DATA, max_response_tokens=24), tokenizer(), need_response=True, records=[record])
    (found,) = [s for chunk in stream for s in chunk.sequences]
    return found.prompt_ids.tolist(), found.response_ids.tolist()


def test_only_the_adapter_gets_gradients(world: Path) -> None:
    student: Any = load_student(str(world / "student"), LORA, seed=0, checkpoint=None, device="cpu")
    again: Any = load_student(str(world / "student"), LORA, seed=0, checkpoint=None, device="cpu")
    batch = Batch.of(sequences(4))
    torch.testing.assert_close(student(batch), load_model(world / "student")(batch), atol=1e-5, rtol=1e-5)
    student(batch).logsumexp(1).sum().backward()
    for (name, parameter), other in zip(student.named_parameters(), again.parameters(), strict=True):
        assert parameter.requires_grad == ("lora_" in name) == (parameter.grad is not None)
        assert torch.equal(parameter, other)  # the same seed, the same adapter


def test_what_does_not_combine_is_refused_by_name(
    world: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"lora\.rank = 0 trains all weights"):
        check_combination(lora_settings(world, tmp_path, lora=LoraSettings(alpha=8.0)))
    with pytest.raises(UsageError, match=r"lora\.rank = 4 needs a base model"):
        check_sft(SftSettings(out=tmp_path / "sft", data=replace(DATA, path="pairs.jsonl"), lora=LORA))

    def load(directory: Path, **changes: Any) -> None:
        load_student(str(directory), replace(LORA, **changes), seed=0, checkpoint=None, device="cpu")

    with pytest.raises(UsageError, match=r"holds an adapter of its own[\s\S]*thack merge"):
        load(trained)
    with pytest.raises(ModelError, match=r"lora\.target_modules = \['nothing'\]"):
        load(world / "student", target_modules=("nothing",))
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModelError, match=r"peft is not installed[\s\S]*thack\[lora\]"):
        load(world / "student")


def test_a_head_that_shares_the_embedding_gets_no_adapter(tmp_path: Path) -> None:
    tied = ArchitectureSettings(hidden_size=16, num_layers=1, num_heads=2, tie_head=True)
    new_decoder(tied, tokenizer(), 0).save(tmp_path)
    with pytest.raises(UsageError, match=r"lora\.target_modules names the head or the embedding"):
        load_student(str(tmp_path), replace(LORA, target_modules=("lm_head",)), seed=0, checkpoint=None, device="cpu")


def test_a_teacher_that_is_the_student_without_its_adapter_shares_its_weights(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a second copy of the same model would: the same losses, with dropout in the adapter alone."""
    data = replace(DATA, path=str(world / "prompts.jsonl"), teacher_template="give {prompt}")
    changes = {"cache": "", "data": data, "eval_data": str(world / "prompts.jsonl"), "lora": replace(LORA, dropout=0.2)}
    notes: list[str] = []
    monkeypatch.setattr(type(SILENT), "note", lambda self, text: notes.append(text))
    one = lora_settings(world, tmp_path / "one", teacher=str(world / "student"), **changes)
    run_distill(one)
    assert "teacher: the student without its adapter, one copy of the weights" in notes
    shutil.copytree(world / "student", tmp_path / "copy")
    run_distill(replace(one, out=tmp_path / "two", teacher=str(tmp_path / "copy")))
    for ours, theirs in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        for key in ("loss", "grad_norm", "proxy/forward_kl/reference_sampled/token_mean"):
            if key in theirs:
                assert ours[key] == pytest.approx(theirs[key], rel=2e-3, abs=1e-7), (ours["step"], key)
    facts = [json.loads((tmp_path / name / "manifest.json").read_text())["facts"] for name in ("one", "two")]
    assert facts[0]["models"] == facts[1]["models"]
    assert facts[0]["parameters"] == facts[1]["parameters"]
    with monkeypatch.context() as patch:
        signal_at(patch, 2)
        with pytest.raises(Preempted):
            run_distill(replace(one, out=tmp_path / "stopped"))
    run_distill(replace(one, out=tmp_path / "stopped"))
    assert rows(tmp_path / "stopped") == rows(tmp_path / "one")


def test_no_second_copy_of_a_weight_is_made(world: Path) -> None:
    student = load_student(str(world / "student"), LORA, seed=0, checkpoint=None, device="cpu")
    teacher = without_adapter(student)
    own = {p.data_ptr() for p in student.parameters()}
    assert all(p.data_ptr() in own and not p.requires_grad for p in teacher.parameters())
    batch = Batch.of(sequences(3))
    with torch.no_grad():
        for parameter in student.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
        student.train()
        expected_NV = load_model(world / "student")(batch)
        torch.testing.assert_close(teacher(batch), expected_NV, rtol=1e-4, atol=1e-5)
        assert student.training and not torch.allclose(student(batch), expected_NV, atol=1e-3)
