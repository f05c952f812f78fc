"""Several caches in one run: routed by prompt, or mixed by weights, from two teachers that are never in memory."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from thack.cache import Cache
from thack.cache.capture.job import capture
from thack.config import CacheSettings, DataSettings, DistillSettings, GuardSettings
from thack.data import Record
from thack.errors import CacheError, DataError, MismatchError, Preempted, UsageError
from thack.models.batch import Batch
from thack.models.load import load_model
from thack.reporting import details
from thack.reporting.inputs import load
from thack.reporting.table import Span
from thack.runtime.progress import SILENT
from thack.schema.run import Manifest
from thack.targets.types import DenseTarget
from thack.training import RunResult, run_distill
from thack.training.prompts import PromptWeights, read_weights
from thack.training.several import MixedCaches, RoutedCaches, first_of_each

from .small import rows
from .world import DATA, build_world, distill_settings, records, signal_at, write

WIDTH = 264


def cached(world: Path, name: str, teacher: str, found: list[Record], **changes: Any) -> Path:
    data = replace(DATA, path=str(write(world / f"{name}.jsonl", found)))
    settings = CacheSettings(
        out=world / name, teacher=str(world / teacher), data=data, kind="dense", device="cpu", dtype="float32"
    )
    capture(replace(settings, **changes), SILENT)
    return world / name


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Caches a (of the teacher) and b (of the oracle) of the same pairs, c of others, s and t: a and b as samples."""
    root = build_world(tmp_path_factory.mktemp("world"))
    cached(root, "a", "teacher", records(8))
    cached(root, "b", "oracle", records(8))
    cached(root, "c", "oracle", records(6, 50))
    cached(root, "s", "teacher", records(8), kind="sampled", sampled=4)
    cached(root, "t", "oracle", records(6, 50), kind="sampled", sampled=8)
    return root


def settings_of(world: Path, out: Path, caches: str, **changes: Any) -> DistillSettings:
    names = tuple(str(world / name) for name in caches)
    changes = {"teacher": "", "oracle": "", "eval_data": "", "epochs": 1} | changes
    return distill_settings(world, out, cache=names, check_alignment=False, **changes)


def losses(result: RunResult) -> list[float]:
    return [row["loss"] for row in rows(result.path) if row["event"] == "train"]


@pytest.mark.parametrize("names", ["ac", "st"])
def test_a_routed_batch_has_the_targets_of_each_cache(world: Path, names: str) -> None:
    caches = [Cache.open(world / name) for name in names]
    routed = RoutedCaches(caches, WIDTH, first_of_each(caches, "refuse"))
    assert len(routed) == 14
    positions = [9, 0, 13, 7, 8, 7]
    sequences, target = routed.targets(positions)
    assert [s.position for s in sequences] == positions
    row = 0
    for position, s in zip(positions, sequences, strict=True):
        cache, within = (caches[0], position) if position < 8 else (caches[1], position - 8)
        (own,), expected = cache.targets([within])
        assert own.prompt_id == s.prompt_id == routed.sequences(position).prompt_id
        assert s.response_ids.tolist() == own.response_ids.tolist()
        part = target.rows(slice(row, row + len(own.response_ids)))
        if isinstance(part, DenseTarget) and isinstance(expected, DenseTarget):
            torch.testing.assert_close(part.log_probs_NV, torch.log_softmax(expected.log_probs_NV[:, :WIDTH], dim=1))
        else:
            width = expected.ids_NK.shape[1]  # type: ignore[union-attr]
            assert torch.equal(part.ids_NK[:, :width], expected.ids_NK)  # type: ignore[union-attr]
            assert not part.weights_NK[:, width:].any()  # type: ignore[union-attr]
        row += len(own.response_ids)
    assert row == len(target)


