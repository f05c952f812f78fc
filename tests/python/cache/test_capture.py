"""What goes in comes out: capture and read back, for every kind of record."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from thack.cache import Cache
from thack.cache.capture.job import capture
from thack.config import CacheSettings
from thack.errors import CacheError, DataError, MismatchError, ModelError, UsageError
from thack.models.batch import Batch
from thack.runtime.ranks import Rank
from thack.targets.types import DenseTarget

from .conftest import VOCAB, FakeTeacher, make_sequences


def content(directory: Path) -> dict[str, bytes]:
    """Every file that must not depend on who wrote it and when."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and "journal" not in path.parts
    }


def test_dense_cache_changes_nothing(settings: CacheSettings, teacher: FakeTeacher) -> None:
    sequences = make_sequences(40)
    directory = capture(settings, teacher=teacher, sequences=sequences)
    cache = Cache.open(directory)
    assert len(cache) == 40 and cache.meta.num_shards > 1
    assert cache.num_tokens == sum(len(s.response_ids) for s in sequences)
    order = [7, 39, 0, 7, 21]
    found, target = cache.targets(order)
    assert isinstance(target, DenseTarget)
    for got, number in zip(found, order, strict=True):
        want = sequences[number]
        assert got.example == got.position == number and got.prompt_id == want.prompt_id
        np.testing.assert_array_equal(got.prompt_ids, want.prompt_ids)
        np.testing.assert_array_equal(got.response_ids, want.response_ids)
    live = torch.log_softmax(teacher(Batch.of([sequences[i] for i in order])), dim=1)
    assert torch.equal(target.log_probs_NV, live)


def test_sequences_reads_tokens_alone(settings: CacheSettings, teacher: FakeTeacher) -> None:
    sequences = make_sequences(10)
    cache = Cache.open(capture(settings, teacher=teacher, sequences=sequences))
    for i in (9, 0, 9):
        np.testing.assert_array_equal(cache.sequences(i).response_ids, sequences[i].response_ids)
    with pytest.raises(UsageError, match="no sequence 10"):
        cache.sequences(10)
    with pytest.raises(UsageError, match="no sequence -1"):
        cache.targets([-1])


def test_every_shard_is_a_safetensors_file(settings: CacheSettings, teacher: FakeTeacher) -> None:
    directory = capture(settings, teacher=teacher, sequences=make_sequences(20))
    for path in sorted((directory / "shards").iterdir()):
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                file.get_tensor(name)
            assert file.metadata()["kind"] == "dense"
            dense = file.get_tensor("records").view(np.float32)
            np.testing.assert_allclose(np.exp(dense).sum(1), 1, rtol=1e-5)


def test_ranks_and_resumes_give_the_same_bytes(settings: CacheSettings, teacher: FakeTeacher, tmp_path: Path) -> None:
    sequences = make_sequences(40)
    alone = content(capture(settings, teacher=teacher, sequences=sequences))
    assert sum(name.startswith("shards/") for name in alone) >= 2
    for world in (2, 3, 4):
        out = tmp_path / f"world{world}"
        for number in reversed(range(world)):
            rank = Rank(number, world, 0)
            capture(replace(settings, out=out), teacher=teacher, sequences=sequences, rank=rank)
        assert content(out) == alone
    # Without a shard and the manifest: only that shard is written again.
    out = tmp_path / "world2"
    (out / "manifest.json").unlink()
    sorted((out / "shards").iterdir())[0].unlink()
    teacher.calls = 0
    capture(replace(settings, out=out), teacher=teacher, sequences=sequences)
    assert content(out) == alone
    assert 0 < teacher.calls < 10


def test_an_unfinished_cache_says_so(settings: CacheSettings, teacher: FakeTeacher) -> None:
    rank = Rank(0, 2, 0)
    directory = capture(settings, teacher=teacher, sequences=make_sequences(40), rank=rank)
    assert not (directory / "manifest.json").exists()
    with pytest.raises(CacheError, match=r"not finished: \d of \d shards"):
        Cache.open(directory)


def test_a_finished_cache_is_left_alone(settings: CacheSettings, teacher: FakeTeacher) -> None:
    sequences = make_sequences(12)
    directory = capture(settings, teacher=teacher, sequences=sequences)
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
    teacher.calls = 0
    capture(settings, teacher=teacher, sequences=sequences)
    assert teacher.calls == 0
    shards = [path for path in before if path.suffix == ".safetensors"]
    assert all(path.stat().st_mtime_ns == before[path] for path in shards)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_bad_logits_stop_the_job_and_name_the_prompt(
    settings: CacheSettings, teacher: FakeTeacher, poison: float
) -> None:
    teacher.poison = poison
    with pytest.raises(ModelError, match="p00"):
        capture(settings, teacher=teacher, sequences=make_sequences(8))
    assert list((Path(settings.out) / "shards").iterdir()) == []


