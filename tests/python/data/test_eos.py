"""The end-of-response rule: which ids end a response, appending, cutting, counting."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from thack.data.eos import EndCounts, Ends, configured_ends, cut
from thack.data.tokenizer import Tokenizer
from thack.errors import ModelError, UsageError

from .small import CHATML, END, END_ID, EOS_ID, START_ID, write_tokenizer

IDS = np.array([5, 6], dtype=np.int32)


def ids(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


class TestEnds:
    def test_any_of_them_ends_a_response(self) -> None:
        ends = Ends(eos=1, turn=2, others=frozenset({3}))
        assert ends.ids == {1, 2, 3}
        assert ends.is_end(ids(0, 1, 2, 3, 4)).tolist() == [False, True, True, True, False]
        assert [ends.is_finished(ids(5, last)) for last in (1, 2, 3, 4)] == [True, True, True, False]
        assert not ends.is_finished(ids())

    def test_a_response_gets_one_end(self) -> None:
        ends = Ends(eos=1, turn=2)
        assert ends.close(IDS).tolist() == [5, 6, 1]
        assert ends.close(IDS, by=2).tolist() == [5, 6, 2]
        assert ends.close(ids(5, 2)).tolist() == [5, 2] == ends.close(ids(5, 2), by=1).tolist()
        assert ends.close(IDS).dtype == np.int32

    def test_what_a_template_writes_behind_its_end_is_passed_over(self) -> None:
        ends = Ends(eos=1, turn=2, behind_turn=(9, 8))
        assert ends.is_finished(ids(5, 2, 9, 8)) and not ends.is_finished(ids(5, 9, 8))
        assert not ends.is_finished(ids(9, 8)) and not ends.is_finished(ids(5, 2, 9))

    def test_a_cut_response_loses_its_end(self) -> None:
        ends = Ends(eos=1)
        assert cut(ids(5, 6, 1), 2).tolist() == [5, 6] and cut(ids(5, 1), 2).tolist() == [5, 1]
        assert not ends.is_finished(cut(ids(5, 6, 1), 2))

    def test_a_named_end_is_put_behind_texts_and_joins_the_others(self) -> None:
        ends = Ends(eos=1, turn=2).named(7)
        assert (ends.eos, ends.turn) == (7, 2) and ends.ids == {1, 2, 7}

    def test_a_checkpoint_keeps_them(self) -> None:
        assert Ends(eos=1).generation_config(0) == {"eos_token_id": 1, "pad_token_id": 0}
        assert Ends(eos=3, turn=2, others=frozenset({1})).generation_config(0)["eos_token_id"] == [3, 1, 2]


@pytest.mark.parametrize("configured", [None, "2", True, [None, "x"]])
def test_what_is_no_id_names_no_end(configured: object) -> None:
    assert list(configured_ends(configured)) == []


class TestCounts:
    def test_finished_truncated_and_dropped_are_told_apart(self) -> None:
        counts = EndCounts.of([ids(5, 1), ids(5, 6, 1), ids(5, 6, 7), ids(5)], Ends(eos=1), maximum=3)
        assert (counts.responses, counts.finished, counts.truncated, counts.dropped_end) == (4, 2, 1, 1)
        assert counts.truncated_share == 0.25 and counts.finished_share == 0.5
        assert (counts + counts).truncated == 2
        assert EndCounts().truncated_share == EndCounts().finished_share == 0

    @pytest.mark.parametrize(("truncated", "warned"), [(10, 0), (11, 1)])
    def test_above_a_tenth_truncated_is_a_warning(self, truncated: int, warned: int) -> None:
        found = EndCounts(responses=100, finished=100 - truncated, truncated=truncated).warnings()
        assert len(found) == warned
        assert not found or "11 of 100 responses (11%) reached the maximum length" in found[0]

    def test_stopping_without_an_end_is_a_warning(self) -> None:
        (found,) = EndCounts(responses=5, finished=3, truncated=0).warnings()
        assert found == "2 of 5 responses that stopped hold no end: a student would not learn to stop"


class TestOfATokenizer:
    def test_generation_config_means_what_it_names(self, tmp_path: Path) -> None:
        """An added token need not be flagged special."""
        generation = {"eos_token_id": [EOS_ID, END_ID]}
        path = write_tokenizer(tmp_path, special_end=False, generation=generation)
        assert Tokenizer.load(path).ends.ids == {EOS_ID, END_ID}

    def test_of_config_json_only_special_tokens_count(self, tmp_path: Path) -> None:
        path = write_tokenizer(tmp_path / "a", model={"eos_token_id": [EOS_ID, END_ID, 5]})
        assert Tokenizer.load(path).ends.ids == {EOS_ID, END_ID}
        repeated = {"eos_token_id": [EOS_ID, END_ID, 5], "_from_model_config": True}
        path = write_tokenizer(tmp_path / "b", generation=repeated)
        assert Tokenizer.load(path).ends.ids == {EOS_ID, END_ID}

    @pytest.mark.parametrize("unknown", [-1, 300, 1 << 40])
    def test_an_id_that_is_no_tokens_is_no_end(self, unknown: int, tmp_path: Path) -> None:
        config = {"eos_token": None, "pad_token": None}
        generation, model = {"eos_token_id": [unknown, EOS_ID]}, {"pad_token_id": unknown}
        path = write_tokenizer(tmp_path / "a", template=CHATML, config=config, generation=generation, model=model)
        tokenizer = Tokenizer.load(path)
        assert tokenizer.ends.ids == {EOS_ID, END_ID} and tokenizer.eos_id == tokenizer.pad_id == EOS_ID
        assert tokenizer.without_end("ok</s>") == "ok" and tokenizer.without_end("ok") == "ok"
        alone = write_tokenizer(tmp_path / "b", config=config, generation={"eos_token_id": unknown})
        with pytest.raises(ModelError, match="no end-of-sequence token is defined"):
            Tokenizer.load(alone)

    def test_the_chat_templates_end_of_turn_is_one(self, tmp_path: Path) -> None:
        ends = Tokenizer.load(write_tokenizer(tmp_path, template=CHATML)).ends
        assert (ends.eos, ends.turn) == (EOS_ID, END_ID) and ends.ids == {EOS_ID, END_ID}

    def test_a_user_names_another(self, tmp_path: Path) -> None:
        from thack.config import DataSettings
        from thack.data.date import with_settings

        plain = Tokenizer.load(write_tokenizer(tmp_path))
        named = with_settings(plain, DataSettings(end=END))
        assert (plain.ends.eos, named.ends.eos, named.eos_id) == (EOS_ID, END_ID, EOS_ID)
        assert named.ends.ids == {EOS_ID, END_ID}
        with pytest.raises(UsageError, match="'<end>' is not one token of the tokenizer"):
            with_settings(plain, DataSettings(end="<end>"))

    def test_they_survive_training(self, tmp_path: Path) -> None:
        """Written by a checkpoint and read again."""
        from thack.config import ArchitectureSettings
        from thack.models.load import load_model, new_decoder

        settings = ArchitectureSettings(hidden_size=16, num_heads=2)
        tokenizer = Tokenizer.load(write_tokenizer(tmp_path / "a", template=CHATML))
        new_decoder(settings, tokenizer, seed=0).save(tmp_path / "b")
        assert load_model(tmp_path / "b").tokenizer.ends.ids == {EOS_ID, END_ID}
        written = json.loads((tmp_path / "b" / "generation_config.json").read_text())
        assert written["eos_token_id"] == [EOS_ID, END_ID]


CLOSINGS = {
    "one token": ("<|im_end|>\n", END_ID),
    "the last of two, which no file names": ("<s><|im_end|>", END_ID),
    "the one that a file names": ("<|im_end|></s>", EOS_ID),
    "not the conversation's own end": ("<|im_end|>\n{% if loop.last %}<s>{% endif %}", END_ID),
    "none": ("\n", None),
}


@pytest.mark.parametrize("case", CLOSINGS)
def test_the_token_behind_an_answer_ends_it(case: str, tmp_path: Path) -> None:
    closing, expected = CLOSINGS[case]
    template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}" + closing + "{% endfor %}"
    assert Tokenizer.load(write_tokenizer(tmp_path, template=template)).ends.turn == expected


def test_where_nothing_stands_behind_an_answer_the_next_turn_ends_it(tmp_path: Path) -> None:
    """GLM: a turn begins with <|user|>, which generation_config.json names as an end."""
    template = "{% for m in messages %}{{ '<|im_start|>' if m.role == 'user' else '<s>' }}{{ m.content }}{% endfor %}"
    unnamed = Tokenizer.load(write_tokenizer(tmp_path / "a", template=template))
    assert unnamed.ends.turn is None
    named = write_tokenizer(tmp_path / "b", template=template, generation={"eos_token_id": [EOS_ID, START_ID]})
    assert Tokenizer.load(named).ends.turn == START_ID


def test_a_template_that_refuses_short_conversations_has_no_end(tmp_path: Path) -> None:
    template = "{% if messages | length < 9 %}{{ raise_exception('too short') }}{% endif %}"
    assert Tokenizer.load(write_tokenizer(tmp_path, template=template)).ends.turn is None


def test_responses_that_were_cut_before_are_truncated() -> None:
    written = [ids(5, 1), ids(5, 6), ids(5)]
    assert EndCounts.of(written, Ends(eos=1), maximum=9).dropped_end == 2
    found = EndCounts.of(written, Ends(eos=1), maximum=9, were_cut=[False, True, False])
    assert (found.finished, found.truncated, found.dropped_end) == (1, 1, 1)
