"""What servers write where a log-probability should stand, and what an import makes of it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save
from safetensors.torch import save_file

from thack.cache import Cache, import_cache, inspect, verify
from thack.cache.exchange.importing import ImportSettings
from thack.cache.format.layout import RecordLayout
from thack.cache.format.mass import heavy_row
from thack.data.eos import Ends
from thack.errors import DataError, UndefinedLoss
from thack.losses import forward_kl, jsd, reverse_kl
from thack.schema.targets import TargetSpec
from thack.targets.types import TopKTarget

VOCAB, END = 32, 31


class Notes:
    """Progress that keeps what it was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, message: str) -> None:
        self.lines.append(message)

    def task(self, *_: Any) -> Any:
        from thack.runtime.progress import SILENT

        return SILENT.task("", 0, "")


def imported(source: Path, out: Path, notes: Notes | None = None, **changes: Any) -> TopKTarget:
    settings = ImportSettings(source=source, out=out, vocab_size=VOCAB, tokenizer="sha256:t", **changes)
    _, target = Cache.open(import_cache(settings, notes or Notes())).targets([0])
    assert isinstance(target, TopKTarget)
    return target


def prompt_line(rows: Sequence[dict[int, float]], tokens: Sequence[int], prompt: Sequence[int] = (1,)) -> str:
    given = [None] * len(prompt) + [{str(i): v for i, v in row.items()} for row in rows]
    ids = [*prompt, *tokens]
    return json.dumps({"prompt_token_ids": ids, "prompt_length": len(prompt), "prompt_logprobs": given})


@pytest.mark.parametrize("stand_in", [-9999.0, -100.0, -1e4, -65504.0, float(np.finfo(np.float32).min), -1e9])
def test_a_stand_in_for_no_mass_leaves_the_other_numbers_alone(stand_in: float, tmp_path: Path) -> None:
    row = {3: -0.105, 5: -2.5, 6: -4.0, 9: stand_in}
    (tmp_path / "rows.jsonl").write_text(prompt_line([row], [3]) + "\n")
    notes = Notes()
    target = imported(tmp_path / "rows.jsonl", tmp_path / "cache", notes)
    expected = [math.exp(-0.105), math.exp(-2.5), math.exp(-4.0), 0.0]
    np.testing.assert_allclose(target.log_probs_NK.exp()[0], expected, rtol=0.03)
    assert "stand for −inf" in notes.lines[0]
    logits = torch.full((1, VOCAB), -40.0)
    logits[0, list(row)] = torch.tensor([-0.105, -2.5, -4.0, -40.0])
    assert float(forward_kl(logits, target)) < 1e-3
    assert verify(tmp_path / "cache", full=True).ok
    with pytest.raises(UndefinedLoss, match="the student has mass where the teacher has none"):
        reverse_kl(logits, target)


def test_records_of_more_mass_than_one_are_no_distribution(tmp_path: Path) -> None:
    layout = RecordLayout(spec=TargetSpec(kind="top-k", k=3), vocab_size=VOCAB)
    ids = np.array([[3, 5, 6], [3, 5, 6]], np.int32)
    log_probs = np.log(np.array([[0.5, 0.3, 0.1], [0.9, 0.9, 0.9]], np.float32))
    records = layout.native.encode_top_k(ids, log_probs, np.log(np.full(2, 0.1, np.float32)), np.empty(0, np.float32))
    found = heavy_row(records, layout)
    assert found is not None and found.row == 1 and abs(found.mass - 2.7) < 0.02
    assert heavy_row(records[: layout.stride], layout) is None


def test_verify_reads_the_mass_of_every_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.jsonl").write_text(prompt_line([{3: -0.7, 5: -0.7}], [3]) + "\n")
    heavy = np.array([[3, 5]], np.int32), np.full((1, 2), -0.1, np.float32), np.full(1, -9.0, np.float32)
    with monkeypatch.context() as patch:  # a tool that checks nothing
        none = np.empty(0, np.float32)
        patch.setattr(
            "thack.cache.exchange.importing.pack", lambda _, layout, *__: layout.native.encode_top_k(*heavy, none)
        )
        imported(tmp_path / "rows.jsonl", tmp_path / "cache")
    assert verify(tmp_path / "cache").ok
    found = verify(tmp_path / "cache", full=True)
    assert not found.ok and "mass of 1.81" in found.damaged[0].cause