def test_a_prompt_in_two_caches_is_refused_or_goes_as_asked(world: Path) -> None:
    caches = [Cache.open(world / name) for name in "ab"]
    with pytest.raises(CacheError, match="8 of the 8 sequences of") as raised:
        first_of_each(caches, "refuse")
    assert "cache_overlap" in (raised.value.hint or "")
    everything = RoutedCaches(caches, WIDTH, first_of_each(caches, "all"))
    assert len(everything) == 16 and everything.sequences(12).prompt_id == caches[1].sequences(4).prompt_id
    assert len({everything.sequences(i).example for i in range(16)}) == 16
    first = RoutedCaches(caches, WIDTH, first_of_each(caches, "first"))
    assert len(first) == 8 and first.sequences(7).prompt_id == caches[0].sequences(7).prompt_id
    partly = RoutedCaches(caches, WIDTH, [np.array([1, 3]), np.array([0, 2])])
    names = [s.prompt_id for s in partly.targets([3, 0, 1])[0]]
    assert names == [caches[n].sequences(i).prompt_id for n, i in ((1, 2), (0, 1), (0, 3))]
    assert partly.part([1]).sequences(0).prompt_id == caches[1].sequences(0).prompt_id


def test_mixed_targets_are_the_weighted_sum_with_weights_of_each_prompt(world: Path) -> None:
    caches = [Cache.open(world / name) for name in "ab"]
    own = caches[0].sequences(2).prompt_id
    mixed = MixedCaches(caches, WIDTH, PromptWeights([3, 1], {own: [0, 2]}))
    sequences, target = mixed.targets([2, 5])
    assert isinstance(target, DenseTarget)
    shares = [[0.0, 1.0]] * len(sequences[0].response_ids) + [[0.75, 0.25]] * len(sequences[1].response_ids)
    read = [cache.targets([2, 5])[1] for cache in caches]
    p_NV = [t.log_probs_NV.double().exp()[:, :WIDTH] for t in read if isinstance(t, DenseTarget)]
    expected = sum(
        w_N[:, None] * p / p.sum(dim=1, keepdim=True)
        for w_N, p in zip(torch.tensor(shares).double().T, p_NV, strict=True)
    )
    torch.testing.assert_close(target.log_probs_NV.double().exp(), expected, rtol=1e-5, atol=1e-9)


def test_all_weight_on_one_cache_is_a_run_from_it(world: Path, tmp_path: Path) -> None:
    alone = run_distill(settings_of(world, tmp_path / "alone", "b"))
    mixed = run_distill(settings_of(world, tmp_path / "mixed", "ab", cache_weights=(0.0, 2.0)))
    assert losses(mixed) == pytest.approx(losses(alone), rel=1e-5)
    half = run_distill(settings_of(world, tmp_path / "half", "ab", cache_weights=(1.0, 1.0)))
    assert losses(half) != pytest.approx(losses(alone), rel=1e-3)


