"""Tokenizer directories: special tokens, fingerprints, what is kept on the way from one directory to another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from thack.config import DataSettings
from thack.data.compare import closing_token, differences
from thack.data.date import with_settings
from thack.data.records import Conversation
from thack.data.tokenizer import Tokenizer
from thack.errors import DataError, ModelError

from .small import (
    BOS,
    BOS_ID,
    CHATML,
    END,
    END_ID,
    EOS,
    EOS_ID,
    START,
    USER,
    byte_ids,
    write_metaspace,
    write_tokenizer,
)


class TestFiles:
    def test_special_tokens_come_from_the_files_beside(self, tmp_path: Path) -> None:
        tokenizer = Tokenizer.load(write_tokenizer(tmp_path, config={"pad_token": {"content": END}}))
        assert (tokenizer.eos_id, tokenizer.bos_id, tokenizer.pad_id) == (EOS_ID, BOS_ID, END_ID)
        assert tokenizer.facts.tokens == {"bos_token": BOS, "eos_token": EOS, "pad_token": END}

    def test_padding_is_eos_where_none_is_named(self, tmp_path: Path) -> None:
        assert Tokenizer.load(write_tokenizer(tmp_path)).pad_id == EOS_ID

    def test_ids_of_the_model_stand_in_for_missing_names(self, tmp_path: Path) -> None:
        path = write_tokenizer(
            tmp_path, config={"eos_token": None}, model={"eos_token_id": [END_ID], "pad_token_id": 0}
        )
        tokenizer = Tokenizer.load(path)
        assert (tokenizer.eos_id, tokenizer.pad_id) == (END_ID, 0)

    @pytest.mark.parametrize(
        ("name", "content", "reason"),
        [
            ("tokenizer.json", "{}", "not a tokenizer"),
            ("tokenizer_config.json", "{", "not JSON"),
            ("tokenizer_config.json", "[]", "holds list, expected an object"),
            ("tokenizer_config.json", "{}", "no end-of-sequence token is defined"),
        ],
    )
    def test_a_damaged_file_is_named(self, name: str, content: str, reason: str, tmp_path: Path) -> None:
        path = write_tokenizer(tmp_path)
        (path / name).write_text(content)
        with pytest.raises(ModelError, match=reason):
            Tokenizer.load(path)

    def test_a_missing_tokenizer_says_how_to_save_one(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"no tokenizer\.json"):
            Tokenizer.load(tmp_path)

    def test_files_are_carried_along(self, tmp_path: Path) -> None:
        path = write_tokenizer(tmp_path / "a", template=CHATML)
        (path / "vocab.json").write_text("{}")
        (path / "README.md").write_text("not the tokenizer's")
        Tokenizer.load(path).save(tmp_path / "b")
        assert sorted(p.name for p in (tmp_path / "b").iterdir()) == [
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.json",
        ]
        assert Tokenizer.load(tmp_path / "b").fingerprint() == Tokenizer.load(path).fingerprint()


class TestTraining:
    def test_the_same_texts_give_the_same_tokenizer(self) -> None:
        texts = ["def read(path): read the file"] * 3
        one, other = Tokenizer.train(texts, 300), Tokenizer.train(texts, 300)
        assert one.fingerprint() == other.fingerprint() and one.size <= 300
        assert one.decode(one.encode("reads é")) == "reads é"

    def test_too_few_ids_are_refused(self) -> None:
        with pytest.raises(DataError, match="at least 258 ids, not 257"):
            Tokenizer.train(["a"], 257)


class TestEncoding:
    def test_each_id_has_its_characters(self, tmp_path: Path) -> None:
        found = Tokenizer.load(write_tokenizer(tmp_path)).encode_with_spans("ab<|im_end|>c")
        assert found.ids.tolist() == [*byte_ids("ab"), END_ID, *byte_ids("c")]
        assert found.spans == ((0, 1), (1, 2), (2, 12), (12, 13))

    def test_ids_beyond_the_tokenizer_have_no_text(self, tmp_path: Path) -> None:
        tokenizer = Tokenizer.load(write_tokenizer(tmp_path))
        assert tokenizer.decode(np.array([*byte_ids("a"), 9999])) == "a"
        assert tokenizer.token(9999) == "" and tokenizer.token(END_ID) == END
        assert tokenizer.text([*byte_ids("a"), END_ID]) == "a<|im_end|>"

    def test_within_a_text_there_is_no_space_of_a_beginning(self, tmp_path: Path) -> None:
        tokenizer = Tokenizer.load(write_metaspace(tmp_path))
        assert [tokenizer.token(i) for i in tokenizer.encode("Hi")] == ["▁H", "i"]
        assert [tokenizer.token(i) for i in tokenizer.encode_inside("Hi")] == ["H", "i"]

    def test_an_end_at_the_end_of_a_text_is_taken_off(self, tmp_path: Path) -> None:
        tokenizer = Tokenizer.load(write_tokenizer(tmp_path, template=CHATML))
        assert tokenizer.without_end("ok</s> <|im_end|>\n") == "ok"
        assert tokenizer.without_end("ok \n") == "ok \n" and tokenizer.without_end("a</s>b") == "a</s>b"


class TestComparing:
    def test_a_base_and_an_instruct_model_differ_in_their_end_alone(self, tmp_path: Path) -> None:
        base = Tokenizer.load(write_tokenizer(tmp_path / "a"))
        instruct = Tokenizer.load(write_tokenizer(tmp_path / "b", template=CHATML, config={"eos_token": END}))
        assert base.eos_id != instruct.eos_id
        assert differences(base, instruct) == []
        assert base.fingerprint() == instruct.fingerprint()

    def test_a_chat_template_changes_no_id(self, tmp_path: Path) -> None:
        tokenizer = Tokenizer.load(write_tokenizer(tmp_path))
        assert tokenizer.with_template(CHATML).fingerprint() == tokenizer.fingerprint()

    def test_what_differs_is_named(self, tmp_path: Path) -> None:
        bytes_ = Tokenizer.load(write_tokenizer(tmp_path / "a"))
        content = json.loads((tmp_path / "a" / "tokenizer.json").read_text())
        content["added_tokens"].append(dict(content["added_tokens"][0], id=260, content="<new>"))
        write_tokenizer(tmp_path / "b")
        (tmp_path / "b" / "tokenizer.json").write_text(json.dumps(content))
        assert differences(bytes_, Tokenizer.load(tmp_path / "b")) == ["added tokens: <new> (260)"]
        found = differences(bytes_, Tokenizer.load(write_metaspace(tmp_path / "c")))
        assert [line.partition(":")[0] for line in found] == ["vocabulary", "merges", "added tokens", "text splitting"]
        assert found[0].startswith("vocabulary: 256 and 98 tokens, ")

    def test_the_token_behind_a_response(self, tmp_path: Path) -> None:
        tokenizer = Tokenizer.load(write_tokenizer(tmp_path, template=CHATML))
        assert closing_token(tokenizer, chat=True) == END and closing_token(tokenizer, chat=False) == EOS
        named = with_settings(tokenizer, DataSettings(end=BOS))
        assert closing_token(named, chat=True) == BOS


@pytest.mark.parametrize(
    "config",
    [
        {"image_token": START},
        {"image_token": {"__type": "AddedToken", "content": START, "special": True}},
        {"extra_special_tokens": {"image_token": START, "think": END}},
        {"model_specific_special_tokens": {"image_token": START}},
        {"extra_special_tokens": [START], "add_bos_token": True},
    ],
)
def test_a_models_own_special_tokens_have_their_names_in_templates(config: dict[str, Any], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    source = "{{ image_token }}{{ think }}{{ add_bos_token }}|{{ messages[0].content }}"
    directory = write_tokenizer(tmp_path / "t", template=source, config=config)
    theirs = transformers.AutoTokenizer.from_pretrained(directory).apply_chat_template([USER], tokenize=False)
    template = Tokenizer.load(directory).template()
    assert template is not None and template.render(Conversation(messages=(USER,))).text == theirs


def test_a_template_sees_the_named_special_tokens(tmp_path: Path) -> None:
    """And those alone: a token that no file names is undefined, as in transformers."""
    transformers = pytest.importorskip("transformers")
    source = "{{ bos_token }}{{ 'p' if pad_token is defined else 'none' }}{{ eos_token }}"
    path = write_tokenizer(tmp_path, template=source)
    template = Tokenizer.load(path).template()
    assert template is not None
    theirs = transformers.AutoTokenizer.from_pretrained(path)
    messages = [{"role": "user", "content": "x"}]
    found = template.render(Conversation(messages=tuple(messages))).text
    assert found == "<s>none</s>" == theirs.apply_chat_template(messages, tokenize=False)


def test_vocabularies_with_scores_are_compared_too(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models

    from .small import add_control_tokens, write_files

    found = []
    for name, last in (("a", "y"), ("b", "z")):
        backend = Backend(models.Unigram([("<unk>", 0.0), ("x", -1.0), (last, -2.0)], unk_id=0))
        add_control_tokens(backend, True)
        found.append(Tokenizer.load(write_files(backend, tmp_path / name, None, None, None, None)))
    assert differences(*found) == ["vocabulary: 3 and 3 tokens, 2 differ, such as y, z"]
