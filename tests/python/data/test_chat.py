"""Conversations as ids: transformers' own rendering, split where the assistant begins, closed by the template's end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from thack.config import DataSettings
from thack.data.date import with_settings
from thack.data.encode import RecordEncoder
from thack.data.formats import to_record
from thack.data.prepare import prepare
from thack.data.records import RecordRefusal
from thack.data.template import TemplateRefusal
from thack.data.tokenizer import Tokenizer
from thack.errors import DataError, MismatchError, UsageError

from .small import (
    ANSWER,
    CHATML,
    END_ID,
    EOS_ID,
    START_ID,
    USER,
    byte_ids,
    write_metaspace,
    write_rows,
    write_tokenizer,
)

transformers = pytest.importorskip("transformers")

NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHATML
)
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{{ '<think>\n' + (m.reasoning_content or '') + '\n</think>\n\n' }}{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
TOOLS_TEMPLATE = (
    "{% if tools %}<|im_start|>tools\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}{% if m.name %}({{ m.name }}){% endif %}{{ '\n' }}"
    "{% if m.reasoning_content %}[{{ m.reasoning_content }}]{% endif %}"
    "{% if m.content is string %}{{ m.content }}"
    "{% elif m.content %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}"
    "{% for call in m.tool_calls or [] %}<call>{{ call.function | tojson }}</call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"x": {}}}}}
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": "é<1>"}}}


def load(directory: Path, **settings: Any) -> Tokenizer:
    return with_settings(Tokenizer.load(directory), DataSettings(**settings))


def pairs(tokenizer: Tokenizer, *rows: dict[str, Any], train_on: Any = "last") -> list[Any]:
    """(prompt ids, response ids) of every row, several of some; a refusal is raised."""
    found = []
    for encoded in RecordEncoder(tokenizer, train_on=train_on).pairs([to_record(row) for row in rows]):
        if isinstance(encoded, RecordRefusal):
            raise encoded
        found += [(pair.prompt_ids.tolist(), pair.response_ids.tolist()) for pair in encoded]
    return found


def their_ids(directory: Path, messages: list[Any], **options: Any) -> list[int]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    found: list[int] = tokenizer.apply_chat_template(messages, return_dict=False, **options)
    return found


class TestOneTurn:
    def test_it_ends_with_the_templates_end_of_turn(self, tmp_path: Path) -> None:
        """Not with the tokenizer's EOS (pitfall 31)."""
        path = write_tokenizer(tmp_path, template=CHATML, generation={"eos_token_id": [EOS_ID, END_ID]})
        ((prompt, response),) = pairs(load(path), {"messages": [USER, ANSWER]})
        assert response == [*byte_ids("ok"), END_ID]
        assert prompt == their_ids(path, [USER], add_generation_prompt=True)
        whole = their_ids(path, [USER, ANSWER])
        assert whole == prompt + response + byte_ids("\n")

    def test_a_response_beside_the_turns_is_the_last_turn(self, tmp_path: Path) -> None:
        tokenizer = load(write_tokenizer(tmp_path, template=CHATML))
        one, other = {"messages": [USER, ANSWER]}, {"messages": [USER], "response": "ok"}
        assert pairs(tokenizer, one) == pairs(tokenizer, other)

    def test_it_is_encoded_behind_its_prompt(self, tmp_path: Path) -> None:
        """A tokenizer that puts a space before a text puts none before a response (pitfall 32)."""
        template = (
            "{% for m in messages %}<a>\n{{ m.content }}{% endfor %}{% if add_generation_prompt %}<a>\n{% endif %}"
        )
        path = write_metaspace(tmp_path, template=template)
        tokenizer = load(path)
        ((prompt, response),) = pairs(tokenizer, {"messages": [USER, {"role": "assistant", "content": "Hello"}]})
        assert [tokenizer.token(i) for i in response[:5]] == list("Hello")
        whole = their_ids(path, [USER, {"role": "assistant", "content": "Hello"}])
        assert prompt + response == [*whole, tokenizer.eos_id]  # the template writes no end: EOS

    def test_an_end_written_out_behind_the_answer_is_not_doubled(self, tmp_path: Path) -> None:
        tokenizer = load(write_tokenizer(tmp_path, template=CHATML))
        for written in ("ok<|im_end|>", "ok<|im_end|>\n", "ok</s>", "ok</s><|im_end|>"):
            messages = [USER, {"role": "assistant", "content": written}]
            assert pairs(tokenizer, {"messages": messages}) == pairs(tokenizer, {"messages": [USER, ANSWER]}), written

    def test_an_end_within_the_answer_is_not_its_end(self, tmp_path: Path) -> None:
        tokenizer = load(write_tokenizer(tmp_path, template=CHATML))
        ((_, response),) = pairs(tokenizer, {"messages": [USER, {"role": "assistant", "content": "a<|im_end|>b"}]})
        assert response == [*byte_ids("a"), END_ID, *byte_ids("b"), END_ID]

    def test_no_answer_is_no_response(self, tmp_path: Path) -> None:
        tokenizer = load(write_tokenizer(tmp_path, template=CHATML))
        assert pairs(tokenizer, {"messages": [USER]}, {"messages": [USER, {"role": "assistant", "content": ""}]}) == []