def test_ids_beyond_the_vocabulary_stop_the_job(settings: CacheSettings, teacher: FakeTeacher) -> None:
    sequences = make_sequences(8)
    wide = replace(sequences[5], response_ids=np.asarray([3, VOCAB], dtype=np.int32))
    with pytest.raises(ModelError, match="outside the teacher's vocabulary"):
        capture(settings, teacher=teacher, sequences=[*sequences[:5], wide])
    assert list((Path(settings.out) / "shards").iterdir()) == []


def test_another_plan_in_the_same_directory_is_refused(settings: CacheSettings, teacher: FakeTeacher) -> None:
    sequences = make_sequences(8)
    capture(settings, teacher=teacher, sequences=sequences)
    changes = [
        (replace(settings, seed=1), teacher, sequences, "seed"),
        (replace(settings, batch_size=8), teacher, sequences, "batch_size"),
        (replace(settings, shard_tokens=50), teacher, sequences, "settings"),
        (settings, FakeTeacher(name="other"), sequences, "teacher"),
        (settings, FakeTeacher(tokenizer="other"), sequences, "tokenizer"),
        (settings, teacher, sequences[:7], "data"),
        (settings, teacher, sequences[::-1], "data"),
    ]
    for changed, other, data, key in changes:
        with pytest.raises(MismatchError) as caught:
            capture(changed, teacher=other, sequences=data)
        assert key in str(caught.value), str(caught.value)


def test_settings_that_make_no_sense_are_refused(settings: CacheSettings, teacher: FakeTeacher) -> None:
    changes: list[dict[str, Any]] = [
        {"kind": "top-k", "top_k": 0},
        {"kind": "top-k", "top_k": VOCAB + 1},
        {"kind": "sampled", "sampled": 0},
        {"kind": "sampled", "sampled": 4, "temperatures": (2.0,)},
        {"kind": "top-k", "top_k": 4, "temperatures": (0.0,)},
    ]
    for change in changes:
        with pytest.raises(UsageError):
            capture(replace(settings, **change), teacher=teacher, sequences=make_sequences(3))


def test_a_directory_with_other_files_is_refused(settings: CacheSettings, teacher: FakeTeacher) -> None:
    out = Path(settings.out)
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="did not write"):
        capture(settings, teacher=teacher, sequences=make_sequences(3))
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]


def test_a_cache_crosses_processes_by_pickle(settings: CacheSettings, teacher: FakeTeacher) -> None:
    cache = Cache.open(capture(settings, teacher=teacher, sequences=make_sequences(8)))
    again = pickle.loads(pickle.dumps(cache))
    _, ours = cache.targets([3, 1])
    _, theirs = again.targets([3, 1])
    assert isinstance(ours, DenseTarget) and isinstance(theirs, DenseTarget)
    assert torch.equal(ours.log_probs_NV, theirs.log_probs_NV)


def test_prefetch_gives_what_targets_gives_and_its_errors(settings: CacheSettings, teacher: FakeTeacher) -> None:
    cache = Cache.open(capture(settings, teacher=teacher, sequences=make_sequences(20)))
    batches = [[0, 5], [19], [3, 3, 3]]
    for batch, (sequences, target) in zip(batches, cache.prefetch(batches), strict=True):
        assert [s.position for s in sequences] == batch
        _, expected = cache.targets(batch)
        assert isinstance(target, DenseTarget) and isinstance(expected, DenseTarget)
        assert torch.equal(target.log_probs_NV, expected.log_probs_NV)
    with pytest.raises(UsageError, match="no sequence 99"):
        list(cache.prefetch([[0], [99]]))
    for _ in cache.prefetch([[0]] * 50):
        break  # a reader that leaves early leaves no thread waiting


def test_the_journal_tells_who_made_what(settings: CacheSettings, teacher: FakeTeacher) -> None:
    directory = capture(settings, teacher=teacher, sequences=make_sequences(40))
    rows = [json.loads(line) for line in (directory / "journal" / "rank-00000.jsonl").read_text().splitlines()]
    manifest = json.loads((directory / "manifest.json").read_text())
    assert [row["shard"] for row in rows] == list(range(len(manifest["shards"])))
    assert [row["root"] for row in rows] == [row["root"] for row in manifest["shards"]]


def test_a_given_sequence_without_a_response_is_refused(settings: CacheSettings, teacher: FakeTeacher) -> None:
    sequences = make_sequences(4)
    sequences[2] = replace(sequences[2], response_ids=np.empty(0, np.int32))
    with pytest.raises(DataError, match="sequence 2 has an empty response"):
        capture(settings, teacher=teacher, sequences=sequences)
    assert not (settings.out / "plan.json").exists()
