"""The number of an example in its data set names all that is drawn for it; its place in a cache names nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from thack import kernels
from thack.cache import Cache
from thack.cache.capture.job import capture
from thack.config import ArchitectureSettings, CacheSettings
from thack.data.sequence import TokenSequence, cache_positions
from thack.data.tokenizer import Tokenizer
from thack.errors import UsageError
from thack.models.batch import Batch
from thack.models.load import new_decoder
from thack.targets.keys import row_keys
from thack.targets.types import SampledTarget

from .conftest import FakeTeacher, make_sequences

SUBSET = slice(11, 29, 2)


def rows(cache: Cache) -> dict[tuple[int, int], tuple[list[int], SampledTarget]]:
    """Response and target of every sequence, by example and sample."""
    found = {}
    for position in range(len(cache)):
        (s,), target = cache.targets([position])
        assert isinstance(target, SampledTarget) and s.position == position
        found[s.example, s.sample] = (s.response_ids.tolist(), target)
    return found


def assert_equal(ours: SampledTarget, theirs: SampledTarget) -> None:
    for name in ("ids_NK", "weights_NK", "counts_N", "tau_N", "entropy_N"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


def test_a_cache_of_a_subset_draws_what_the_cache_of_the_whole_does(
    settings: CacheSettings, teacher: FakeTeacher
) -> None:
    sequences = make_sequences(40)
    sampled = replace(settings, kind="sampled", sampled=4, seed=3)
    whole = rows(Cache.open(capture(sampled, teacher=teacher, sequences=sequences)))
    some = replace(sampled, out=settings.out.with_name("some"))
    part = rows(Cache.open(capture(some, teacher=teacher, sequences=sequences[SUBSET])))
    assert sorted(part) == [(example, 0) for example in range(40)[SUBSET]]
    for key, (response, target) in part.items():
        assert response == whole[key][0]
        assert_equal(target, whole[key][1])


def test_a_generated_cache_of_a_subset_has_the_responses_of_the_whole(settings: CacheSettings) -> None:
    tokenizer = Tokenizer.train(["def read(path): read the file at path"] * 3, 264)
    shape = ArchitectureSettings(hidden_size=16, num_layers=1, num_heads=2, max_positions=32)
    teacher = new_decoder(shape, tokenizer, 0)
    prompts = [replace(s, response_ids=np.empty(0, np.int32)) for s in make_sequences(40)]
    generated = replace(
        settings,
        kind="sampled",
        generate=True,
        samples=2,
        shard_tokens=100_000,
        data=replace(settings.data, max_response_tokens=8),
    )
    whole = rows(Cache.open(capture(generated, teacher=teacher, sequences=prompts)))
    some = replace(generated, out=settings.out.with_name("some"))
    part = rows(Cache.open(capture(some, teacher=teacher, sequences=prompts[SUBSET])))
    assert len(part) == 18
    assert {key: response for key, (response, _) in part.items()} == {key: whole[key][0] for key in part}


def test_what_a_subset_cache_says_of_its_sequences_draws_the_same_again(
    settings: CacheSettings, teacher: FakeTeacher
) -> None:
    """Live training on a cache's sequences draws the records that the cache stores."""
    sampled = replace(settings, kind="sampled", sampled=4, seed=3)
    cache = Cache.open(capture(sampled, teacher=teacher, sequences=make_sequences(40)[SUBSET]))
    read, stored = cache.targets([6, 2, 0])
    assert isinstance(stored, SampledTarget)
    assert [s.example for s in read] == [23, 15, 11] and cache_positions(read) == [6, 2, 0]
    assert [cache.sequences(i).example for i in (6, 2, 0)] == [23, 15, 11]
    drawn = kernels.threshold_sample(teacher(Batch.of(read)), 4, seed=3, keys_N4=row_keys(read))
    assert torch.equal(drawn.counts_N, stored.counts_N)
    for n, count in enumerate(drawn.counts_N.tolist()):
        assert torch.equal(drawn.ids_NK[n, :count], stored.ids_NK[n, :count])


def test_a_sequence_of_no_cache_has_no_position(settings: CacheSettings, teacher: FakeTeacher) -> None:
    sequences: list[TokenSequence] = make_sequences(3)
    with pytest.raises(UsageError, match="p0000-ü: the sequence was not read from a cache"):
        cache_positions(sequences)
    cache = Cache.open(capture(settings, teacher=teacher, sequences=sequences))
    read = cache.sequences(2)
    written = read.with_response(np.array([4, 5], np.int32), sample=3)
    assert read.position == 2 and written.position is None
    assert (written.example, written.sample, written.response_ids.tolist()) == (2, 3, [4, 5])


def test_files_do_not_say_where_a_sequence_was_read(settings: CacheSettings, teacher: FakeTeacher) -> None:
    """A cache of a cache's sequences is the cache of the data."""
    first = Cache.open(capture(settings, teacher=teacher, sequences=make_sequences(12)))
    again = capture(
        replace(settings, out=Path(settings.out).with_name("again")),
        teacher=teacher,
        sequences=[first.sequences(i) for i in range(12)],
    )
    for path in (first.directory / "shards").iterdir():
        assert path.read_bytes() == (again / "shards" / path.name).read_bytes()