class TestWhatTheTemplateGets:
    ROWS: tuple[dict[str, Any], ...] = (
        {"tools": [TOOL], "messages": [USER, {"role": "assistant", "content": "", "tool_calls": [CALL]}]},
        {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}]},
        {
            "tools": [TOOL],
            "messages": [
                USER,
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "content": "7", "name": "f"},
                {"role": "assistant", "content": "seven", "reasoning_content": "read"},
            ],
        },
        {"messages": [USER, {"role": "assistant", "content": "x", "thinking": "an older name"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}, ANSWER]},
        {"messages": [{"role": "user", "content": "hi", "name": "Ann", "tool_calls": None}, ANSWER]},
    )

    @pytest.mark.parametrize("number", range(len(ROWS)))
    def test_it_is_what_transformers_hands_to_it(self, number: int, tmp_path: Path) -> None:
        """Tools, calls, reasoning, names, parts and null: nothing is left out (pitfall 33)."""
        older = "thinking" in str(self.ROWS[number])
        if older and not hasattr(transformers.utils.chat_template_utils, "_REASONING_FIELDS"):
            pytest.skip("this transformers leaves reasoning under its older names alone")
        path, row = write_tokenizer(tmp_path, template=TOOLS_TEMPLATE), self.ROWS[number]
        ((prompt, response),) = pairs(load(path), row)
        tools = row.get("tools")
        assert prompt + response + byte_ids("\n") == their_ids(path, row["messages"], tools=tools)
        asked = row["messages"][:-1]
        assert prompt == their_ids(path, asked, tools=tools, add_generation_prompt=True)

    def test_what_generate_wrote_is_read_with_its_tools(self, tmp_path: Path) -> None:
        from thack.data.records import prompt_row

        record = to_record(self.ROWS[2] | {"chat_template_kwargs": {"a": 1}, "documents": [{"text": "d"}]})
        again = to_record(
            json.loads(json.dumps(prompt_row(record))) | {"response_ids": [5, END_ID], "id": record.prompt_id}
        )
        assert again.conversation is not None and record.conversation is not None
        assert again.prompt == record.prompt
        assert again.conversation.messages == record.conversation.messages[:-1]
        assert again.conversation.tools == record.conversation.tools

    def test_variables_of_settings_and_of_a_row(self, tmp_path: Path) -> None:
        path = write_tokenizer(tmp_path, template="{{ a }}{{ b }}" + CHATML)
        tokenizer = load(path, template_variables='{"a": "1", "b": "2"}')
        ((prompt, _),) = pairs(tokenizer, {"messages": [USER, ANSWER], "chat_template_kwargs": {"b": "3"}})
        assert prompt[:2] == byte_ids("13")
        with pytest.raises(UsageError, match="template_variables: not JSON"):
            load(path, template_variables="a=1")
        with pytest.raises(UsageError, match="not a JSON object"):
            load(path, template_variables="[1]")


