"""Answers that each look well, and as a whole are not a teacher's raw rows: refused however a job is divided."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.conftest import Make
from serving.server import World, serving
from serving.test_distill import run_settings
from thack.cache import Cache
from thack.cache.exchange.packing import pack, unpack
from thack.cache.exchange.source_row import SourceRow
from thack.cache.exchange.survey import Survey
from thack.cache.format.layout import RecordLayout
from thack.cache.served.job import capture_served
from thack.config import CacheSettings, DataSettings, SamplingSettings
from thack.data.sequence import TokenSequence
from thack.errors import DataError
from thack.models.protocol import LanguageModel
from thack.schema.targets import TargetSpec
from thack.training import run_distill


class Lagging(World):
    """Gives each generated token the row of the token before."""

    def write(self, prompt: list[int], new: int, temperature: float, seed: int) -> tuple[list[int], np.ndarray, str]:
        tokens, rows, reason = super().write(prompt, new, temperature, seed)
        return tokens, np.concatenate([rows[:1], rows[:-1]]) if new > 1 else rows, reason


class Truncating(World):
    """Samples from its 8 most likely ids unless it is told otherwise, and reports what it sampled from."""

    kept = 8

    def rows(self, ids: list[int], first: int) -> np.ndarray:
        rows = super().rows(ids, first)
        cut = np.where(rows < np.sort(rows, axis=1)[:, -self.kept, None], -np.inf, rows)
        return np.asarray(np.maximum(cut - np.logaddexp.reduce(cut, axis=1, keepdims=True), -9999.0))


class Stale(World):
    """Answers the first 16 rows of a response from its prefix cache: they are sure of other tokens."""

    def rows(self, ids: list[int], first: int) -> np.ndarray:
        rows = super().rows(ids, first)
        for place in range(len(ids) - self.length, len(ids) - self.length + 16):
            if first == 1 and len(ids) > 30:
                rows[place - 1] = -16.0
                rows[place - 1, (ids[place] + 7) % rows.shape[1]] = np.log1p(-np.exp(-16.0) * (rows.shape[1] - 1))
        return rows

    length = 40


@pytest.fixture
def long(tmp_path: Path) -> DataSettings:
    """Responses of 40 tokens."""
    path = tmp_path / "long.jsonl"
    response = " and return its text in the file system of a path and the whole place" * 2
    path.write_text("".join(f'{{"prompt": "read the file {n}", "response": "{response}"}}\n' for n in range(6)))
    return DataSettings(path=str(path), max_response_tokens=40)


def refused_twice(settings: CacheSettings, world: World, words: str) -> None:
    for _ in range(2):
        with pytest.raises(DataError, match=words) as caught:
            capture_served(settings)
        assert "answers were dropped" in str(caught.value)
    assert not list((settings.out / "shards").glob("*.thack*")) and not (settings.out / "manifest.json").exists()


def test_rows_that_lag_are_refused_every_time(make: Make, teacher: LanguageModel) -> None:
    world = Lagging(teacher, "vllm")
    with serving(world) as url:
        warm = SamplingSettings(temperature=0.7)
        settings = make(url, generate=True, samples=4, sampling=warm, server={"logprobs": "raw"}, shard_tokens=4000)
        settings = replace(settings, data=replace(settings.data, max_response_tokens=12))
        refused_twice(settings, world, "the rows are off by -1 token")


@pytest.mark.parametrize("kept", [8, 12])
@pytest.mark.parametrize("dialect", ["vllm", "openai"])
def test_truncated_rows_are_refused_unless_it_is_stated(
    dialect: str, kept: int, make: Make, teacher: LanguageModel
) -> None:
    """Also where the server keeps as many ids as are asked for, so that none of them is without mass."""
    world = Truncating(teacher, dialect)
    world.kept = kept
    with serving(world) as url:
        settings = make(url, generate=dialect == "openai", samples=1, shard_tokens=4000)
        refused_twice(
            settings, world, r"processed: \d+ of \d+ uncertain rows sum to 1(.|\n)*server\.logprobs = processed"
        )
        stated = replace(settings, out=settings.out / "stated", server=replace(settings.server, logprobs="processed"))
        assert Cache.open(capture_served(stated)).layout.spec.tail == "processed"


def test_stale_rows_are_refused_unless_they_are_stated_to_be_right(
    make: Make, teacher: LanguageModel, long: DataSettings
) -> None:
    world = Stale(teacher, "vllm")
    with serving(world) as url:
        settings = replace(make(url, shard_tokens=4000), data=long)
        refused_twice(settings, world, r"begin with rows of another text(.|\n)*server\.logprobs = raw")
        capture_served(replace(settings, server=replace(settings.server, logprobs="raw")))


def test_what_was_confirmed_before_a_job_was_stopped_is_judged_with_the_rest(
    make: Make, teacher: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the parts has too few rows to tell."""
    monkeypatch.setattr("thack.cache.exchange.survey._FEWEST_ROWS", 50)
    world = Truncating(teacher, "vllm")
    with serving(world) as url:
        settings = make(url, shard_tokens=4000, server={"concurrency": 1})
        for known in (4, 8):
            world.faults.extend([""] * (16 if known == 4 else 8) + [""] * 4 + ["retokenised"] * 3)
            with pytest.raises(DataError, match="encoded the prompt again"):
                capture_served(settings)
            world.faults.clear()
        before = dict(world.scored)
        refused_twice(settings, world, "the log-probabilities were processed")
        again = {ids for ids, count in before.items() if world.scored[ids] > count}
        assert len(before) - len(again) == 8, "what was confirmed is not asked for again"


