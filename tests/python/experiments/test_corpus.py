"""The text of an experiment, as people write it."""

from __future__ import annotations

import json
from pathlib import Path

from thack.evaluation import EvalSet
from thack.experiments.corpus import CorpusSettings, write_corpus, write_splits
from thack.runtime import runlog
from thack.runtime.progress import SILENT


def test_a_separator_within_a_prompt_ends_no_line(tmp_path: Path) -> None:
    """U+2028 and U+0085 stand in web text, and `str.splitlines` cuts at them."""
    task = tmp_path / "task.jsonl"
    rows = [{"prompt": f"say\u2028{i}\u0085now", "response": f"{i}"} for i in range(9)]
    task.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    own = CorpusSettings(task="task", path=str(task), tokenizer_size=270)
    write_corpus(own, tmp_path / "corpus", SILENT)
    write_splits(tmp_path / "corpus", {"stage1": 3, "stage2": 3, "held_out": 3}, 0, tmp_path / "splits", SILENT)
    held_out = tmp_path / "splits" / "held_out.jsonl"
    assert {row["prompt"] for row in runlog.read(held_out)} < {row["prompt"] for row in rows}
    eval_set = EvalSet.from_jsonl(held_out)
    eval_set.save(tmp_path / "eval_set")
    assert EvalSet.load(tmp_path / "eval_set").fingerprint() == eval_set.fingerprint()