class TestThinking:
    def test_the_block_before_a_plain_answer_is_part_of_the_response(self, tmp_path: Path) -> None:
        path = write_tokenizer(tmp_path, template=THINKING)
        messages = [USER, {"role": "assistant", "content": "4"}]
        ((prompt, response),) = pairs(load(path), {"messages": messages})
        assert prompt == their_ids(path, [USER], add_generation_prompt=True)
        assert prompt + response + byte_ids("\n") == their_ids(path, messages)
        assert response == [*byte_ids("<think>\n\n</think>\n\n4"), END_ID]

    def test_without_thinking_the_block_belongs_to_the_prompt(self, tmp_path: Path) -> None:
        path = write_tokenizer(tmp_path, template=THINKING)
        tokenizer = load(path, template_variables='{"enable_thinking": false}')
        ((prompt, response),) = pairs(tokenizer, {"messages": [USER, {"role": "assistant", "content": "4"}]})
        assert response == [*byte_ids("4"), END_ID]
        assert prompt == their_ids(path, [USER], add_generation_prompt=True, enable_thinking=False)

    def test_an_answer_that_begins_otherwise_than_it_is_prompted_for_is_counted(self, tmp_path: Path) -> None:
        template = CHATML.replace("assistant\n'", "assistant\n<think>\n'")
        path = write_tokenizer(tmp_path / "t", template=template)
        data = DataSettings(path=str(write_rows(tmp_path / "d.jsonl", {"messages": [USER, ANSWER]})))
        prepared = prepare(data, load(path), need_response=True)
        (s,) = prepared.sequences
        assert [*s.prompt_ids, *s.response_ids, *byte_ids("\n")] == their_ids(path, [USER, ANSWER])
        assert prepared.report.other_beginnings == 1
        assert "1 of 1 responses begin in another way" in prepared.report.warnings()[0]


LONG: list[dict[str, Any]] = [
    {"role": "system", "content": "be brief"},
    USER,
    {"role": "assistant", "content": "one"},
    {"role": "tool", "content": "7"},
    {"role": "assistant", "content": "two", "train": False},
    {"role": "user", "content": "more"},
    {"role": "assistant", "content": "three", "train": True},
]


class TestTrainedTurns:
    @pytest.mark.parametrize(
        ("train_on", "expected"),
        [("last", ["three"]), ("all", ["one", "two", "three"]), ("marked", ["three"])],
    )
    def test_each_trained_turn_is_a_response_to_all_before_it(
        self, train_on: str, expected: list[str], tmp_path: Path
    ) -> None:
        path = write_tokenizer(tmp_path, template=CHATML)
        found = pairs(load(path), {"messages": LONG}, train_on=train_on)
        assert [response for _, response in found] == [[*byte_ids(text), END_ID] for text in expected]
        for (prompt, _), text in zip(found, expected, strict=True):
            turn = [message["content"] for message in LONG].index(text)
            assert prompt == their_ids(path, LONG[:turn], add_generation_prompt=True)

    @pytest.mark.parametrize("mark", [{"weight": 1}, {"train": True}])
    def test_marks_of_other_tools(self, mark: dict[str, Any], tmp_path: Path) -> None:
        tokenizer = load(write_tokenizer(tmp_path, template=CHATML))
        messages = [USER, ANSWER | mark, USER, {"role": "assistant", "content": "no"}]
        ((_, response),) = pairs(tokenizer, {"messages": messages}, train_on="marked")
        assert response == [*byte_ids("ok"), END_ID]

    @pytest.mark.parametrize(
        ("turn", "reason"), [(USER | {"train": True}, "not an answer"), (ANSWER | {"weight": 0.5}, "0.5")]
    )
    def test_marks_that_mean_nothing_are_refused(self, turn: dict[str, Any], reason: str, tmp_path: Path) -> None:
        tokenizer = load(write_tokenizer(tmp_path, template=CHATML))
        with pytest.raises(TemplateRefusal, match=reason):
            pairs(tokenizer, {"messages": [USER, ANSWER, turn, ANSWER]}, train_on="marked")

    def test_a_prompt_of_turns_is_not_trained(self, tmp_path: Path) -> None:
        tokenizer = load(write_tokenizer(tmp_path, template=CHATML))
        row = {"prompt": [USER, ANSWER, USER], "completion": [{"role": "assistant", "content": "new"}]}
        assert [r for _, r in pairs(tokenizer, row, train_on="all")] == [[*byte_ids("new"), END_ID]]

    def test_all_turns_of_a_conversation_validate_together(self, tmp_path: Path) -> None:
        path = write_tokenizer(tmp_path / "t", template=CHATML)
        data = DataSettings(path=str(write_rows(tmp_path / "d.jsonl", {"messages": LONG})), train_on="all")
        prepared = prepare(data, load(path), need_response=True)
        assert [s.example for s in prepared.sequences] == [0, 1, 2]
        assert len({s.prompt_id for s in prepared.sequences}) == 1
        assert str(prepared.report).startswith("3 sequences of 1 records")


MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>\n{% endgeneration %}{% else %}{{ m.content }}<|im_end|>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

MARKED_END = "<|im_end|>\n{% endgeneration %}"


class TestGenerationSpans:
    @pytest.mark.parametrize(
        "template", [MARKED, MARKED.replace("<|im_end|>\n{% endgeneration %}", "{% endgeneration %}\n")]
    )
    def test_the_mask_is_what_the_template_marks(self, template: str, tmp_path: Path) -> None:
        """Every token that overlaps a span, as transformers' return_assistant_tokens_mask has it; and no other."""
        path = write_tokenizer(tmp_path, template=template)
        theirs = transformers.AutoTokenizer.from_pretrained(path).apply_chat_template(
            LONG, return_dict=True, return_assistant_tokens_mask=True
        )
        mask = np.zeros(len(theirs["input_ids"]), dtype=int)
        for prompt, response in pairs(load(path), {"messages": LONG}, train_on="all"):
            assert prompt + response == theirs["input_ids"][: len(prompt) + len(response)]
            mask[len(prompt) : len(prompt) + len(response)] = 1
        assert mask.tolist() == theirs["assistant_masks"]

    def test_a_span_that_leaves_the_end_out_is_followed_and_counted(self, tmp_path: Path) -> None:
        template = MARKED.replace(MARKED_END, "{% endgeneration %}<|im_end|>\n")
        path = write_tokenizer(tmp_path / "t", template=template)
        data = DataSettings(path=str(write_rows(tmp_path / "d.jsonl", {"messages": [USER, ANSWER]})))
        prepared = prepare(data, load(path), need_response=True)
        assert prepared.sequences[0].response_ids.tolist() == byte_ids("ok")
        assert prepared.report.ends.dropped_end == 1
        assert "hold no end" in prepared.report.warnings()[0]

    def test_a_line_break_behind_the_end_leaves_it_finished(self, tmp_path: Path) -> None:
        tokenizer = load(write_tokenizer(tmp_path, template=MARKED))
        ((_, response),) = pairs(tokenizer, {"messages": [USER, ANSWER]})
        assert response == [*byte_ids("ok"), END_ID, *byte_ids("\n")]
        assert tokenizer.ends.is_finished(np.array(response))

    def test_a_turn_marked_in_pieces_is_refused(self, tmp_path: Path) -> None:
        template = MARKED.replace(MARKED_END, "{% endgeneration %}-{% generation %}" + MARKED_END)
        with pytest.raises(TemplateRefusal, match="in several pieces"):
            pairs(load(write_tokenizer(tmp_path, template=template)), {"messages": [USER, ANSWER]})


class TestRefusals:
    def test_a_refused_conversation_names_its_line(self, tmp_path: Path) -> None:
        path = write_tokenizer(tmp_path / "t", template=NO_SYSTEM)
        good, bad = {"messages": [USER, ANSWER]}, {"messages": [{"role": "system", "content": "s"}, USER, ANSWER]}
        data = DataSettings(path=str(write_rows(tmp_path / "d.jsonl", good, bad, good)))
        with pytest.raises(DataError, match=r"d\.jsonl:2: the chat template refuses .*System role not supported"):
            prepare(data, load(path), need_response=True)
        skipping = DataSettings(path=data.path, on_bad_line="skip")
        for need_response in (True, False):
            prepared = prepare(skipping, load(path), need_response=need_response)
            assert len(prepared.report.skipped) == 1 and "d.jsonl:2" in prepared.report.skipped[0]
            assert len(prepared.sequences) == (2 if need_response else 1)

    @pytest.mark.parametrize(
        "template", ["{{ messages[9].content }}", "{{ 1 / 0 }}", "{% for %}", "{{ messages + 1 }}"]
    )
    def test_a_template_that_fails_is_a_refusal(self, template: str, tmp_path: Path) -> None:
        with pytest.raises(TemplateRefusal, match="the chat template"):
            pairs(load(write_tokenizer(tmp_path, template=template)), {"messages": [USER, ANSWER]})

    def test_a_template_that_rewrites_earlier_turns_is_refused(self, tmp_path: Path) -> None:
        template = "{{ messages | length }}" + CHATML
        with pytest.raises(TemplateRefusal, match="writes the turns before the response anew"):
            pairs(load(write_tokenizer(tmp_path, template=template)), {"messages": [USER, ANSWER]})

    def test_a_template_may_not_fill_the_memory(self, tmp_path: Path) -> None:
        template = "{% for a in range(99999) %}{% for b in range(99999) %}{{ 'x' * 9999 }}{% endfor %}{% endfor %}"
        with pytest.raises(TemplateRefusal, match="makes more text"):
            pairs(load(write_tokenizer(tmp_path, template=template)), {"messages": [USER, ANSWER]})

    def test_without_a_template_a_conversation_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="the tokenizer has no chat template"):
            pairs(load(write_tokenizer(tmp_path)), {"messages": [USER, ANSWER]})