def test_a_run_refuses_them_however_often_it_resumes(
    make: Make, teacher: LanguageModel, teacher_directory: Path, tmp_path: Path
) -> None:
    world = Truncating(teacher, "vllm")
    with serving(world) as url:
        live = run_settings(make, url, teacher_directory, tmp_path / "live")
        for _ in range(2):
            with pytest.raises(DataError, match="the log-probabilities were processed"):
                run_distill(live)


@pytest.mark.parametrize("k", [4, 12, 64])
@pytest.mark.parametrize("scale", [1.0, 3.0, 30.0])
def test_raw_rows_are_never_taken_for_processed_however_sure_the_teacher_is(k: int, scale: float) -> None:
    """Where many ids are kept of a sure teacher, nothing is left behind them, as behind a cut."""
    rng = np.random.default_rng(0)
    z = rng.gumbel(size=(400, 300)) * scale
    survey = Survey("auto", z.shape[1])
    survey.count(row_of(z - np.logaddexp.reduce(z, axis=1, keepdims=True), k))
    assert survey.uncertain > 8 and not survey.is_processed


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 2.0, 6.0]), st.sampled_from([None, 3, 8]))
def test_answers_are_judged_the_same_once_they_are_records(seed: int, scale: float, kept: int | None) -> None:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(40, 300)) * scale
    z[z < np.sort(z, axis=1)[:, -(kept or 300), None]] = -np.inf
    row = row_of(z - np.logaddexp.reduce(z, axis=1, keepdims=True), k=8)
    layout = RecordLayout(spec=TargetSpec(kind="top-k", k=8, tail="estimated"), vocab_size=300)
    stored = replace(row, entries=unpack(bytes(pack(row.entries, layout, "")), layout))
    one, other = Survey("auto", 300), Survey("auto", 300)
    one.count(row)
    other.count(stored)
    assert one.is_processed == other.is_processed and abs(one.complete - other.complete) <= 1
    assert one._stale.count == other._stale.count


def row_of(log_p: np.ndarray, k: int) -> SourceRow:
    """As a server gives the k most likely ids of each row, for a response that is drawn from them."""
    rng = np.random.default_rng(1)
    labels = np.array([rng.choice(len(one), p=np.exp(one) / np.exp(one).sum()) for one in log_p], np.int32)
    ids = np.argsort(-log_p, axis=1)[:, :k]
    entries = [(one, np.maximum(row[one], -9999.0)) for one, row in zip(ids, log_p, strict=True)]
    sequence = TokenSequence(example=0, prompt_id="p", prompt_ids=np.ones(1, np.int32), response_ids=labels)
    return SourceRow(sequence, entries, "line 1")
