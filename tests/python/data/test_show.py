"""What `thack data show` says of data: the ids, what is trained, and counts of the rest."""

from __future__ import annotations

from pathlib import Path

from thack.config import DataSettings, ShowSettings
from thack.data.show import show

from .small import ANSWER, CHATML, END, END_ID, EOS, USER, byte_ids, write_rows, write_tokenizer

BAD = {"messages": [ANSWER]}


def test_prompt_and_response_of_a_conversation(tmp_path: Path) -> None:
    directory = write_tokenizer(tmp_path / "t", template=CHATML)
    path = write_rows(tmp_path / "d.jsonl", {"messages": [USER, ANSWER], "id": "a"}, BAD, {"prompt": "x", "id": "b"})
    data = DataSettings(path=str(path), on_bad_line="skip")
    found = show(ShowSettings(data=data, count=1), directory)
    (sequence,) = found.sequences
    assert sequence.prompt_id == "a" and sequence.finished
    assert [i for i, one in zip(sequence.ids, sequence.trained, strict=True) if one] == [*byte_ids("ok"), END_ID]
    assert "".join(piece.text for piece in sequence.pieces) == CHATML_TEXT
    assert [piece.text for piece in sequence.pieces if piece.trained] == ["ok", END]
    assert [piece.control for piece in sequence.pieces if piece.trained] == [False, True]
    assert (found.counts["records"], found.counts["kept"], found.counts["without_response"]) == (2, 1, 1)
    assert found.ends == (EOS, END) and found.turn_end == END
    assert len(found.skipped) == 1 and "d.jsonl:2" in found.skipped[0]
    assert (found.prompt_tokens, found.trained_tokens) == (len(sequence.ids) - 3, 3)


CHATML_TEXT = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nok<|im_end|>"


def test_prompts_alone(tmp_path: Path) -> None:
    directory = write_tokenizer(tmp_path / "t")
    path = write_rows(tmp_path / "d.jsonl", {"prompt": "hé"})
    (sequence,) = show(ShowSettings(data=DataSettings(path=str(path))), directory).sequences
    assert sequence.trained == (0,) * 3 and not sequence.finished
    assert [piece.text for piece in sequence.pieces] == ["hé"], "a character of two ids is one text"
