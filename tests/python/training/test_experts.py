"""Students that are mixtures of experts: the balancing loss of their routers, and the load of their experts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

import transformers

from thack.cache import Cache
from thack.config import CheckpointSettings, EvaluationSettings, OptimizerSettings, SftSettings
from thack.errors import Preempted, UsageError
from thack.models.batch import Batch, pad_right, right_mask
from thack.models.hf.model import HuggingFaceModel
from thack.models.load import load_model
from thack.models.routers import counting_experts, expert_health
from thack.runtime.runlog import read
from thack.training import run_distill, run_sft
from thack.training.objective import supervised
from thack.training.plan import Plan

from .small import model as native
from .small import rows, sequences, tokenizer
from .world import DATA, build_world, distill_settings, records, signal_at, write

KINDS = ("mixtral", "qwen2_moe", "qwen3_moe")
LAYERS, EXPERTS, CHOSEN = 2, 4, 2


def network(kind: str, *, says_so: bool = True) -> Any:
    """A tiny model with random routers far from balance."""
    config = transformers.AutoConfig.for_model(
        kind,
        vocab_size=264,
        hidden_size=16,
        intermediate_size=24,
        moe_intermediate_size=8,
        shared_expert_intermediate_size=8,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=48,
        num_experts_per_tok=CHOSEN,
        output_router_logits=says_so,
        router_aux_loss_coef=0.3,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
        **({"num_local_experts": EXPERTS} if kind == "mixtral" else {"num_experts": EXPERTS, "decoder_sparse_step": 1}),
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)
        made = transformers.AutoModelForCausalLM.from_config(config)
        for name, parameter in made.named_parameters():
            if "gate.weight" in name and "shared" not in name:
                torch.nn.init.normal_(parameter, std=2.0)
    return made.eval()


def save(kind: str, directory: Path, **changes: Any) -> Path:
    network(kind, **changes).save_pretrained(directory)
    tokenizer().save(directory)
    return directory


def own_loss(network: Any, batch: Batch) -> torch.Tensor:
    """transformers' own: cross-entropy on the response tokens plus its balancing loss."""
    whole = [np.concatenate([p, r]) for p, r in zip(batch.prompts, batch.responses, strict=True)]
    ids_BT = torch.from_numpy(pad_right(whole, 0))
    labels_BT = torch.full_like(ids_BT, -100)
    for row, (prompt, text) in enumerate(zip(batch.prompts, whole, strict=True)):
        labels_BT[row, len(prompt) : len(text)] = ids_BT[row, len(prompt) : len(text)]
    # The last token is never read here: thack does not feed it, and the routers do not see it.
    lengths_B = torch.tensor([len(text) - 1 for text in whole])
    mask_BT = right_mask(lengths_B, ids_BT.shape[1])
    found = network(input_ids=ids_BT, attention_mask=mask_BT, labels=labels_BT, output_router_logits=True)
    return found.loss  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradient_are_those_of_transformers(kind: str) -> None:
    theirs, ours = network(kind), HuggingFaceModel(network(kind), tokenizer())
    assert ours.routers is not None and ours.routers.balance("auto")
    batch = Batch.of(sequences(5))
    objective = supervised(ours)
    output = ours(batch, project=not objective.takes_hidden(len(batch.labels_N)))
    loss = objective(output, None, batch.labels_N).sum() / len(batch.labels_N)
    balance = objective.router_loss()
    assert balance is not None and objective.router_loss() is None
    (loss + balance).backward()
    expected = own_loss(theirs, batch)
    expected.backward()
    assert float((loss + balance).detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    for (name, one), (_, other) in zip(ours.model.named_parameters(), theirs.named_parameters(), strict=True):
        if other.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, rtol=2e-4, atol=1e-6, msg=name)


