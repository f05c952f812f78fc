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
from thack.errors import DataError, UsageError
from thack.targets.types import DenseTarget, SampledTarget, TopKTarget

parquet = pytest.importorskip("pyarrow.parquet")


LAST = {int(s.prompt_ids[-1]): s for s in make_sequences(30)}


def captured(kind: str, out: Path) -> Cache:
    """Of prompts that end in different tokens: the fake teacher reads the last one alone."""
    settings = CacheSettings(
        out=out,
        kind=kind,  # type: ignore[arg-type]  # one of the kinds
        top_k=6,
        sampled=5,
        temperatures=(2.0,) if kind == "top-k" else (),
        shard_tokens=60,
        device="cpu",
    )
    return Cache.open(capture(settings, teacher=FakeTeacher(), sequences=list(LAST.values())))


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


def test_axolotls_columns_say_what_predicts_each_token(tmp_path: Path) -> None:
    """Its loss on them, as its loss is defined: Σ p·(log p − log q) over top-k scaled to 1, logits shifted by one."""
    cache = captured("top-k", tmp_path / "cache")
    rows = rows_of(export_cache(cache.directory, tmp_path / "plain", to="axolotl"))
    torch.manual_seed(0)
    for position in (0, 7, len(rows) - 1):
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


def again(source: Path, out: Path, **changes: Any) -> Cache:
    given = {"vocab_size": VOCAB, "tokenizer": "sha256:t", "logprobs": "raw", **changes}
    return Cache.open(import_cache(ImportSettings(source=source, out=out, **given)))


@pytest.mark.parametrize("to", ["parquet", "safetensors"])
def test_what_is_not_kept_of_an_export_joins_its_tails(to: Any, tmp_path: Path) -> None:
    cache = captured("top-k", tmp_path / "cache")
    source = export_cache(cache.directory, tmp_path / "plain", to=to)[0]
    few = again(source, tmp_path / "few", top_k=2)
    assert few.plan.layout.spec.tail == "exact" and few.plan.layout.spec.temperatures == (2.0,)
    _, whole = cache.targets(range(len(few)))
    _, found = few.targets(range(len(few)))
    assert isinstance(found, TopKTarget) and isinstance(whole, TopKTarget)
    assert whole.log_tail_N is not None and found.log_tail_N is not None
    for temperature, tail, joined in (
        (1.0, whole.log_tail_N, found.log_tail_N),
        (2.0, whole.log_tail_at[2.0], found.log_tail_at[2.0]),
    ):
        dropped = whole.log_probs_NK.sort(dim=1).values[:, :-2].double() / temperature
        wanted = torch.cat([dropped, tail[:, None].double()], dim=1).logsumexp(1)
        torch.testing.assert_close(joined.double(), wanted, rtol=1e-3, atol=1e-3)
    assert again(source, tmp_path / "none", estimate_tail=False).plan.layout.spec.tail == "none"
    assert again(source, tmp_path / "forward", logprobs="processed").plan.layout.spec.tail == "processed"


def test_an_estimated_tail_stays_one(tmp_path: Path) -> None:
    cache = captured("top-k", tmp_path / "cache")
    table = parquet.read_table(export_cache(cache.directory, tmp_path / "plain", to="parquet")[0])
    names = [name for name in table.column_names if not name.startswith("log_tail")]
    parquet.write_table(table.select(names), tmp_path / "rows.parquet")
    estimated = again(tmp_path / "rows.parquet", tmp_path / "estimated")
    assert estimated.plan.layout.spec.tail == "estimated"
    back = again(export_cache(estimated.directory, tmp_path / "rows", to="parquet")[0], tmp_path / "back")
    assert back.plan.layout.spec == estimated.plan.layout.spec


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("log_tail", lambda tail: tail[1:], "row 0: log_tail and response_ids do not match"),
        ("log_tail", lambda tail: [0.0] * len(tail), "response token 0: the probabilities and the tail 0 sum to"),
        ("log_tail", lambda tail: [float("nan")] * len(tail), "the tail nan sum to nan"),
        ("log_tail_at_2", lambda tail: [*tail, 0.0], "row 0: log_tail_at_2 and response_ids do not match"),
        ("realised_logprob", lambda given: given[1:], "row 0: realised_logprob and response_ids do not match"),
        ("log_tail_at_x", None, "log_tail_at_x is of no temperature"),
        ("log_tail", None, "no log_tail beside log_tail_at_2"),
    ],
)
def test_tails_that_do_not_fit_are_refused(name: str, values: Any, words: str, tmp_path: Path) -> None:
    cache = captured("top-k", tmp_path / "cache")
    table = parquet.read_table(export_cache(cache.directory, tmp_path / "plain", to="parquet")[0])
    rows = table.to_pydict()
    if values is None and name in rows:
        del rows[name]
    else:
        rows[name] = [values(row) for row in rows[name]] if values else rows["log_tail"]
    import pyarrow as pa

    parquet.write_table(pa.table(rows).replace_schema_metadata(table.schema.metadata), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=words):
        again(tmp_path / "rows.parquet", tmp_path / "again")
