"""The text of an experiment, as people write it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from thack.data import read_records
from thack.errors import DataError, UsageError
from thack.evaluation import EvalSet
from thack.experiments.corpus import SPLITS, CorpusSettings, write_corpus, write_splits
from thack.runtime import runlog
from thack.runtime.progress import SILENT
from training.preflight.chats import save_tokenizer


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


def test_conversations_stay_conversations(tmp_path: Path) -> None:
    """In every split, with tools and variables of the template, under the same id."""
    rows = [
        {
            "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": f"say {i}"}],
            "chat_template_kwargs": {"brief": True},
            "response": f"{i}",
        }
        for i in range(9)
    ]
    task = tmp_path / "task.jsonl"
    task.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    save_tokenizer(tmp_path / "model")
    own = CorpusSettings(task="task", path=str(task), tokenizer=str(tmp_path / "model"), max_prompt_tokens=200)
    write_corpus(own, tmp_path / "corpus", SILENT)
    write_splits(tmp_path / "corpus", {"stage1": 3, "stage2": 3, "held_out": 3}, 0, tmp_path / "splits", SILENT)
    given = {record.prompt_id: record for record in read_records(task)}
    for record in read_records(tmp_path / "corpus" / "pairs.jsonl"):
        assert record == given.pop(record.prompt_id)
    assert not given
    for record in (r for name in SPLITS for r in read_records(tmp_path / "splits" / f"{name}.jsonl")):
        assert record.conversation is not None and dict(record.conversation.template_variables) == {"brief": True}


def test_prompts_that_are_all_too_long_are_refused(tmp_path: Path) -> None:
    task = tmp_path / "task.jsonl"
    task.write_text('{"prompt": "12345", "response": "6"}\n')
    own = CorpusSettings(task="task", path=str(task), tokenizer_size=258, max_prompt_tokens=2)
    with pytest.raises(UsageError, match=r"none of the 1 prompts has at most 2 tokens\n  the shortest has \d"):
        write_corpus(own, tmp_path / "corpus", SILENT)


def test_a_prompt_of_the_teachers_own_is_refused(tmp_path: Path) -> None:
    task = tmp_path / "task.jsonl"
    task.write_text('{"prompt": "1", "response": "2"}\n{"prompt": "3", "response": "4", "teacher_prompt": "5"}\n')
    own = CorpusSettings(task="task", path=str(task), tokenizer_size=258)
    with pytest.raises(DataError, match=r"task.jsonl:2: `teacher_prompt` has no place"):
        write_corpus(own, tmp_path / "corpus", SILENT)
