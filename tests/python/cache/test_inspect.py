"""inspect, verify, probe and estimate: what a cache holds, whether it is intact, what it would cost."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from thack.cache import Cache, inspect, probe, verify
from thack.cache.capture.job import capture
from thack.cache.format.plan import read_plan
from thack.cache.sizing.estimation import estimate
from thack.cache.sizing.probing import _costs, recommend, threshold
from thack.config import CacheSettings
from thack.errors import CacheError, UsageError
from thack.runtime.ranks import Rank
from thack.schema.cache_content import MOST_MISSING
from thack.schema.cache_size import TargetCost
from thack.targets.types import TopKTarget

from .conftest import VOCAB, FakeTeacher, make_sequences


def test_inspect_describes_a_complete_cache(settings: CacheSettings, teacher: FakeTeacher) -> None:
    sequences = make_sequences(30)
    directory = capture(settings, teacher=teacher, sequences=sequences)
    found = inspect(directory)
    assert found.complete and found.kind == "dense" and found.bytes_per_token == 4 * VOCAB + 2
    assert found.tokens == sum(len(s.response_ids) for s in sequences)
    assert found.fingerprints["teacher"] == teacher.fingerprint()
    assert set(found.losses.values()) == {"exact, at any temperature"}


def test_inspect_names_the_missing_shards(settings: CacheSettings, teacher: FakeTeacher, tmp_path: Path) -> None:
    directory = capture(settings, teacher=teacher, sequences=make_sequences(40), rank=Rank(1, 2, 0))
    found = inspect(directory)
    assert not found.complete and 0 in found.missing_shards and found.tokens is None
    with pytest.raises(CacheError, match="does not exist"):
        inspect(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CacheError, match="is not a cache"):
        inspect(tmp_path / "empty")


def test_verify_names_the_shard_and_the_cause(settings: CacheSettings, teacher: FakeTeacher) -> None:
    directory = capture(settings, teacher=teacher, sequences=make_sequences(40))
    assert verify(directory, full=True).ok
    path = sorted((directory / "shards").iterdir())[1]
    whole = path.read_bytes()
    path.write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
    found = verify(directory, full=True)
    assert not found.ok and [row.shard for row in found.damaged] == [1]
    assert "chunk 0" in found.damaged[0].cause
    with pytest.raises(CacheError, match="chunk 0"):
        Cache.open(directory).targets(Cache.open(directory).plan.shard(1))
    path.write_bytes(whole[:-1])
    assert "trailer" in verify(directory).damaged[0].cause
    path.unlink()
    assert verify(directory).damaged[0].shard == 1
    path.write_bytes(sorted((directory / "shards").iterdir())[0].read_bytes())
    assert "belongs elsewhere" in verify(directory).damaged[0].cause
    path.write_bytes(whole)
    assert verify(directory, full=True).ok


def test_verify_writes_a_missing_manifest(settings: CacheSettings, teacher: FakeTeacher) -> None:
    directory = capture(settings, teacher=teacher, sequences=make_sequences(40))
    manifest = (directory / "manifest.json").read_bytes()
    (directory / "manifest.json").unlink()
    assert verify(directory).complete
    assert (directory / "manifest.json").read_bytes() == manifest


def test_probe_compares_and_recommends(settings: CacheSettings, teacher: FakeTeacher) -> None:
    found = probe(settings, teacher=teacher, sequences=make_sequences(30), tokens=1e12)
    rows = {(row.kind, row.ids): row for row in found.rows}
    assert rows["dense", VOCAB].retained_mass == 1 and ("top-k", 64) not in rows
    assert 0 < rows["top-k", 4].retained_mass < rows["top-k", 16].retained_mass < 1
    top = rows["top-k", 16]
    assert top.retained_mass + top.tail_mass == pytest.approx(1, abs=1e-5)
    assert rows["sampled", 16].noise < rows["sampled", 4].noise
    assert found.recommended.kind == "sampled"
    sizing = {(row.kind, row.ids): row for row in found.sizing}
    assert sizing["dense", VOCAB].bytes == pytest.approx(1e12 * (4 * VOCAB + 2 + 4))
    assert sizing["dense", VOCAB].shards * settings.shard_bytes >= 1e12 * 4 * VOCAB
    assert 0 < rows["top-k", 16].kl_lost < rows["top-k", 4].kl_lost and rows["dense", VOCAB].kl_lost == 0
    many = probe(replace(settings, epochs=10), teacher=teacher, sequences=make_sequences(9))
    assert many.recommended.kind == "dense"


@pytest.mark.parametrize("tokens", [-5, float("nan"), float("inf"), 1e19])
def test_probe_refuses_an_impossible_size(settings: CacheSettings, tokens: float) -> None:
    """Before the teacher is loaded."""
    with pytest.raises(UsageError, match=r"tokens = .*must be from 1 to 1e\+18"):
        probe(settings, tokens=tokens)


def test_a_file_is_not_a_cache(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    with pytest.raises(CacheError, match="is a file, not a cache"):
        inspect(tmp_path / "f")


def test_threshold_solves_its_equation() -> None:
    generator = torch.Generator().manual_seed(0)
    for scale in (0.1, 1.0, 5.0):
        p = torch.softmax(scale * torch.randn(200, 60, generator=generator, dtype=torch.float64), 1)
        p = p.sort(1, descending=True).values
        for k in (1, 4, 16, 59):
            tau = threshold(p, k)
            total = torch.minimum(torch.ones(()), p / tau[:, None]).sum(1)
            torch.testing.assert_close(total, torch.full_like(total, k))


def test_dry_run_writes_nothing_and_is_right(settings: CacheSettings, teacher: FakeTeacher) -> None:
    sequences = make_sequences(40)
    found = estimate(settings, teacher=teacher, sequences=sequences)
    assert not Path(settings.out).exists()
    directory = capture(settings, teacher=teacher, sequences=sequences)
    real = inspect(directory)
    assert found.tokens == real.tokens and found.shards == real.shards
    assert found.tokens_per_s > 0


def test_inspect_and_verify_import_no_torch(settings: CacheSettings, teacher: FakeTeacher) -> None:
    directory = capture(settings, teacher=teacher, sequences=make_sequences(10))
    code = f"""if True:
        import sys
        from thack.cache import inspect, verify
        assert inspect({str(directory)!r}).complete and verify({str(directory)!r}, full=True).ok
        assert "torch" not in sys.modules
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_tokens_moved_between_rows_of_the_manifest_are_found(settings: CacheSettings, teacher: FakeTeacher) -> None:
    out = capture(settings, teacher=teacher, sequences=make_sequences(20))
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["shards"][0]["tokens"] += 1
    manifest["shards"][1]["tokens"] -= 1
    (out / "manifest.json").write_text(json.dumps(manifest))
    found = verify(out)
    assert not found.ok
    assert [damage.shard for damage in found.damaged] == [0, 1]
    assert "the manifest says" in found.damaged[0].cause


