"""The recipes of docs/exchange.md run as they stand; a cache in batches is shared by ranks and continued."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from thack import Cache, api
from thack.cli import app
from thack.config import CacheSettings, DataSettings, LossSettings
from thack.data.sequence import TokenSequence
from thack.data.tokenizer import Tokenizer
from thack.errors import MismatchError, UsageError
from thack.integrations import CacheCollator, CacheDataset, CacheLoader, CacheLoss
from thack.losses import token_losses
from thack.models.batch import Batch as NativeBatch
from thack.models.hf import load as hf

from .small import llama, t5

DOCUMENT = Path(__file__).parents[3] / "docs" / "exchange.md"
RECIPES = re.findall(r"^## ([^\n]+)\n.*?^```python\n(.*?)^```$", DOCUMENT.read_text(encoding="utf-8"), re.M | re.S)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """A cache of thirteen pairs and a student, as the document has them."""
    path = tmp_path_factory.mktemp("recipes")
    for seed, name in enumerate(("student", "teacher")):
        llama(seed).save_pretrained(path / name)
        tokenizer.save(path / name)
    lines = [json.dumps({"prompt": f"def f{i}(x)", "response": f"reads {i} {'x' * (i % 4)}"}) for i in range(13)]
    (path / "pairs.jsonl").write_text("\n".join(lines))
    data = DataSettings(path=str(path / "pairs.jsonl"))
    api.cache_logits(CacheSettings(teacher=str(path / "teacher"), data=data, out=path / "cache", top_k=8, device="cpu"))
    return path


@pytest.mark.filterwarnings("ignore")  # TRL and transformers warn about themselves
@pytest.mark.parametrize(("name", "text"), RECIPES, ids=[name for name, _ in RECIPES])
def test_a_recipe_runs_as_it_stands(name: str, text: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "TRL" in name:
        pytest.importorskip("trl")
    monkeypatch.chdir(place)
    exec(compile(text, name, "exec"), {"__name__": "__main__"})


@pytest.mark.filterwarnings("ignore")  # TRL and transformers warn about themselves
def test_gkd_from_a_cache_has_the_loss_of_gkd_with_its_teacher(
    place: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRL's own loss on both models' logits, and thack's own step, against the recipe's trainer on a dense cache."""
    pytest.importorskip("trl")
    from trl.experimental.gkd import GKDTrainer

    data = DataSettings(path=str(place / "pairs.jsonl"))
    dense = CacheSettings(teacher=str(place / "teacher"), data=data, kind="dense", out=place / "dense", device="cpu")
    api.cache_logits(dense)
    monkeypatch.chdir(place)
    recipe = dict(RECIPES)["TRL's GKDTrainer"].replace('"cache"', '"dense"')
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(recipe, "GKDTrainer", "exec"), names)
    trainer, student = names["trainer"], names["student"].eval()
    batch = trainer.data_collator([{"position": 4}, {"position": 0}, {"position": 9}])
    with torch.no_grad():
        found = trainer.compute_loss(student, batch)
        asked = {key: batch[key] for key in ("input_ids", "attention_mask")}
        logits = [model(**asked).logits[:, :-1, : tokenizer.size] for model in (student, llama(1).eval())]
        labels = batch["labels"].as_subclass(torch.Tensor)[:, 1:]
        theirs = GKDTrainer.generalized_jsd_loss(*logits, labels=labels, beta=0.5)
        sequences, target = Cache.open(place / "dense").targets([4, 0, 9])
        rows = NativeBatch.of(sequences)
        own_NV = hf.wrap(student, tokenizer, role="student")(rows)
    torch.testing.assert_close(found, theirs, rtol=1e-3, atol=1e-5)
    jsd = LossSettings(divergence="jsd", beta=0.5)
    ours = token_losses(own_NV[:, : tokenizer.size], target, rows.labels_N, jsd).mean()
    torch.testing.assert_close(found, ours)
    assert found > 1e-3