def test_the_balancing_loss_is_its_definition() -> None:
    """E · Σ_e (share of choices of e) · (mean probability of e), over all layers together, in float64."""
    ours = HuggingFaceModel(network("mixtral"), tokenizer())
    assert ours.routers is not None and ours.routers.balance("auto")
    batch = Batch.of(sequences(3))
    ours(batch)
    balance = ours.routers.take_loss()
    causal = batch.causal(0)
    mask_BT = right_mask(causal.lengths_B, causal.tokens_BT.shape[1])
    output = ours.model(input_ids=causal.tokens_BT, attention_mask=mask_BT, output_router_logits=True)
    share_E, probability_E, rows_seen = torch.zeros(EXPERTS).double(), torch.zeros(EXPERTS).double(), 0
    for logits_NE in output.router_logits:
        for row in logits_NE[mask_BT.reshape(-1).bool()].detach().double():
            share_E[row.argsort(descending=True)[:CHOSEN]] += 1
            probability_E += row.softmax(0)
            rows_seen += 1
    expected = EXPERTS * float((share_E / rows_seen) @ (probability_E / rows_seen))
    assert balance is not None
    assert float(balance.detach()) == pytest.approx(0.3 * expected, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_experts_are_counted_without_padding(kind: str) -> None:
    ours = HuggingFaceModel(network(kind), tokenizer())
    given = sequences(4)
    with torch.no_grad(), counting_experts(ours.routers) as together_LE:
        ours(Batch.of(given))
    with torch.no_grad(), counting_experts(ours.routers) as alone_LE:
        for one in given:
            ours(Batch.of([one]))
    assert together_LE is not None and alone_LE is not None
    read_tokens = sum(len(s.prompt_ids) + len(s.response_ids) - 1 for s in given)
    assert together_LE.sum(1).tolist() == [read_tokens * CHOSEN] * LAYERS
    assert torch.equal(together_LE, alone_LE)
    load_LE = together_LE / together_LE.mean(1, keepdim=True)
    found = expert_health(together_LE)
    assert found["expert_load_max"] == pytest.approx(float(load_LE.max()))
    assert found["idle_experts"] == pytest.approx(float((together_LE == 0).sum()) / (LAYERS * EXPERTS))
    assert expert_health(torch.zeros(1, 4)) == {}


def sft_settings(model: Path, data: Path, out: Path, **changes: Any) -> SftSettings:
    settings = SftSettings(
        out=out,
        model=str(model),
        data=replace(DATA, path=str(data), max_response_tokens=24),
        validation_fraction=0.0,
        epochs=2,
        batch_size=4,
        optimizer=OptimizerSettings(learning_rate=1e-2, warmup_steps=1),
        checkpoint=CheckpointSettings(every_steps=1),
        device="cpu",
    )
    return replace(settings, **changes)


def logged(run: Path) -> list[float]:
    return [row["router_loss"] for row in read(run / "metrics.jsonl") if "router_loss" in row]


def test_sft_adds_it_where_the_config_asks_and_resumes_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = save("mixtral", tmp_path / "moe"), write(tmp_path / "data.jsonl", records(8))
    run_sft(sft_settings(model, data, tmp_path / "whole"))
    assert len(logged(tmp_path / "whole")) == 4
    settings = sft_settings(model, data, tmp_path / "stopped")
    with monkeypatch.context() as patch:
        signal_at(patch, 2)
        with pytest.raises(Preempted):
            run_sft(settings)
    run_sft(settings)
    assert rows(tmp_path / "whole") == rows(tmp_path / "stopped")
    run_sft(sft_settings(model, data, tmp_path / "off", router_loss=False))
    assert not logged(tmp_path / "off")
    first, other = (rows(tmp_path / name)[1] for name in ("whole", "off"))
    assert first["loss"] == pytest.approx(other["loss"]) and first["grad_norm"] != other["grad_norm"]
    assert load_model(tmp_path / "whole" / "model").routers is not None
    silent = save("mixtral", tmp_path / "silent", says_so=False)
    run_sft(sft_settings(silent, data, tmp_path / "auto"))
    assert not logged(tmp_path / "auto")


def test_a_distillation_adds_it_by_forwards_and_shows_the_load_of_experts(tmp_path: Path) -> None:
    """In forwards of one sequence, each balancing loss counts by its response tokens."""
    world = build_world(tmp_path / "world")
    student = save("qwen2_moe", tmp_path / "moe")
    settings = distill_settings(
        world,
        tmp_path / "run",
        student=str(student),
        steps=1,
        micro_batch_size=1,
        evaluation=EvaluationSettings(count=1, bootstrap=20, student_samples=False),
    )
    run_distill(settings)
    lines = read(tmp_path / "run" / "metrics.jsonl")
    step = next(row for row in lines if row["event"] == "train")
    cache = Cache.open(world / "cache")
    window = Plan(num_sequences=len(cache), batch_size=2, seed=0, total_steps=1, window_steps=3).window(0)
    batch = window.batch([cache.sequences(int(i)) for i in window.positions], 0)
    ours = HuggingFaceModel(network("qwen2_moe"), tokenizer())
    assert ours.routers is not None and ours.routers.balance("auto")
    tokens = sum(len(s.response_ids) for s in batch)
    expected = 0.0
    for one in batch:
        ours(Batch.of([one]))
        balance = ours.routers.take_loss()
        assert balance is not None
        expected += float(balance.detach()) * len(one.response_ids) / tokens
    assert step["router_loss"] == pytest.approx(expected, rel=1e-5)
    evaluated = [row for row in lines if row["event"] == "evaluation"]
    for name in ("expert_load_max", "expert_load_min", "idle_experts"):
        assert all(f"health/proxy/{name}/reference_sampled" in row for row in evaluated)


def test_a_model_without_experts_is_refused_where_it_is_asked_for(tmp_path: Path) -> None:
    native().save(tmp_path / "dense")
    data = write(tmp_path / "data.jsonl", records(4))
    with pytest.raises(UsageError, match="router_loss = true"):
        run_sft(sft_settings(tmp_path / "dense", data, tmp_path / "run", router_loss=True))