@pytest.mark.parametrize("changes", [{"cache": "ac"}, {"cache": "ab", "cache_weights": (0.7, 0.3)}])
def test_it_resumes_to_the_bit_and_where_a_cache_was_moved(
    world: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    names = changes.pop("cache")
    whole = run_distill(settings_of(world, tmp_path / "whole", names, epochs=2, **changes))
    cut = settings_of(world, tmp_path / "cut", names, epochs=2, **changes)
    with pytest.MonkeyPatch.context() as patch:
        signal_at(patch, 3)
        with pytest.raises(Preempted):
            run_distill(cut)
    with pytest.raises(MismatchError, match="other models or data"):
        run_distill(replace(cut, cache=(str(world / names[1]), str(world / names[0]))))
    if names == "ab":
        with pytest.raises(UsageError, match=r"other settings[\s\S]*cache_weights"):
            run_distill(replace(cut, cache_weights=(0.5, 0.5)))
    shutil.copytree(world / names[1], tmp_path / "moved")
    again = run_distill(replace(cut, cache=(str(world / names[0]), str(tmp_path / "moved"))))
    assert rows(again.path) == rows(whole.path)
    facts = Manifest.parse(json.loads((again.path / "manifest.json").read_text())).facts
    caches = [Cache.open(world / name) for name in names]
    assert [one.fingerprint for one in facts.caches] == [cache.meta.fingerprint for cache in caches]
    assert facts.cache_costs is not None
    assert (
        facts.cache_costs.tokens == sum(one.costs.tokens for one in facts.caches) == sum(c.num_tokens for c in caches)
    )
    assert (facts.cache_weights is None) == (names == "ac")


def test_the_teacher_of_any_cache_is_the_proxy(world: Path, tmp_path: Path) -> None:
    run = {"eval_data": str(world / "eval_set"), "oracle": ""}
    result = run_distill(settings_of(world, tmp_path / "run", "ac", teacher=str(world / "teacher"), **run))
    evaluations = [row for row in rows(result.path) if row["event"] == "evaluation"]
    assert {"train_kl/monitor", "proxy/forward_kl/reference_sampled/token_mean"} <= evaluations[-1].keys()
    (found,) = details.caches(load([result.path], tmp_path / "report"))
    assert found.title == "2 caches of run" and len(found.table.rows) == 2
    last = evaluations[-1]
    assert found.table.rows[1][-1] == (Span(f"{last['train_kl/cache_2']:.4g}"),)
    student, oracle, cache = load_model(result.path / "model"), load_model(world / "oracle"), Cache.open(world / "c")
    batch = Batch.of([cache.sequences(i) for i in range(len(cache))])
    with torch.no_grad():
        log_p, log_q = (model(batch).double().log_softmax(1) for model in (oracle, student))
    assert last["train_kl/cache_2"] == pytest.approx(float((log_p.exp() * (log_p - log_q)).sum(1).mean()), rel=1e-3)
    assert last["train_kl/cache_1"] != last["train_kl/cache_2"]
    with pytest.raises(MismatchError, match="the caches store other teachers' distributions"):
        run_distill(settings_of(world, tmp_path / "other", "ac", teacher=str(world / "student"), **run))


def weighted(path: Path, weights: list[object]) -> DataSettings:
    found = [
        {"prompt": r.prompt, "id": r.prompt_id, "w": w} for r, w in zip(records(len(weights)), weights, strict=True)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return replace(DATA, path=str(path))


def test_weights_of_prompts_from_a_column(world: Path, tmp_path: Path) -> None:
    data = weighted(tmp_path / "weights.jsonl", [[1, 0]] * 4 + ["0, 3"] * 4)
    found = read_weights(data, "w", 2)
    assert list(found.values()) == [[1, 0]] * 4 + [[0, 3]] * 4
    key = {"data": data, "cache_weight_key": "w"}
    run = run_distill(settings_of(world, tmp_path / "run", "ab", **key))
    facts = Manifest.parse(json.loads((run.path / "manifest.json").read_text())).facts
    assert facts.cache_weights == PromptWeights((), found).fingerprint
    few = {"data": weighted(tmp_path / "few.jsonl", [[1, 0]] * 3), "cache_weight_key": "w"}
    with pytest.raises(DataError, match="5 of 8 sequences of the caches have prompts without weights"):
        run_distill(settings_of(world, tmp_path / "few", "ab", **few))
    run_distill(settings_of(world, tmp_path / "rest", "ab", cache_weights=(1.0, 2.0), **few))
    wrongs: list[list[object]] = [[[1]], [[-1, 2]], [[0, 0]], ["1;2"], [None], [[True, 1]]]
    for wrong in wrongs:
        with pytest.raises(DataError, match=r"weights\.jsonl:1: w ="):
            read_weights(weighted(tmp_path / "weights.jsonl", wrong), "w", 2)


def test_what_does_not_go_together_is_refused(world: Path, tmp_path: Path) -> None:
    other = cached(world, "d", "teacher", records(8, 20))
    with pytest.raises(CacheError, match="only caches of the same sequences can be mixed: number 0"):
        MixedCaches([Cache.open(other), Cache.open(world / "a")], WIDTH, PromptWeights([1, 1]))
    guard = GuardSettings(on=True)
    held_out = {"teacher": str(world / "teacher"), "eval_data": str(world / "eval_set")}
    with pytest.raises(UsageError, match=r"guard\.policy = refresh does not go with several caches"):
        run_distill(settings_of(world, tmp_path / "run", "ac", guard=guard, **held_out))