def test_a_shard_that_is_a_fifo_is_damage(settings: CacheSettings, teacher: FakeTeacher) -> None:
    out = capture(settings, teacher=teacher, sequences=make_sequences(20))
    (shard, *_) = sorted((out / "shards").iterdir())
    shard.unlink()
    os.mkfifo(shard)
    assert [(damage.shard, damage.cause) for damage in verify(out).damaged] == [(0, "is no regular file")]
    shard.unlink()


def test_a_shard_that_becomes_a_fifo_is_refused_when_it_is_read(settings: CacheSettings, teacher: FakeTeacher) -> None:
    """Nobody writes into it, so that whoever opens it to read would wait for ever."""
    out = capture(settings, teacher=teacher, sequences=make_sequences(20))
    shards = sorted((out / "shards").iterdir())
    for shard in shards[1:]:
        shard.unlink()
        os.mkfifo(shard)
    cache = Cache.open(out)
    with pytest.raises(CacheError, match="not a regular file"):
        cache.sequences(len(cache) - 1)
    assert cache.sequences(0).example == 0
    for shard in shards[1:]:
        shard.unlink()


@pytest.mark.parametrize(("first", "problem"), [(10**30, "beyond 64 bits"), (1 << 60, "beyond 2.48 sequences")])
def test_plans_are_bounded(settings: CacheSettings, teacher: FakeTeacher, first: int, problem: str) -> None:
    out = capture(settings, teacher=teacher, sequences=make_sequences(20))
    plan = json.loads((out / "plan.json").read_text())
    (out / "plan.json").write_text(json.dumps(plan | {"firsts": [0, first]}))
    for read in (inspect, verify):
        with pytest.raises(CacheError, match=problem):
            read(out)


