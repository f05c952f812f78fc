"""Rows as people have them: read, or refused with what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from thack.data import read_records
from thack.data.formats import to_record
from thack.data.readers import read_data
from thack.data.rows import BadLine
from thack.errors import DataError

from .small import ANSWER, USER, write_rows


def messages_of(**row: Any) -> list[dict[str, object]]:
    conversation = to_record(row).conversation
    assert conversation is not None
    return [dict(message) for message in conversation.messages]


class TestPairs:
    def test_trls_completion_is_a_response(self) -> None:
        one, other = to_record({"prompt": "a", "completion": "b"}), to_record({"prompt": "a", "response": "b"})
        assert one == other and one.response == "b"

    def test_two_responses_are_one_too_many(self) -> None:
        with pytest.raises(BadLine, match="both `response` and `completion`"):
            to_record({"prompt": "a", "response": "b", "completion": "c"})

    def test_a_prompt_may_hold_the_system_that_stands_beside_it(self) -> None:
        for system in ("Be brief.", "", None):
            assert to_record({"prompt": "<s>Be brief.</s>hi", "system": system}).prompt == "<s>Be brief.</s>hi"

    def test_what_is_null_is_not_there(self) -> None:
        assert to_record({"prompt": "a", "response": None, "messages": None}).response is None


class TestConversations:
    def test_trls_conversational_pair(self) -> None:
        record = to_record({"prompt": [USER], "completion": [ANSWER]})
        assert record.prompt == to_record({"messages": [USER, ANSWER]}).prompt
        assert record.response == "ok"
        assert record.conversation is not None and record.conversation.prompt_turns == 1
        assert messages_of(prompt=[USER], completion="ok") == [USER, ANSWER]
        assert messages_of(prompt=[USER]) == [USER]

    def test_sharegpt(self) -> None:
        turns = [
            {"from": "human", "value": "a"},
            {"from": "gpt", "value": "b"},
            {"from": "observation", "value": "c"},
            {"from": "chatgpt", "value": "d", "weight": 0, "train": None, "reasoning_content": "e"},
        ]
        assert messages_of(conversations=turns, system="s") == [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
            {"role": "tool", "content": "c"},
            {"role": "assistant", "content": "d", "weight": 0, "reasoning_content": "e"},
        ]
        assert messages_of(conversations=[USER, ANSWER]) == [USER, ANSWER]

    def test_a_sharegpt_call_is_the_same_as_in_messages(self) -> None:
        call = {"name": "weather", "arguments": {"city": "Rome"}}
        for value in (call, [call]):
            turns = [{"from": "human", "value": "hi"}, {"from": "function_call", "value": json.dumps(value)}]
            said = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": call}]}
            assert messages_of(conversations=turns) == [USER, said]

    @pytest.mark.parametrize("system", ["Be brief.", [{"text": "Be brief."}]])
    def test_a_system_beside_a_conversation_is_its_first_turn(self, system: Any) -> None:
        turns = [{"role": "system", "content": system}, USER, ANSWER]
        whole, speakers = to_record({"messages": turns}), [{"from": "human", "value": "hi"}]
        beside: list[dict[str, Any]] = [
            {"messages": turns[1:]},
            {"messages": turns},
            {"conversations": turns[1:]},
            {"conversations": speakers, "response": "ok"},
            {"prompt": [USER], "completion": [ANSWER]},
            {"prompt": [USER], "completion": "ok"},
        ]
        for row in beside:
            found = to_record(row | {"system": system})
            assert (found.prompt_id, found.response) == (whole.prompt_id, "ok")
            assert found.conversation is not None and found.conversation.messages == tuple(turns)
            assert found.conversation.num_prompt_turns == 2
        assert messages_of(messages=turns[1:], system="") == turns[1:] == messages_of(messages=turns[1:], system=None)

    def test_columns_may_hold_json(self) -> None:
        tool = {"type": "function", "function": {"name": "f"}}
        for tools in ([tool], json.dumps([tool])):
            record = to_record({"messages": [USER, ANSWER], "tools": tools})
            assert record.conversation is not None and record.conversation.tools == (tool,)
        nothings: tuple[object, ...] = (None, [], "", "[]")
        for nothing in nothings:
            record = to_record({"messages": [USER, ANSWER], "tools": nothing})
            assert record.conversation is not None and record.conversation.tools is None

    def test_an_id_follows_from_all_that_stands_before_the_response(self) -> None:
        plain = to_record({"messages": [USER, ANSWER]})
        assert plain.prompt_id == to_record({"messages": [{"content": "hi", "role": "user", "train": False}]}).prompt_id
        others = [
            {"messages": [USER | {"name": "Ann"}, ANSWER]},
            {"messages": [USER, ANSWER], "tools": [{"name": "f"}]},
            {"messages": [USER, ANSWER], "chat_template_kwargs": {"a": 1}},
        ]
        assert len({to_record(row).prompt_id for row in others} | {plain.prompt_id}) == 4

    def test_a_call_without_words_is_a_response(self) -> None:
        call = {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}
        assert to_record({"messages": [USER, call]}).response
        assert not to_record({"messages": [USER, {"role": "assistant", "content": ""}]}).response


BAD = {
    "no known key": ({"question": "a", "answer": "b"}, "no key `prompt`, .* it has question, answer"),
    "nothing": ({}, "it has no key at all"),
    "completion alone": ({"completion": "a"}, "no key `prompt` beside `completion`"),
    "empty text": ({"text": ""}, "empty text"),
    "no list": ({"messages": "hi"}, "`messages` is not a list of turns"),
    "no turn": ({"messages": []}, "`messages` is not a list of turns"),
    "no role": ({"messages": [{"content": "a"}]}, "turn 0 of `messages` is no object with a role"),
    "no content": ({"messages": [{"role": "user"}]}, "turn 0 of `messages` has no `content`"),
    "a number": ({"messages": [{"role": "user", "content": 3}]}, "`content` is int"),
    "a picture": (
        {"messages": [USER, {"role": "user", "content": [{"type": "image", "url": "x"}]}]},
        "turn 1 of `messages` has a part of type image",
    ),
    "no question": ({"messages": [ANSWER]}, "no turn before the response"),
    "two answers": ({"messages": [USER, ANSWER], "response": "x"}, "there is a `response` too"),
    "a question in a completion": ({"prompt": [USER], "completion": [ANSWER, USER]}, "holds a turn of the user"),
    "an unknown speaker": ({"conversations": [{"from": "narrator", "value": "x"}]}, "`from` is 'narrator', not one of"),
    "no value": ({"conversations": [{"from": "human"}]}, "has no text `value`"),
    "a call that is no JSON": (
        {"conversations": [{"from": "human", "value": "x"}, {"from": "function_call", "value": "f(x)"}]},
        "`turn 1 of conversations` is a text, but not of JSON",
    ),
    "a call without a name": (
        {"conversations": [{"from": "human", "value": "x"}, {"from": "function_call", "value": "[{}]"}]},
        "turn 1 of conversations is no call with a `name` and `arguments`",
    ),
    "no turns": ({"conversations": []}, "`conversations` is not a list of turns"),
    "two systems": (
        {"messages": [{"role": "system", "content": "a"}, USER], "system": "b"},
        "another turn of the system",
    ),
    "a system beside a prompt": ({"prompt": "a", "system": "Be brief."}, "`system` stands beside a text"),
    "a system beside a text": ({"text": "a", "system": "Be brief."}, "`system` stands beside a text"),
    "a system of numbers": ({"messages": [USER], "system": 3}, "turn 0 of `system`: `content` is int"),
    "tools of text": ({"messages": [USER], "tools": "f(x)"}, "`tools` is a text, but not of JSON"),
    "tools of numbers": ({"messages": [USER], "tools": [1]}, "`tools` is not a list of objects"),
    "variables": ({"messages": [USER], "chat_template_kwargs": [1]}, "`chat_template_kwargs` is not an object"),
    "no object": ([1], "a record is an object, not list"),
    "ids": ({"prompt": "a", "response_ids": [1.5]}, "`response_ids` is not a list of token ids"),
    "an id": ({"prompt": "a", "id": True}, "`id` is neither text nor a whole number"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_record_says_why(case: str) -> None:
    row, reason = BAD[case]
    with pytest.raises(BadLine, match=reason):
        to_record(row)


def test_a_bad_line_is_named_or_counted(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "d.jsonl", {"prompt": "a"}, {"question": "b"}, {"prompt": "c"})
    with pytest.raises(DataError, match=r"d\.jsonl:2: no key `prompt`"):
        read_records(path)
    found = read_data(path, "skip")
    assert [record.prompt for record in found.records] == ["a", "c"]
    assert len(found.skipped) == 1 and "d.jsonl:2" in found.skipped[0]
    only_bad = write_rows(tmp_path / "bad.jsonl", {"question": "b"})
    with pytest.raises(DataError, match=r"holds no prompts\n.*bad\.jsonl:1"):
        read_data(only_bad, "skip")
