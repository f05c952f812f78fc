"""transformers' Trainer trains from a cache: the gradient of our own loop, however the step is split."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from thack import Cache, api
from thack.config import CacheSettings, DataSettings, LossSettings, PolicySettings
from thack.data import Record
from thack.data.tokenizer import Tokenizer
from thack.errors import MismatchError, ModelError, UndefinedLoss, UsageError
from thack.integrations import CacheCollator, CacheDataset, CacheLoss
from thack.losses import token_losses
from thack.models.batch import Batch
from thack.models.load import as_language_model
from thack.targets.crop import crop

from .small import arguments, llama, mixtral, t5

LOSSES = {
    "top-k": LossSettings(divergence="jsd", ce_weight=0.3),
    "sampled": LossSettings(),
    "dense": LossSettings(divergence="reverse_kl"),
}


@pytest.fixture(scope="module", params=LOSSES)
def cache(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    tokenizer: Tokenizer,
    records: list[Record],
) -> Cache:
    """A plain Llama's distributions on eight pairs."""
    path = tmp_path_factory.mktemp("cached")
    llama(8).save_pretrained(path / "teacher")
    tokenizer.save(path / "teacher")
    lines = [json.dumps({"prompt": r.prompt, "response": r.response}) for r in records[:8]]
    (path / "pairs.jsonl").write_text("\n".join(lines))
    settings = CacheSettings(
        teacher=str(path / "teacher"),
        data=DataSettings(path=str(path / "pairs.jsonl")),
        out=path / "cache",
        kind=request.param,
        top_k=8,
        sampled=8,
        device="cpu",
    )
    return Cache.open(api.cache_logits(settings))


def own_loss(model: Any, cache: Cache, tokenizer: Tokenizer) -> torch.Tensor:
    """Σ loss / tokens over the whole cache in one batch, as thack's loop computes it."""
    student: Any = as_language_model(model, tokenizer)
    sequences, target = cache.targets(range(len(cache)))
    batch = Batch.of(sequences)
    width = min(student.vocab_size, cache.meta.vocab_size)
    logits_NV = student(batch)[:, :width]
    student.release()
    loss_N = token_losses(logits_NV, crop(target, width), batch.labels_N, LOSSES[cache.meta.kind])
    return loss_N.sum() / len(batch.labels_N)


def own_gradient(model: Any, cache: Cache, tokenizer: Tokenizer) -> dict[str, torch.Tensor]:
    model = copy.deepcopy(model)
    own_loss(model, cache, tokenizer).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("kind", ["causal", "encoder-decoder"])
def test_a_step_of_their_trainer_is_a_step_of_our_loop(
    cache: Cache, tokenizer: Tokenizer, tmp_path: Path, kind: str, accumulation: int
) -> None:
    """Plain SGD at rate 1 without clipping: the change of the weights is the gradient."""
    model = llama(1, sharp=5).train() if kind == "causal" else t5(1).train()
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0
    before = copy.deepcopy(model)
    expected = own_gradient(model, cache, tokenizer)
    options = {
        "max_steps": 1,
        "learning_rate": 1.0,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "per_device_train_batch_size": 8 // accumulation,
        "gradient_accumulation_steps": accumulation,
    }
    trainer = transformers.Trainer(
        model=model,
        args=arguments(tmp_path, **options),
        train_dataset=CacheDataset(cache),
        data_collator=CacheCollator(cache, model, tokenizer),
        compute_loss_func=CacheLoss(LOSSES[cache.meta.kind]),
    )
    trainer.train()
    for (name, new), old in zip(model.named_parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(old - new, expected[name], atol=3e-6, rtol=3e-4, msg=name)


@pytest.mark.parametrize("asks", [True, False])
def test_a_mixture_of_experts_is_balanced_as_in_our_loop(cache: Cache, tokenizer: Tokenizer, asks: bool) -> None:
    """Loss and gradient of a step of two batches of different length, where config.json asks for it and where not."""
    model = mixtral(1, output_router_logits=asks)
    student: Any = as_language_model(model, tokenizer)
    student.routers.balance("auto")
    collate, loss = CacheCollator(cache, model, tokenizer), CacheLoss(LOSSES[cache.meta.kind])
    parts = [list(range(5)), list(range(5, 8))]
    dataset = CacheDataset(cache)
    num_tokens = sum(len(s.response_ids) for s in dataset.__getitems__(range(8)))
    expected, found = torch.zeros(()), torch.zeros(())
    for part in parts:
        sequences, target = cache.targets(part)
        batch = Batch.of(sequences)
        logits_NV = student(batch)[:, : min(student.vocab_size, cache.meta.vocab_size)]
        expected = (
            expected + token_losses(logits_NV, crop(target, logits_NV.shape[1]), batch.labels_N, loss.settings).sum()
        )
        balance = student.routers.take_loss()
        assert (balance is not None) is asks
        if asks:
            expected = expected + balance * len(batch.labels_N)
    expected_grads = torch.autograd.grad(expected / num_tokens, list(model.parameters()))
    student.release()
    for part in parts:
        inputs: Any = collate(dataset.__getitems__(part))
        labels = inputs.pop("labels")
        found = found + loss(model(**inputs), labels, torch.tensor(num_tokens))
    torch.testing.assert_close(found, expected / num_tokens)
    for ours, theirs in zip(torch.autograd.grad(found, list(model.parameters())), expected_grads, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)
    with torch.no_grad():  # an evaluation is the divergence alone
        alone = CacheLoss(loss.settings)(model(**inputs), labels)
    assert not asks or alone < found


@pytest.mark.parametrize(
    "settings",
    [
        LossSettings(policy=PolicySettings(weight=1.0)),
        LossSettings(policy=PolicySettings(discount=1.0)),
        LossSettings(ce_weight=1.0, mix="curriculum"),
        LossSettings(cross_tokenizer="alm"),
        LossSettings(cross_tokenizer="cell-next"),
        LossSettings(alm_temperature=1.0),
        LossSettings(fused=True),
        LossSettings(mix="entropy"),
        LossSettings(entropy_order=0.5),
    ],
    ids=str,
)
def test_settings_that_a_loss_alone_cannot_follow_are_refused(settings: LossSettings) -> None:
    with pytest.raises((UsageError, UndefinedLoss), match=r"loss\."):
        CacheLoss(settings)


def test_their_evaluation_with_a_worker_is_the_mean_over_tokens(
    cache: Cache, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model = llama(1)
    trainer = transformers.Trainer(
        model=model,
        args=arguments(tmp_path, per_device_eval_batch_size=8, dataloader_num_workers=1),
        eval_dataset=CacheDataset(cache.directory),
        data_collator=CacheCollator(cache, model, tokenizer),
        compute_loss_func=CacheLoss(LOSSES[cache.meta.kind]),
    )
    found = trainer.evaluate()["eval_loss"]
    assert found == pytest.approx(own_loss(model, cache, tokenizer).item(), rel=1e-4)


def test_a_student_with_another_tokenizer_is_refused(cache: Cache) -> None:
    stranger = Tokenizer.train(["quite another text"] * 3, 264)
    with pytest.raises(MismatchError, match="has another tokenizer than the student"):
        CacheCollator(cache, llama(1), stranger)


def test_a_student_that_looks_ahead_is_refused(cache: Cache, tokenizer: Tokenizer) -> None:
    config = transformers.BertConfig(
        vocab_size=264, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    with pytest.raises(ModelError, match="BertLMHeadModel is not causal"):
        CacheCollator(cache, transformers.BertLMHeadModel(config), tokenizer)