def test_one_short_row_that_narrows_all_others_is_told(tmp_path: Path) -> None:
    whole = {i: -1.0 - i for i in range(1, 9)}
    short, added = {1: -0.1, 2: -3.0}, whole | {20: -12.0}  # the actual token beside the k most likely
    for name, rows, noted in (("short", [whole, whole, short, added], True), ("added", [whole, added, added], False)):
        source, notes = tmp_path / f"{name}.jsonl", Notes()
        source.write_text(prompt_line(rows, [20 if row is added else 1 for row in rows]) + "\n")
        target = imported(source, tmp_path / name, notes)
        assert target.ids_NK.shape[1] == (2 if noted else 8)
        told = (
            "all rows keep 2 ids, as many as the shortest of them has: of 4 rows, 1 are so short, and half have 8 ids"
        )
        assert [told in line for line in notes.lines] == [True] * noted
    notes = Notes()
    imported(tmp_path / "short.jsonl", tmp_path / "given", notes, top_k=2)
    assert not notes.lines


def test_a_label_of_rank_k_is_no_extra_entry(tmp_path: Path) -> None:
    rows: list[Any] = [None]
    labels = [4, 9, 4, 20]
    for label in labels:
        values = {4: -0.5, 5: -1.5, 6: -2.5, 9: -3.5}
        row = {str(i): {"logprob": v, "rank": n + 1} for n, (i, v) in enumerate(values.items())}
        if label == 20:
            row["20"] = {"logprob": -6.0, "rank": 11}
        rows.append(row)
    line = {"prompt_token_ids": [1, *labels], "prompt_length": 1, "prompt_logprobs": rows}
    (tmp_path / "rows.jsonl").write_text(json.dumps(line) + "\n")
    for top_k in (0, 4):
        target = imported(tmp_path / "rows.jsonl", tmp_path / f"cache{top_k}", top_k=top_k)
        assert target.ids_NK.tolist() == [[4, 5, 6, 9]] * 4


