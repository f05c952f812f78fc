"""Caches as Parquet: read back equal, by pyarrow and by the import; axolotl's columns give its loss the top-k."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cache.conftest import VOCAB, FakeTeacher, make_sequences
from thack.cache import Cache, ImportSettings, export_cache, import_cache
from thack.cache.capture.job import capture
from thack.config import CacheSettings
from thack.errors import UsageError
from thack.targets.types import DenseTarget, SampledTarget, TopKTarget

parquet = pytest.importorskip("pyarrow.parquet")


def captured(kind: str, out: Path) -> Cache:
    settings = CacheSettings(
        out=out,
        kind=kind,  # type: ignore[arg-type]  # one of the kinds
        top_k=6,
        sampled=5,
        temperatures=(2.0,) if kind == "top-k" else (),
        shard_tokens=60,
        device="cpu",
    )
    return Cache.open(capture(settings, teacher=FakeTeacher(), sequences=make_sequences(30)))


def rows_of(files: list[Path]) -> list[dict[str, Any]]:
    return [row for path in files for row in parquet.read_table(path).to_pylist()]


@pytest.mark.parametrize("kind", ["dense", "top-k", "sampled"])
def test_every_number_is_read_back(kind: str, tmp_path: Path) -> None:
    cache = captured(kind, tmp_path / "cache")
    files = export_cache(cache.directory, tmp_path / "plain", to="parquet")
    assert len(files) == cache.plan.num_shards > 1
    facts = parquet.read_schema(files[0]).metadata
    assert facts[b"kind"] == kind.encode() and facts[b"vocab_size"] == str(VOCAB).encode()
    for position, row in enumerate(rows_of(files)):
        (s,), target = cache.targets([position])
        assert (row["prompt_id"], row["sample"]) == (s.prompt_id, s.sample)
        assert row["prompt_ids"] == s.prompt_ids.tolist() and row["response_ids"] == s.response_ids.tolist()
        if isinstance(target, DenseTarget):
            wanted = {"logprobs": target.log_probs_NV}
        elif isinstance(target, TopKTarget):
            assert target.log_tail_N is not None
            wanted = {"ids": target.ids_NK, "logprobs": target.log_probs_NK, "log_tail": target.log_tail_N}
            wanted["log_tail_at_2"] = target.log_tail_at[2.0]
        else:
            assert isinstance(target, SampledTarget)
            wanted = {"ids": target.ids_NK, "weights": target.weights_NK, "counts": target.counts_N}
            wanted |= {"tau": target.tau_N, "entropy": target.entropy_N}
        assert target.realised_logprob_N is not None
        wanted["realised_logprob"] = target.realised_logprob_N
        assert set(row) == {"prompt_id", "sample", "prompt_ids", "response_ids", *wanted}
        for name, values in wanted.items():
            np.testing.assert_array_equal(np.asarray(row[name]), values.numpy(), err_msg=name)


def test_a_top_k_export_is_imported_again(tmp_path: Path) -> None:
    last = {int(s.prompt_ids[-1]): s for s in make_sequences(30)}  # the fake teacher reads the last token alone
    settings = CacheSettings(out=tmp_path / "cache", top_k=6, device="cpu")
    cache = Cache.open(capture(settings, teacher=FakeTeacher(), sequences=list(last.values())))
    first = export_cache(cache.directory, tmp_path / "plain", to="parquet")[0]
    given = ImportSettings(source=first, out=tmp_path / "again", vocab_size=VOCAB, tokenizer="sha256:t")
    again = Cache.open(import_cache(given))
    sequences, found = again.targets(range(len(again)))
    labels = np.concatenate([s.response_ids for s in sequences])
    _, wanted = cache.targets(range(len(again)))
    assert isinstance(found, TopKTarget) and isinstance(wanted, TopKTarget)
    torch.testing.assert_close(found.ids_NK, wanted.ids_NK)
    torch.testing.assert_close(found.log_probs_NK, wanted.log_probs_NK, rtol=0, atol=0.05)
    assert found.realised_logprob_N is not None and wanted.realised_logprob_N is not None
    kept = (wanted.ids_NK == torch.from_numpy(labels)[:, None]).any(1)
    torch.testing.assert_close(found.realised_logprob_N[~kept], wanted.realised_logprob_N[~kept], rtol=0, atol=5e-4)


def test_axolotls_columns_say_what_predicts_each_token(tmp_path: Path) -> None:
    """Its loss on them, as its loss is defined: Σ p·(log p − log q) over top-k scaled to 1, logits shifted by one."""
    cache = captured("top-k", tmp_path / "cache")
    rows = rows_of(export_cache(cache.directory, tmp_path / "plain", to="axolotl"))
    torch.manual_seed(0)
    for position in (0, 7, 29):
        (s,), target = cache.targets([position])
        assert isinstance(target, TopKTarget)
        row, p = rows[position], len(s.prompt_ids)
        whole = np.concatenate([s.prompt_ids, s.response_ids])
        assert row["input_ids"] == whole.tolist() and row["attention_mask"] == [1] * len(whole)
        assert row["labels"] == [-100] * p + s.response_ids.tolist()
        logits = torch.randn(len(whole), VOCAB)
        mask = torch.tensor(row["target_mask"])[1:].bool()
        ids, log_p = torch.tensor(row["target_token_ids"])[1:], torch.tensor(row["target_logprobs"])[1:]
        log_q = logits.log_softmax(1)[:-1].gather(1, ids)
        theirs = (log_p[mask].exp() * (log_p[mask] - log_q[mask])).sum()
        own_q = logits[p - 1 : -1].log_softmax(1).gather(1, target.ids_NK.long())
        own_p = target.log_probs_NK.log_softmax(1)
        torch.testing.assert_close(theirs, (own_p.exp() * (own_p - own_q)).sum())


def test_what_the_columns_cannot_hold_is_refused(tmp_path: Path) -> None:
    cache = captured("dense", tmp_path / "cache")
    with pytest.raises(UsageError, match="this cache is dense"):
        export_cache(cache.directory, tmp_path / "plain", to="axolotl")
    assert not (tmp_path / "plain").exists()
