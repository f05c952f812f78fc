"""Keys and columns of a user's own names, and tables of text."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from thack.config import DataSettings
from thack.data import read_records
from thack.data.columns import Columns
from thack.data.lengths import CHAT_TOKENS, TEXT_TOKENS, response_limit
from thack.data.readers import read_data
from thack.errors import DataError

from .small import ANSWER, USER, write_rows

QA = Columns(prompt="question", response="answer")


def test_named_keys_are_read_as_the_formats_own(tmp_path: Path) -> None:
    named = write_rows(tmp_path / "a.jsonl", {"question": "2 + 2", "answer": "4", "text": "not this", "id": "x"})
    plain = write_rows(tmp_path / "b.jsonl", {"prompt": "2 + 2", "response": "4", "id": "x"})
    assert read_records(named, columns=QA) == read_records(plain)


def test_a_named_conversation_holds_its_response_unless_that_is_named_too(tmp_path: Path) -> None:
    turns = [USER, ANSWER]
    for name, own in (("chat", "messages"), ("turns", "conversations")):
        values = turns if own == "messages" else [{"from": "user", "value": "a"}, {"from": "gpt", "value": "b"}]
        named = write_rows(tmp_path / "a.jsonl", {name: values})
        plain = write_rows(tmp_path / "b.jsonl", {own: values})
        assert read_records(named, columns=Columns(prompt=name)) == read_records(plain)
    apart = write_rows(tmp_path / "c.jsonl", {"question": [USER], "answer": [ANSWER]})
    plain = write_rows(tmp_path / "d.jsonl", {"prompt": [USER], "completion": [ANSWER]})
    assert read_records(apart, columns=QA) == read_records(plain)


def test_a_missing_key_names_the_keys_that_are_there_and_what_to_type(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", {"question": "2 + 2", "answer": "4"})
    with pytest.raises(DataError, match="it has question, answer") as caught:
        read_records(path)
    assert caught.value.hint == "rename the key, or name it: `data.prompt_key = question`, `data.response_key = answer`"
    with pytest.raises(DataError, match=r"no key `asked`, which `data\.prompt_key` names; it has question, answer"):
        read_records(path, columns=Columns(prompt="asked"))
    with pytest.raises(DataError, match="holds no prompts"):
        read_records(path, "skip", Columns(prompt="asked"))


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.tsv", "\t")])
def test_a_table_holds_what_lines_hold(name: str, delimiter: str, tmp_path: Path) -> None:
    rows = [["question", "answer"], ['say "a, b"\nin two\tlines', "ä" * 200_000], ["no answer", ""]]
    with open(tmp_path / name, "w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    found = read_records(tmp_path / name, columns=QA)
    assert [(record.prompt, record.response) for record in found] == [(rows[1][0], rows[1][1]), ("no answer", None)]
    assert found[1].place == f"{tmp_path / name}: row 2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompt,response\na,b,c\n", r"row 1: 3 cells under 2 columns"),
        ("prompt,prompt\na,b\n", "first line must name every column"),
        ('prompt\n"open\n', "cannot be read behind row 0"),
        ("prompt\n\xff\n", "not UTF-8"),
        ("", "holds no prompts"),
        ("prompt,response\n", "holds no prompts"),
    ],
)
def test_a_damaged_table_is_refused_with_its_place(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=message):
        read_data(path)


def test_the_longest_response_follows_the_named_conversation(tmp_path: Path) -> None:
    path = str(write_rows(tmp_path / "a.jsonl", {"chat": [USER, ANSWER], "prompt": "a"}))
    assert response_limit(DataSettings(path=path)) == TEXT_TOKENS
    assert response_limit(DataSettings(path=path, prompt_key="chat")) == CHAT_TOKENS
