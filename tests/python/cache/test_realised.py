"""The log-probability of the realised token: what a capture writes is what the teacher gave, and older caches read."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as settings_
from hypothesis import strategies as st
from safetensors.numpy import load_file

from cache.conftest import FakeTeacher, make_sequences
from thack import _native, api, kernels
from thack.cache.capture.job import capture
from thack.cache.exchange.importing import ImportSettings, import_cache
from thack.cache.format.inspection import inspect
from thack.cache.format.plan import read_plan
from thack.cache.format.reader import Cache
from thack.cache.format.verification import verify
from thack.cli.cache import inspect as print_inspection
from thack.config import CacheSettings
from thack.data.sequence import TokenSequence
from thack.data.tokenizer import Tokenizer
from thack.errors import CacheError, ModelError
from thack.kernels import torch_reference
from thack.models.batch import Batch
from thack.schema.targets import CachedKind, TargetSpec
from thack.targets.crop import crop
from thack.targets.select import select
from thack.targets.types import DenseTarget

GOLDEN = Path(__file__).parents[2] / "vectors" / "caches"
KINDS: tuple[CachedKind, ...] = ("dense", "top-k", "sampled")
MOST_ERROR = 2.5e-4


def expected(teacher: FakeTeacher, sequences: list[TokenSequence]) -> np.ndarray:
    """By the definition, in float64."""
    batch = Batch.of(sequences)
    log_p_NV = torch.log_softmax(teacher(batch).double(), dim=1)
    return log_p_NV[torch.arange(len(log_p_NV)), batch.labels_N].numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_a_capture_keeps_what_the_teacher_gave_the_token(
    kind: CachedKind, settings: CacheSettings, teacher: FakeTeacher
) -> None:
    sequences = make_sequences(20)
    teacher.table[:, 7] = float("-inf")  # a token that cannot be
    teacher.table[:, 9] = -60.0  # and one that nearly cannot
    settings = replace(settings, kind=kind, top_k=8, sampled=4)
    cache = Cache.open(capture(settings, teacher=teacher, sequences=sequences))
    found, realised_N = cache.realised(range(len(cache)))
    wanted_N = expected(teacher, found)
    labels_N = np.concatenate([s.response_ids for s in found])
    assert (labels_N == 7).any() and (labels_N == 9).any()
    assert (realised_N[labels_N == 7] == -np.inf).all()
    cut_N = (wanted_N < -32) & (labels_N != 7)
    assert cut_N.any() and ((realised_N < -32) & np.isfinite(realised_N) == cut_N).all()
    ordinary_N = wanted_N >= -32
    assert np.abs(realised_N[ordinary_N] - wanted_N[ordinary_N]).max() <= MOST_ERROR
    _, target = cache.targets(range(len(cache)))
    assert target.realised_logprob_N is not None
    np.testing.assert_array_equal(target.realised_logprob_N.numpy(), realised_N)
    assert cache.meta.bytes_per_token == cache.meta.stride + 2 and verify(cache.directory, full=True).ok
    nll = inspect(cache.directory).teacher_nll
    assert nll is not None and nll.tokens == sum(nll.counts) == cache.num_tokens - nll.impossible and nll.absent == 0
    assert nll.impossible == (labels_N == 7).sum()
    assert nll.nats_per_token == pytest.approx(np.minimum(-wanted_N, 32)[labels_N != 7].mean(), abs=MOST_ERROR)
    assert nll.counts[-1] == cut_N.sum() and nll.counts[0] == (realised_N > -0.1).sum()


@pytest.mark.parametrize("word", ["dense", "top-k:4", "sampled:4", "live/renormalised:4", "live/multinomial:4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_selection_gives_the_label_its_log_prob(word: str, dtype: torch.dtype) -> None:
    """Also far from 0, where a logsumexp in float32 has few digits left."""
    logits_NV = (5 * torch.randn(40, 24, generator=torch.Generator().manual_seed(0)) + 3000).to(dtype)
    labels_N = torch.arange(40) % 20
    keys_N4 = torch.zeros(40, 4, dtype=torch.int64)
    found = select(logits_NV, TargetSpec.parse(word), width=20, keys_N4=keys_N4, labels_N=labels_N)
    wanted_NV = torch.log_softmax(logits_NV[:, :20].double(), dim=1)
    assert found.realised_logprob_N is not None and found.realised_logprob_N.dtype == torch.float32
    wanted_N = wanted_NV[torch.arange(40), labels_N]
    torch.testing.assert_close(found.realised_logprob_N.double(), wanted_N, rtol=1e-5, atol=5e-5)
    without = select(logits_NV, TargetSpec.parse(word), width=20, keys_N4=keys_N4)
    assert without.realised_logprob_N is None
    with pytest.raises(ModelError, match="label 20 is outside the vocabulary of 20"):
        select(logits_NV, TargetSpec.parse(word), width=20, keys_N4=keys_N4, labels_N=labels_N + 1)


def test_other_devices_give_labels_the_same() -> None:
    """Torch's own operations, which run there, against Rust's."""
    logits_NV = 5 * torch.randn(40, 24, generator=torch.Generator().manual_seed(0)) - 2000
    labels_N, keys_N4 = torch.arange(40) % 24, torch.zeros(40, 4, dtype=torch.int64)
    wanted_N = torch.log_softmax(logits_NV.double(), dim=1)[torch.arange(40), labels_N].float()
    for module in (kernels, torch_reference):
        top = module.topk_logsumexp(logits_NV, 4, labels_N=labels_N)
        drawn = module.threshold_sample(logits_NV, 4, seed=0, keys_N4=keys_N4, labels_N=labels_N)
        for found in (top, drawn):
            torch.testing.assert_close(found.realised_logprob_N, wanted_N, rtol=1e-5, atol=5e-5)


def test_a_cropped_distribution_gives_the_token_more() -> None:
    logits_NV, labels_N = torch.randn(6, 12), torch.arange(6)
    whole = select(logits_NV, TargetSpec(), width=12, labels_N=labels_N)
    cut = crop(whole, 8)
    assert isinstance(cut, DenseTarget) and cut.realised_logprob_N is not None
    torch.testing.assert_close(cut.realised_logprob_N, cut.log_probs_NV[torch.arange(6), labels_N])


@settings_(max_examples=25, deadline=None)
@given(
    st.lists(st.one_of(st.floats(-40, 0, width=32), st.sampled_from([0.0, -32.0, -1e30, -np.inf, np.nan])), min_size=1)
)
def test_a_shard_gives_back_what_was_written(tmp_path_factory: pytest.TempPathFactory, values: list[float]) -> None:
    given_N = np.array(values, np.float32)
    back_N = through_a_shard(tmp_path_factory.mktemp("shard"), given_N)
    ordinary_N = given_N >= -32
    assert (np.abs(back_N[ordinary_N].astype(np.float64) - given_N[ordinary_N]) <= MOST_ERROR).all()
    assert (np.isnan(back_N) == np.isnan(given_N)).all() and (np.isneginf(back_N) == np.isneginf(given_N)).all()
    cut_N = (given_N < -32) & np.isfinite(given_N)
    assert (back_N[cut_N] == np.nextafter(np.float32(-32), np.float32(-np.inf))).all()
    order = np.argsort(given_N[~np.isnan(given_N)], kind="stable")
    assert (np.diff(np.nan_to_num(back_N[~np.isnan(given_N)][order], neginf=-99)) >= 0).all()


def through_a_shard(directory: Path, realised_N: np.ndarray) -> np.ndarray:
    """What a reader gives for a response with these log-probabilities."""
    (directory / "shards").mkdir()
    metadata = {"format": "thack-shard 1.1", "kind": "dense", "vocab_size": "1", "shard": "0"}
    writer = _native.ShardWriter(directory / "shards" / _native.shard_name(0), metadata)
    writer.records(bytes(4 * len(realised_N)))
    one = np.zeros(1, np.int32)
    writer.sequence((0, 0, 0), "p", one, np.zeros(len(realised_N), np.int32), realised_N)
    writer.finish()
    found = _native.CacheReader(directory / "shards", [0, 1], metadata).read([0], False, True)[5]
    return np.frombuffer(found, np.float32)


def test_nll_per_byte_is_of_the_text_of_responses_that_are_wholly_known(tmp_path: Path) -> None:
    """Control tokens cost nats and have no bytes; a response with an impossible token is left out."""
    tokenizer = Tokenizer.train(["naïve café, naïve thé"] * 3, 270)
    tokenizer.save(tmp_path / "teacher")
    texts, rows = ["naïve", "café, thé"], []
    for number, text in enumerate([*texts, "thé"]):
        ids = [*tokenizer.encode(text).tolist(), tokenizer.eos_id]
        scores: list[dict[str, float] | None] = [{str(i): -0.25 * (n + 1), "5": -9.0} for n, i in enumerate(ids)]
        if number == len(texts):
            scores[0] = {str(ids[0]): float("-inf"), "5": -0.1}
        rows.append({"prompt_token_ids": [7, *ids], "prompt_length": 1, "prompt_logprobs": [None, *scores]})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = api.import_cache(
        tmp_path / "rows.jsonl", tmp_path / "cache", tokenizer=tmp_path / "teacher", vocab_size=tokenizer.size, top_k=1
    )
    nll = inspect(out).teacher_nll
    counts = [len(tokenizer.encode(text)) + 1 for text in texts]
    nats = sum(0.25 * n * (n + 1) / 2 for n in counts)
    assert nll is not None and nll.impossible == 1
    assert nll.nats_per_byte == pytest.approx(nats / sum(len(text.encode()) for text in texts), abs=MOST_ERROR)
    shutil.rmtree(out / "tokenizer")
    assert (without := inspect(out).teacher_nll) is not None and without.nats_per_byte is None


def test_a_positive_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"token 0 cannot be written: realised log-probability is 0\.5"):
        through_a_shard(tmp_path, np.array([0.5], np.float32))


def test_an_import_without_them_says_so(tmp_path: Path) -> None:
    rows = [None, {"5": -0.1, "7": -3.0}, {"0": -0.2, "5": -2.0}]
    row = {"prompt_token_ids": [3, 5, 0], "prompt_length": 1, "prompt_logprobs": rows}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    settings = ImportSettings(
        source=tmp_path / "rows.jsonl", out=tmp_path / "cache", vocab_size=10, tokenizer="sha256:…"
    )
    cache = Cache.open(import_cache(settings))
    assert len(cache.realised([0])[1]) == 2 and cache.plan.minor == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_caches_of_every_version_are_read(version: str, kind: str) -> None:
    """Written by the thack of their time, with what it read from them."""
    directory = GOLDEN / version / kind
    wanted = load_file(directory / "expected.safetensors")
    cache = Cache.open(directory)
    assert cache.plan.minor == int(version[-1]) and verify(directory, full=True).ok
    sequences, target = cache.targets(range(len(cache)))
    found = {name: value.numpy() for name, value in target_arrays(target).items()}
    found |= {"prompt_ids": np.concatenate([s.prompt_ids for s in sequences])}
    found |= {"response_ids": np.concatenate([s.response_ids for s in sequences])}
    assert found.keys() == wanted.keys() and ("realised_logprob_N" in found) == (version == "1.1")
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value)
    realised_N = cache.realised([0, 1])[1]
    assert (inspect(directory).teacher_nll is None) == (version == "1.0")
    assert np.isnan(realised_N).all() == (version == "1.0") and len(realised_N) > 2


def target_arrays(target: object) -> dict[str, torch.Tensor]:
    """The tensors of a target, by name."""
    found: dict[str, torch.Tensor] = {}
    for name in target.__dataclass_fields__:  # type: ignore[attr-defined]
        value = getattr(target, name)
        if isinstance(value, torch.Tensor):
            found[name] = value
        elif hasattr(value, "items"):
            found |= {f"{name}.{key}": tensor for key, tensor in value.items()}
    return found


def test_a_later_version_is_refused_by_name(tmp_path: Path) -> None:
    directory = tmp_path / "cache"
    shutil.copytree(GOLDEN / "1.1" / "dense", directory)
    plan = directory / "plan.json"
    plan.write_bytes(plan.read_bytes().replace(b'"minor":1', b'"minor":2'))
    with pytest.raises(CacheError, match=r"format 1\.2, this thack reads 1\.0 to 1\.1"):
        read_plan(directory)
    shard = directory / "shards" / _native.shard_name(0)
    shard.write_bytes(shard.read_bytes().replace(b"thack-shard 1.1", b"thack-shard 1.2"))
    with pytest.raises(CacheError, match=r'of format "thack-shard 1\.2"; this thack reads thack-shard 1 and 1\.1'):
        _native.verify_shard(shard, False)


def test_people_see_a_histogram_in_eighty_columns(capsys: pytest.CaptureFixture[str]) -> None:
    print_inspection(GOLDEN / "1.1" / "dense")
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines() if line.startswith("teacher_nll")]
    assert len(lines) == 5 + 9 and max(map(len, lines)) <= 80
    assert max(line.count("█") for line in lines) == 30 and "impossible" in lines[1]