def test_what_top_k_loses_is_the_kl_inside_its_tail() -> None:
    log_p_NV = torch.log_softmax(torch.randn(7, 300, generator=torch.Generator().manual_seed(0)).double() * 3, dim=1)
    (found,) = [cost for cost in _costs(log_p_NV, 300, 1000) if (cost.kind, cost.ids) == ("top-k", 16)]
    lost, dropped = [], []
    for p_V in log_p_NV.exp().numpy():
        tail = sorted(p_V, reverse=True)[16:]
        lost.append(sum(p * math.log(p / (sum(tail) / len(tail))) for p in tail))
        dropped.append(-math.log(1 - sum(tail)))
    assert found.kl_lost == pytest.approx(sum(lost) / 7)
    assert found.kl_renormalised == pytest.approx(sum(dropped) / 7)


@pytest.mark.parametrize(
    ("lost", "epochs", "expected"),
    [
        ({64: 0.01, 256: 0.001}, 1, ("sampled", 4)),
        ({64: 0.01, 256: 0.001}, 4, ("top-k", 64)),
        ({64: 0.3, 256: 0.01}, 4, ("top-k", 256)),
        ({64: 0.3, 256: 0.1}, 4, ("top-k", 256)),
    ],
)
def test_several_passes_take_top_k_with_its_tail(
    lost: dict[int, float], epochs: int, expected: tuple[str, int]
) -> None:
    costs = [TargetCost(kind="top-k", ids=k, kl_lost=nats, bytes_per_token=1, corpus_gb=1) for k, nats in lost.items()]
    costs += [TargetCost(kind="sampled", ids=k, bytes_per_token=1, corpus_gb=1) for k in (4, 64)]
    found = recommend(costs, epochs, 50_000)
    assert (found.kind, found.ids) == expected


def test_inspect_says_what_is_rounded_and_no_tail_where_there_is_none(
    settings: CacheSettings, teacher: FakeTeacher, tmp_path: Path
) -> None:
    top = inspect(capture(replace(settings, kind="top-k", top_k=8), teacher=teacher, sequences=make_sequences(9)))
    assert top.exact_tail is True and top.temperatures == (1.0,)
    assert "off by up to 0.3% of their range" in top.precision
    other = replace(settings, out=tmp_path / "sampled", kind="sampled", sampled=4)
    drawn = inspect(capture(other, teacher=teacher, sequences=make_sequences(9)))
    assert drawn.exact_tail is None and drawn.temperatures == ()


def test_stored_log_probs_are_as_near_as_inspect_says(settings: CacheSettings, teacher: FakeTeacher) -> None:
    sequences = make_sequences(30)
    directory = capture(replace(settings, kind="top-k", top_k=16), teacher=teacher, sequences=sequences)
    _, target = Cache.open(directory).targets(range(len(sequences)))
    assert isinstance(target, TopKTarget) and target.log_tail_N is not None
    mass_N = target.log_probs_NK.exp().sum(1) + target.log_tail_N.exp()
    assert (mass_N - 1).abs().max() < 4e-3 and (mass_N - 1).abs().max() > 1e-6
    exact = target.normalised()
    assert exact.log_tail_N is not None
    total_N = exact.log_probs_NK.exp().sum(1) + exact.log_tail_N.exp()
    torch.testing.assert_close(total_N, torch.ones_like(total_N), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        exact.log_probs_NK - exact.log_tail_N[:, None], target.log_probs_NK - target.log_tail_N[:, None]
    )
    without = replace(target, log_tail_N=None).normalised()
    torch.testing.assert_close(without.log_probs_NK.exp().sum(1), torch.ones(len(target)), atol=1e-6, rtol=0)


def test_a_plan_of_many_shards_without_files_is_told_at_once(
    settings: CacheSettings, teacher: FakeTeacher, tmp_path: Path
) -> None:
    """The directory is listed once, no missing file is looked for, and few of them are named."""
    count = 200_000
    plan = read_plan(capture(settings, teacher=teacher, sequences=make_sequences(20)))
    (tmp_path / "wide" / "shards").mkdir(parents=True)
    (tmp_path / "wide" / "plan.json").write_bytes(replace(plan, firsts=tuple(range(count + 1))).to_bytes())
    (tmp_path / "wide" / "shards" / "shard-00007.safetensors").write_bytes(b"torn")
    started = time.process_time()
    found, looked = verify(tmp_path / "wide"), inspect(tmp_path / "wide")
    assert time.process_time() - started < 10
    assert (found.ok, found.missing, len(found.damaged)) == (False, count - 1, MOST_MISSING + 1)
    assert [one.cause for one in found.damaged[6:8]] == ["no such file or directory", "truncated: only 4 bytes long"]
    assert not looked.complete and looked.shards == count