def test_ties_of_bfloat16_count_as_the_width_says(tmp_path: Path) -> None:
    """Of three equal values a server's rank of each is 4, though only three entries are there."""
    row = {str(i): {"logprob": -1.2, "rank": 4} for i in (4, 5, 6)}
    line = {"prompt_token_ids": [1, 6], "prompt_length": 1, "prompt_logprobs": [None, row]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(line) + "\n")
    assert imported(tmp_path / "rows.jsonl", tmp_path / "cache").ids_NK.tolist() == [[4, 5, 6]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_log_probs_of_sixteen_bits_are_scaled_to_one(dtype: torch.dtype, tmp_path: Path) -> None:
    equal = 23 if dtype == torch.bfloat16 else 110
    exact = -math.log(equal)
    stored = torch.full((2, equal), exact).to(dtype)
    assert abs(float(stored.double().exp().sum(1)[0]) - 1) > 1e-3  # the trial: rounding alone
    tensors = {
        "ids": torch.arange(equal).repeat(2, 1),
        "logprobs": stored,
        "response_tokens": torch.tensor([3, 4]),
        "response_starts": torch.tensor([0, 2]),
        "prompt_tokens": torch.tensor([1]),
        "prompt_starts": torch.tensor([0, 1]),
    }
    save_file(tensors, tmp_path / "rows.safetensors")
    notes = Notes()
    settings = ImportSettings(
        source=tmp_path / "rows.safetensors", out=tmp_path / "cache", vocab_size=equal + 200, tokenizer="t"
    )
    _, target = Cache.open(import_cache(settings, notes)).targets([0])
    assert isinstance(target, TopKTarget)
    np.testing.assert_allclose(target.log_probs_NK, exact, atol=0.01)
    assert float(target.log_probs_NK.double().exp().sum(1).max()) < 1.005
    if float(stored.double().exp().sum(1)[0]) > 1:
        assert any("their rounding" in line for line in notes.lines)


def test_float32_rows_above_one_are_still_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(prompt_line([{3: -0.6911, 5: -0.6907}], [3]) + "\n")
    with pytest.raises(DataError, match=r"sum to 1\.00"):
        imported(tmp_path / "rows.jsonl", tmp_path / "cache")


def softmax_rows(count: int, temperature: float = 1.0, top_p: float = 1.0, k: int = 4) -> list[dict[int, float]]:
    """As a server writes them: top k of the log-softmax, after a temperature and top-p."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(count):
        z = rng.normal(size=VOCAB) * 2 / temperature
        p = np.exp(z) / np.exp(z).sum()
        order = np.argsort(-p)
        if top_p < 1:
            kept = order[: int(np.searchsorted(np.cumsum(p[order]), top_p)) + 1]
            p = np.where(np.isin(np.arange(VOCAB), kept), p, 0)
            p /= p.sum()
        rows.append({int(i): float(np.log(p[i])) if p[i] > 0 else -9999.0 for i in order[:k]})
    return rows


def test_processed_rows_are_refused_unless_it_is_stated(tmp_path: Path) -> None:
    rows = softmax_rows(40, top_p=0.5)
    labels = [next(iter(row)) for row in rows]
    (tmp_path / "rows.jsonl").write_text(prompt_line(rows, labels) + "\n")
    with pytest.raises(DataError, match="the log-probabilities were processed"):
        imported(tmp_path / "rows.jsonl", tmp_path / "no")
    target = imported(tmp_path / "rows.jsonl", tmp_path / "cache", logprobs="processed")
    assert inspect(tmp_path / "cache").losses["jsd"].startswith("refused: jsd is not defined on processed")
    assert torch.isfinite(forward_kl(torch.zeros(len(target), VOCAB), target)).all()
    with pytest.raises(UndefinedLoss, match="processed log-probabilities"):
        jsd(torch.zeros(len(target), VOCAB), target)


def test_raw_rows_are_accepted_and_stated_processing_is_recorded(tmp_path: Path) -> None:
    rows = softmax_rows(40)
    (tmp_path / "rows.jsonl").write_text(prompt_line(rows, [next(iter(row)) for row in rows]) + "\n")
    imported(tmp_path / "rows.jsonl", tmp_path / "raw")
    assert "approximate" in inspect(tmp_path / "raw").losses["jsd"]
    imported(tmp_path / "rows.jsonl", tmp_path / "warm", logprobs="processed")
    assert inspect(tmp_path / "warm").losses["jsd"].startswith("refused")


def test_a_row_of_another_prompt_is_stale(tmp_path: Path) -> None:
    rows = softmax_rows(6)
    label = [next(iter(row)) for row in rows]
    first = prompt_line(rows[:3], label[:3], prompt=(1, 2))
    stale = prompt_line([rows[0], *rows[3:]], [label[0], *label[3:]], prompt=(1, 7))
    again = prompt_line(rows[:3], label[:3], prompt=(1, 2))  # a second response to the same prompt
    (tmp_path / "rows.jsonl").write_text(f"{first}\n{again}\n")
    imported(tmp_path / "rows.jsonl", tmp_path / "fine")
    (tmp_path / "rows.jsonl").write_text(f"{first}\n{stale}\n")
    with pytest.raises(DataError, match="line 2 has the first row of line 1, whose prompt is another"):
        imported(tmp_path / "rows.jsonl", tmp_path / "cache")


def test_rows_that_are_off_by_one_are_found_over_the_whole_file(tmp_path: Path) -> None:
    rows = softmax_rows(400)
    label = [next(iter(row)) for row in rows]
    tensors = {
        "ids": np.array([list(row) for row in rows[:-1]]),
        "logprobs": np.array([list(row.values()) for row in rows[:-1]]),
        "response_tokens": np.array(label[1:]),
        "response_starts": np.array([0, len(rows) - 1]),
        "prompt_tokens": np.array([1]),
        "prompt_starts": np.array([0, 1]),
    }
    (tmp_path / "rows.safetensors").write_bytes(save(tensors))
    with pytest.raises(DataError, match="the rows are off by -1 token"):
        imported(tmp_path / "rows.safetensors", tmp_path / "cache")


def chat(tokens: Sequence[int], reason: str) -> str:
    content = [
        {
            "token": f"token_id:{t}",
            "logprob": -0.1,
            "top_logprobs": [{"token": f"token_id:{t}", "logprob": -0.1}, {"token": "token_id:2", "logprob": -3.0}],
        }
        for t in tokens
    ]
    choice = {"finish_reason": reason, "logprobs": {"content": content}}
    return json.dumps({"prompt_token_ids": [1], "choices": [choice]})


def test_responses_that_stopped_without_an_end_are_counted_and_completed(tmp_path: Path) -> None:
    lines = [chat([5], "stop"), chat([6, END], "stop"), chat([7, 8], "length")]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    notes = Notes()
    imported(tmp_path / "rows.jsonl", tmp_path / "as-is", notes, ends=Ends(eos=END))
    assert any("1 of 2 responses that stopped hold no end" in line for line in notes.lines)
    assert any("1 of 3 responses" in line and "were cut" in line for line in notes.lines)
    imported(tmp_path / "rows.jsonl", tmp_path / "completed", notes, ends=Ends(eos=END), complete_ends=True)
    sequences, target = Cache.open(tmp_path / "completed").targets([0, 1, 2])
    assert [s.response_ids.tolist() for s in sequences] == [[5, END], [6, END], [7, 8]]
    assert isinstance(target, TopKTarget)
    assert target.log_probs_NK.exp()[1].tolist() == [0.0, 1.0] and target.ids_NK[1].tolist() == [5, END]


def tensors() -> dict[str, np.ndarray]:
    return {
        "ids": np.array([[5, 7], [0, 5]], np.float64),
        "logprobs": np.log([[0.7, 0.2], [0.6, 0.3]]),
        "response_tokens": np.array([5, 0], np.float64),
        "response_starts": np.array([0, 2], np.float64),
        "prompt_tokens": np.array([3], np.float64),
        "prompt_starts": np.array([0, 1], np.float64),
    }


@pytest.mark.parametrize("value", [0.5, math.nan, math.inf, 2.0**63])
@pytest.mark.parametrize("name", [name for name in tensors() if name != "logprobs"])
def test_an_id_or_a_place_that_is_no_whole_number_is_refused(name: str, value: float, tmp_path: Path) -> None:
    """It was cut to the id below it, which is another token."""
    given = tensors()
    (tmp_path / "whole.safetensors").write_bytes(save(given))
    assert imported(tmp_path / "whole.safetensors", tmp_path / "whole").ids_NK.tolist() == [[5, 7], [0, 5]]
    given[name].reshape(-1)[-1] = value
    (tmp_path / "rows.safetensors").write_bytes(save(given))
    with pytest.raises(DataError, match=re.escape(f"{value} is not a")):
        imported(tmp_path / "rows.safetensors", tmp_path / "cache")


@pytest.mark.parametrize("column", ["ids", "prompt_ids", "response_ids"])
def test_a_fraction_in_parquet_is_refused(column: str, tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    row: dict[str, Any] = {"prompt_ids": [3.0], "response_ids": [5.0], "ids": [[5.0, 7.0]], "logprobs": [[-0.3, -2.0]]}
    row[column] = [[5.5, 7.0]] if column == "ids" else [5.5]
    parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"row 0: 5\.5 is not a token id"):
        imported(tmp_path / "rows.parquet", tmp_path / "cache")
