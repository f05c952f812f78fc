"""Prompts and responses as ids: what the tokenizer puts around a text, and where a response is encoded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from thack.config import DataSettings
from thack.data import Record
from thack.data.encode import RecordEncoder, encode_prompts, encode_references
from thack.data.formats import to_record
from thack.data.prepare import prepare
from thack.data.tokenizer import Tokenizer
from thack.errors import DataError

from .small import (
    ANSWER,
    BOS_ID,
    CHATML,
    END_ID,
    EOS_ID,
    USER,
    byte_ids,
    write_metaspace,
    write_tokenizer,
)

transformers = pytest.importorskip("transformers")


def pair(tokenizer: Tokenizer, **row: Any) -> tuple[list[int], list[int]]:
    (found,) = RecordEncoder(tokenizer).pairs([to_record(row)])
    assert isinstance(found, list)
    return found[0].prompt_ids.tolist(), found[0].response_ids.tolist()


class TestPrompts:
    @pytest.mark.parametrize("around", ["", "<s> $A", "<s> $A </s>", "$A </s>"])
    @pytest.mark.parametrize("adds", [{}, {"add_bos_token": True}, {"add_bos_token": False, "add_eos_token": True}])
    def test_a_decoder_continues_the_prompt(self, around: str, adds: dict[str, bool], tmp_path: Path) -> None:
        """No EOS between prompt and response; the BOS is the one that transformers puts there (pitfall 32)."""
        path = write_tokenizer(tmp_path, around=around, config=adds)
        theirs = transformers.AutoTokenizer.from_pretrained(path)("hi").input_ids
        expected = [i for i in theirs if i != EOS_ID]
        assert pair(Tokenizer.load(path), prompt="hi", response="ok") == (expected, [*byte_ids("ok"), EOS_ID])

    def test_an_encoder_reads_the_prompt_with_its_end(self, tmp_path: Path) -> None:
        path = write_tokenizer(tmp_path, around="<s> $A </s>", model={"is_encoder_decoder": True})
        theirs = transformers.PreTrainedTokenizerFast.from_pretrained(path)
        prompt, response = pair(Tokenizer.load(path), prompt="hi", response="ok")
        assert prompt == theirs("hi").input_ids == [BOS_ID, *byte_ids("hi"), EOS_ID]
        assert response == theirs(text_target="ok").input_ids == [BOS_ID, *byte_ids("ok"), EOS_ID]

    def test_a_model_tells_its_tokenizer(self, tmp_path: Path) -> None:
        """Whatever the directory says: a decoder's prompts have no end, an encoder's do."""
        from thack.config import ArchitectureSettings
        from thack.models.load import new_decoder

        path = write_tokenizer(tmp_path, around="$A </s>", model={"is_encoder_decoder": True})
        tokenizer = Tokenizer.load(path)
        assert tokenizer.facts.encoder_decoder
        model = new_decoder(ArchitectureSettings(hidden_size=16, num_heads=2), tokenizer, seed=0)
        assert not model.tokenizer.facts.encoder_decoder
        assert pair(model.tokenizer, prompt="hi", response="ok")[0] == byte_ids("hi")

    def test_a_rendered_prompt_has_one_bos(self, tmp_path: Path) -> None:
        tokenizer = Tokenizer.load(write_tokenizer(tmp_path, around="<s> $A"))
        prompt, _ = pair(tokenizer, prompt="<s>[INST] hi [/INST]", response="ok")
        assert (
            prompt
            == [BOS_ID, *byte_ids("[INST] hi [/INST]")]
            == pair(tokenizer, prompt="[INST] hi [/INST]", response="o")[0]
        )

    def test_texts_and_conversations_keep_their_places(self, tmp_path: Path) -> None:
        tokenizer = Tokenizer.load(write_tokenizer(tmp_path, template=CHATML, around="<s> $A"))
        rows = [{"prompt": "a"}, {"messages": [USER]}, {"prompt": "b"}]
        found = encode_prompts([to_record(row) for row in rows], tokenizer)
        assert [found[0].tolist(), found[2].tolist()] == [[BOS_ID, *byte_ids("a")], [BOS_ID, *byte_ids("b")]]
        assert found[1].tolist()[-1:] == byte_ids("\n") and BOS_ID not in found[1]


class TestResponses:
    @pytest.mark.parametrize("written", ["ok", "ok</s>"])
    def test_one_end(self, written: str, tmp_path: Path) -> None:
        tokenizer = Tokenizer.load(write_tokenizer(tmp_path))
        assert pair(tokenizer, prompt="hi", response=written)[1] == [*byte_ids("ok"), EOS_ID]

    def test_no_space_of_a_beginning(self, tmp_path: Path) -> None:
        """Encoded behind its prompt, as transformers encodes prompt and response together (pitfall 32)."""
        path = write_metaspace(tmp_path)
        tokenizer = Tokenizer.load(path)
        prompt, response = pair(tokenizer, prompt="<a>\n", response="Hello")
        whole = transformers.AutoTokenizer.from_pretrained(path)("<a>\nHello").input_ids
        assert prompt + response == [*whole, tokenizer.eos_id]
        assert [tokenizer.token(i) for i in response[:5]] == list("Hello")

    def test_where_a_token_would_hold_both_sides_the_prompt_stays_what_it_is_alone(self, tmp_path: Path) -> None:
        """Prompt "x " and response "H": together "▁H" is one token. A model continues the prompt as it is alone."""
        tokenizer = Tokenizer.load(write_metaspace(tmp_path))
        prompt, response = pair(tokenizer, prompt="x ", response="H")
        assert prompt == tokenizer.encode("x ").tolist()
        assert [tokenizer.token(i) for i in response] == ["H", "</s>"]

    def test_a_tokenizer_of_bytes_has_the_same_ids_apart(self) -> None:
        tokenizer = Tokenizer.train(["def read(path): reads the file reading"] * 9, 300)
        for prompt, response in (("def read", "ing(path)"), ("def read(path):\n", "reads"), ("a ", " b"), ("x", "")):
            expected = tokenizer.encode(prompt).tolist(), [*tokenizer.encode(response).tolist(), tokenizer.eos_id]
            if response:
                assert pair(tokenizer, prompt=prompt, response=response) == expected

    def test_ids_that_a_model_wrote_are_kept(self, tmp_path: Path) -> None:
        tokenizer = Tokenizer.load(write_tokenizer(tmp_path, template=CHATML))
        assert pair(tokenizer, prompt="hi", response="x", response_ids=[7, 8])[1] == [7, 8]
        assert pair(tokenizer, messages=[USER], response_ids=[7, 8])[1] == [7, 8]
        with pytest.raises(DataError, match="response id 260 is beyond the vocabulary"):
            pair(tokenizer, prompt="hi", response_ids=[260])

    def test_the_end_that_a_server_dropped_is_put_back(self, tmp_path: Path) -> None:
        tokenizer = Tokenizer.load(write_tokenizer(tmp_path, template=CHATML))
        stopped = {"response_ids": [7], "finish_reason": "stop"}
        assert pair(tokenizer, prompt="hi", **stopped)[1] == [7, EOS_ID]
        assert pair(tokenizer, messages=[USER], **stopped)[1] == [7, END_ID]
        assert pair(tokenizer, messages=[USER], **stopped | {"response_ids": [7, EOS_ID]})[1] == [7, EOS_ID]
        assert pair(tokenizer, messages=[USER], **stopped | {"finish_reason": "length"})[1] == [7]

    def test_no_ids_are_no_response(self, tmp_path: Path) -> None:
        """As of an empty text; a server that stopped at once wrote an end."""
        tokenizer = Tokenizer.load(write_tokenizer(tmp_path, template=CHATML))
        empty: list[dict[str, Any]] = [{"prompt": "hi", "response_ids": []}, {"messages": [USER], "response_ids": []}]
        rows = [*empty, {"prompt": "hi", "response": ""}, {"prompt": "hi", "response_ids": [5]}]
        records = [to_record(row) for row in rows]
        found = prepare(DataSettings(), tokenizer, need_response=True, records=records)
        assert [s.response_ids.tolist() for s in found.sequences] == [[5]] and found.report.without_response == 3
        assert encode_references(records[:1], tokenizer, 4) == [None]
        assert [pair(tokenizer, **row, finish_reason="stop")[1] for row in empty] == [[EOS_ID], [END_ID]]

    def test_references_are_what_people_wrote(self, tmp_path: Path) -> None:
        tokenizer = Tokenizer.load(write_tokenizer(tmp_path, template=CHATML))
        rows = [{"prompt": "hi", "response": "okay"}, {"prompt": "hi"}, {"messages": [USER, ANSWER]}]
        found = encode_references([to_record(row) for row in rows], tokenizer, 3)
        assert [None if ids is None else ids.tolist() for ids in found] == [
            byte_ids("oka"),
            None,
            [*byte_ids("ok"), END_ID],
        ]


class TestPrepare:
    def test_everything_that_is_dropped_or_cut_is_counted(self, tmp_path: Path) -> None:
        tokenizer = Tokenizer.load(write_tokenizer(tmp_path))
        rows = [("a", "x"), ("abcdef", "x"), ("b", "xyz"), ("c", None)]
        records = [Record(prompt_id=p, prompt=p, response=r) for p, r in rows]
        settings = DataSettings(max_prompt_tokens=3, max_response_tokens=2)
        report = prepare(settings, tokenizer, need_response=True, records=records).report
        assert (report.records, report.kept) == (4, 2)
        assert (report.dropped_prompts, report.cut_responses, report.without_response) == (1, 1, 1)
        assert (report.ends.responses, report.ends.finished, report.ends.truncated) == (2, 1, 1)
        shown = str(report)
        assert shown == "2 of 4 records · 1 prompts too long, dropped · 1 responses cut · 1 without response, dropped"
        assert "1 of 2 responses (50%) reached the maximum length" in report.lines()[1]

    def test_a_long_prompt_loses_its_beginning_on_request(self, tmp_path: Path) -> None:
        tokenizer = Tokenizer.load(write_tokenizer(tmp_path))
        settings = DataSettings(max_prompt_tokens=3, on_long="cut")
        records = [Record(prompt_id="a", prompt="abcdef", response="x")]
        prepared = prepare(settings, tokenizer, need_response=True, records=records)
        assert prepared.sequences[0].prompt_ids.tolist() == byte_ids("def")
        assert prepared.report.cut_prompts == 1

    def test_a_limit_counts_prompts(self, tmp_path: Path) -> None:
        tokenizer = Tokenizer.load(write_tokenizer(tmp_path))
        records = [Record(prompt_id=p, prompt=p, response=str(i), sample=i) for i, p in enumerate("aabbc")]
        limited = prepare(DataSettings(limit=2), tokenizer, need_response=True, records=records)
        assert [s.prompt_id for s in limited.sequences] == list("aabb")
        alone = prepare(DataSettings(limit=2), tokenizer, need_response=False, records=records)
        assert [s.prompt_id for s in alone.sequences] == list("ab")
        assert all(len(s.response_ids) == 0 for s in alone.sequences)

    def test_nothing_left_is_refused_with_the_counts(self, tmp_path: Path) -> None:
        tokenizer = Tokenizer.load(write_tokenizer(tmp_path))
        records = [Record(prompt_id="a", prompt="a")]
        with pytest.raises(DataError, match=r"leaves nothing to work on[\s\S]*1 without response"):
            prepare(DataSettings(), tokenizer, need_response=True, records=records)

    @pytest.mark.parametrize(
        ("around", "adds", "said"),
        [
            ("<s> $A", True, ""),
            ("<s> $A", False, "add_bos_token = false, but tokenizer.json puts a BOS"),
            ("", True, "add_bos_token = true, but tokenizer.json puts no BOS"),
            ("", False, ""),
        ],
    )
    def test_files_that_contradict_each_other_are_a_warning(
        self, around: str, adds: bool, said: str, tmp_path: Path
    ) -> None:
        path = write_tokenizer(tmp_path, around=around, template=CHATML, config={"add_bos_token": adds})
        tokenizer = Tokenizer.load(path)
        pairs = [Record(prompt_id="a", prompt="a", response="x")]
        warnings = prepare(DataSettings(), tokenizer, need_response=True, records=pairs).report.warnings()
        assert [said in warning for warning in warnings] == ([True] if said else [])
        chats = [to_record({"messages": [USER, ANSWER]})]
        assert prepare(DataSettings(), tokenizer, need_response=True, records=chats).report.warnings() == []
