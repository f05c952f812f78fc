"""Tokenizers for students: what a word names, and what is written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from thack.config import DataSettings
from thack.cross_tokenizer import build_cells, read_bpe
from thack.data.export import PAIRS
from thack.data.rows import RESPONSES
from thack.data.stream import DataStream
from thack.data.tokenizer import Tokenizer
from thack.experiments.tokenizers import TokenizerWord, write_encoded, write_tokenizer
from thack.runtime.progress import SILENT


def test_a_tokenizer_of_the_tasks_text_and_one_of_source_code(tmp_path: Path) -> None:
    rows = [{"prompt": f"{a} plus {a} is", "response": str(2 * a)} for a in range(100)]
    (tmp_path / PAIRS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = {}
    for word in ("270", "code:400"):
        write_tokenizer(TokenizerWord.parse(word), tmp_path, tmp_path / word, SILENT)
        found[word] = Tokenizer.load(tmp_path / word)
    assert found["270"].size == 270 and found["code:400"].size == 400
    assert len(found["270"].encode(" plus")) == 1
    text = "self.x1234 = None\n"
    assert len(found["code:400"].encode(text)) < len(found["270"].encode(text))
    assert all(t.decode(t.encode("naïve 日本")) == "naïve 日本" for t in found.values())
    digits = [found["code:400"].decode(np.array([i])) for i in found["code:400"].encode("x 1000000")]
    assert max(sum(c.isdigit() for c in token) for token in digits) <= 3, "split by three before merging"
    cells = build_cells(read_bpe(found["270"]), read_bpe(found["code:400"]))
    assert cells.num_cells > 256, "the two can be compared"


def test_words() -> None:
    assert TokenizerWord.parse("512") == TokenizerWord(size=512)
    assert TokenizerWord.parse("code:1024") == TokenizerWord(size=1024, of_code=True)


def test_responses_in_other_ids_keep_whether_they_ended(tmp_path: Path) -> None:
    rows = [{"id": "a", "prompt": "p", "response": "é", "finished": True}]
    rows.append({"id": "b", "prompt": "q", "response": "r", "finished": False})
    lines = [json.dumps(row | {"response_ids": [1, 2], "sample": 0}) + "\n" for row in rows]
    (tmp_path / RESPONSES).write_text("".join(lines))
    tokenizer = Tokenizer.train(["a"], 258)
    tokenizer.save(tmp_path / "tokenizer")
    write_encoded(tmp_path, tmp_path / "tokenizer", tmp_path / "encoded", SILENT)
    settings = DataSettings(path=str(tmp_path / "encoded" / PAIRS))
    found = [s for chunk in DataStream(settings, tokenizer, need_response=True) for s in chunk.sequences]
    assert [tokenizer.ends.is_finished(s.response_ids) for s in found] == [True, False]
    assert [tokenizer.decode(s.response_ids) for s in found] == ["é", "r"]