def test_the_exports_run_as_they_stand(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.chdir(place)
    found = re.findall(r"^    thack (cache export .*)$", DOCUMENT.read_text(encoding="utf-8"), re.M)
    assert len(found) == 2 and all(app.run(line.split()) == 0 for line in found)


def positions(sequences: Sequence[TokenSequence]) -> Mapping[str, Any]:
    return {"positions": [s.position for s in sequences]}


def given(loader: CacheLoader) -> list[list[int]]:
    return [batch["positions"] for batch in loader]


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_see_every_sequence_once_in_an_order_of_each_epoch(workers: int, place: Path) -> None:
    dataset = CacheDataset(place / "cache")
    loaders = [
        CacheLoader(dataset, positions, batch_size=3, seed=1, rank=rank, world_size=2, num_workers=workers)
        for rank in range(2)
    ]
    epochs = []
    for _ in range(2):
        parts = [given(loader) for loader in loaders]
        assert [len(part) for part in parts] == [len(loader) for loader in loaders] == [2, 2]
        epochs.append([i for batches in zip(*parts, strict=True) for batch in batches for i in batch])
    assert len(set(epochs[0])) == len(epochs[0]) == 12  # of 13: one is left out, since the ranks are two
    assert epochs[0] != epochs[1] and epochs[0] != sorted(epochs[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loop_continues_with_the_next_batch(workers: int, place: Path) -> None:
    def loader() -> CacheLoader:
        return CacheLoader(CacheDataset(place / "cache"), positions, batch_size=2, seed=3, num_workers=workers)

    whole = loader()
    wanted = [given(whole), given(whole)]
    first, seen = loader(), []
    for batch in first:
        seen.append(batch["positions"])
        if len(seen) == 3:
            break
    state = json.loads(json.dumps(first.state_dict()))
    second = loader()
    second.load_state_dict(state)
    assert seen + given(second) == wanted[0] and given(second) == wanted[1]
    other = CacheLoader(CacheDataset(place / "cache"), positions, batch_size=3, seed=3)
    with pytest.raises(MismatchError, match="another cache or order"):
        other.load_state_dict(state)


def test_tensor_labels_give_the_loss_of_the_others(place: Path, tokenizer: Tokenizer) -> None:
    cache, model = Cache.open(place / "cache"), llama(1)
    rows = CacheDataset(cache).__getitems__([4, 0, 9])
    losses = []
    for tensor_labels in (False, True):
        batch = CacheCollator(cache, model, tokenizer, tensor_labels=tensor_labels)(rows)
        labels: Any = batch.pop("labels")
        losses.append(CacheLoss()(model(**batch), labels.to("cpu")))
    torch.testing.assert_close(losses[0], losses[1])
    assert int(labels.ne(-100).sum()) == sum(len(s.response_ids) for s in rows)
    tokens: Any = batch["input_ids"]
    assert labels.shape == tokens.shape and type(labels.clamp(min=0)) is torch.Tensor
    again: Any = CacheCollator(cache, model, tokenizer)([{"position": 4}, {"position": 0}, {"position": 9}])
    labels = again.pop("labels")
    torch.testing.assert_close(CacheLoss()(model(**again), labels), losses[0])


def test_labels_that_a_loader_pins_keep_the_target(
    place: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where there is CUDA, whose pinned memory is that of a new tensor."""
    from torch.utils.data._utils.pin_memory import pin_memory

    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda labels, device=None: torch.Tensor.clone(labels))
    cache, model = Cache.open(place / "cache"), llama(1)
    batch = CacheCollator(cache, model, tokenizer, tensor_labels=True)(CacheDataset(cache).__getitems__([4, 0, 9]))
    pinned: Any = pin_memory(batch)
    labels = pinned.pop("labels")
    assert labels is not batch["labels"]
    expected = CacheLoss()(model(**pinned), batch["labels"])  # type: ignore[arg-type]
    for same in (labels, labels.detach(), labels.clone(), labels.cpu(), labels.contiguous()):
        assert CacheLoss()(model(**pinned), same).item() == expected.item()
    with pytest.raises(UsageError, match="labels are a Tensor without the teacher's target"):
        CacheLoss()(model(**pinned), labels[:, 1:])


def test_what_does_not_go_together_is_refused(place: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(UsageError, match="tensor_labels"):
        CacheCollator(place / "cache", t5(1), tokenizer, tensor_labels=True)
    with pytest.raises(UsageError, match="rank = 2"):
        CacheLoader(CacheDataset(place / "cache"), positions, batch_size=2, rank=2, world_size=2)