class TestSeveralTemplates:
    TEMPLATES = (
        {"name": "default", "template": "default" + CHATML},
        {"name": "tool_use", "template": "tools" + CHATML},
        {"name": "rag", "template": "rag" + CHATML},
    )

    def beginning(self, tokenizer: Tokenizer, **beside: Any) -> str:
        ((prompt, _),) = pairs(tokenizer, {"messages": [USER, ANSWER], **beside})
        return tokenizer.decode(prompt[: prompt.index(START_ID)])

    def test_a_list_of_named_templates(self, tmp_path: Path) -> None:
        path = write_tokenizer(tmp_path, template=list(self.TEMPLATES))
        assert self.beginning(load(path)) == "default"
        assert self.beginning(load(path), tools=[TOOL]) == "tools"
        assert self.beginning(load(path, chat_template="rag"), tools=[TOOL]) == "rag"
        with pytest.raises(DataError, match=r"no chat template 'x'[\s\S]*default, tool_use, rag"):
            self.beginning(load(path, chat_template="x"))
        (tmp_path / "own.jinja").write_text("own" + CHATML)
        assert self.beginning(load(path, chat_template=str(tmp_path / "own.jinja"))) == "own"
        with pytest.raises(UsageError, match="does not exist"):
            load(path, chat_template=str(tmp_path / "none.jinja"))

    def test_templates_in_files_come_first_and_are_saved(self, tmp_path: Path) -> None:
        path = write_tokenizer(tmp_path / "a", template="config" + CHATML)
        (path / "chat_template.jinja").write_text("file" + CHATML)
        (path / "additional_chat_templates").mkdir()
        (path / "additional_chat_templates" / "rag.jinja").write_text("rag" + CHATML)
        Tokenizer.load(path).save(tmp_path / "b")
        for place in (path, tmp_path / "b"):
            assert self.beginning(load(place)) == "file"
            assert self.beginning(load(place, chat_template="rag")) == "rag"
            theirs = transformers.AutoTokenizer.from_pretrained(place)
            assert theirs.chat_template == {"default": "file" + CHATML, "rag": "rag" + CHATML}

    def test_no_default_is_refused_with_the_names(self, tmp_path: Path) -> None:
        path = write_tokenizer(tmp_path, template=list(self.TEMPLATES[2:]))
        with pytest.raises(DataError, match=r"no chat template is the default one[\s\S]*rag"):
            self.beginning(load(path))


def test_responses_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    """As before: ids of a directory of responses belong to one tokenizer."""
    from thack.data.sequence import TokenSequence
    from thack.data.store import write_responses
    from thack.schema.generation import GenerationFacts

    record = to_record({"messages": [USER], "id": "a"})
    facts = GenerationFacts(model="m", data="d", seed=0, samples=1, sampling={}, max_response_tokens=4, dtype="float32")
    s = TokenSequence(example=0, prompt_id="a", prompt_ids=np.array([1]), response_ids=np.array([5, END_ID]))
    chatting = Tokenizer.load(write_tokenizer(tmp_path / "t", template=CHATML))
    write_responses(tmp_path / "r", [(record, s)], chatting, facts=facts)
    other = Tokenizer.train(["another"], 264)
    with pytest.raises(MismatchError, match="another tokenizer"):
        prepare(DataSettings(path=str(tmp_path / "r")), other, need_response=True)
    (read,) = prepare(DataSettings(path=str(tmp_path / "r")), chatting, need_response=True).sequences
    assert read.response_ids.tolist() == [5, END_ID]
