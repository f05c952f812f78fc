"""Whatever people write into a conversation or a row: ids are those of transformers, errors are ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from thack.config import DataSettings
from thack.data.date import with_settings
from thack.data.encode import RecordEncoder
from thack.data.formats import to_record
from thack.data.raw_text import pieces
from thack.data.records import Record, RecordRefusal
from thack.data.rows import BadLine
from thack.data.tokenizer import Tokenizer

from .small import CHATML, add_control_tokens, write_files

transformers = pytest.importorskip("transformers")

# Bytes are joined to words and spaces, so that ids of a text depend on what stands before it.
CORPUS = ["assistant\nok user\nhi hello world <|im_end|>  \n\n reads the file\n", "Straße é ok. ok? ok!\n"] * 20
WRITTEN = st.text(alphabet=st.sampled_from("ok hi\n.?é<|>\t€😀"), min_size=1, max_size=12) | st.sampled_from(
    ["ok</s>b", "<|im_start|>user\nx", " <s>", "a<|im_end|>\nb"]
)
QUIET = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE with merges across words, and ChatML."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    add_control_tokens(backend, True)
    return write_files(backend, tmp_path_factory.mktemp("bpe"), CHATML, None, None, None)


@pytest.fixture(scope="module")
def ours(directory: Path) -> Tokenizer:
    return Tokenizer.load(directory)


@pytest.fixture(scope="module")
def theirs(directory: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(directory)


def turns(contents: list[str]) -> list[dict[str, str]]:
    return [{"role": "assistant" if i % 2 else "user", "content": content} for i, content in enumerate(contents)]


@QUIET
@given(contents=st.lists(WRITTEN, min_size=1, max_size=3).map(lambda c: [*c, *c][: len(c) + len(c) % 2]))
def test_prompt_and_response_are_the_whole_rendering(contents: list[str], ours: Tokenizer, theirs: Any) -> None:
    """But for what the template writes behind its end, and for an end that the data itself repeats there."""
    messages = turns(contents)
    expected = [*messages[:-1], messages[-1] | {"content": ours.without_end(messages[-1]["content"])}]
    (found,) = RecordEncoder(ours).pairs([to_record({"messages": messages})])
    assert isinstance(found, list)
    (pair,) = found
    ids = [*pair.prompt_ids.tolist(), *pair.response_ids.tolist()]
    whole = theirs.apply_chat_template(expected, return_dict=False)
    assert ids == whole[: len(ids)]
    assert theirs.decode(whole[len(ids) :]).strip() == ""
    assert ours.ends.is_finished(pair.response_ids)


@QUIET
@given(contents=st.lists(WRITTEN, min_size=4, max_size=4))
def test_of_all_turns_each_begins_where_it_is_prompted_for(contents: list[str], ours: Tokenizer, theirs: Any) -> None:
    messages = turns(contents)
    (found,) = RecordEncoder(ours, train_on="all").pairs([to_record({"messages": messages})])
    assert isinstance(found, list)
    for turn, pair in zip((1, 3), found, strict=True):
        asked = theirs.apply_chat_template(messages[:turn], add_generation_prompt=True, return_dict=False)
        assert pair.prompt_ids.tolist() == asked or pair.prompt_ids.tolist() == asked[: len(pair.prompt_ids)]
        assert theirs.decode(pair.prompt_ids.tolist() + pair.response_ids.tolist()).startswith(theirs.decode(asked))


@QUIET
@given(content=WRITTEN)
def test_kept_texts_hold_no_control_id(content: str, ours: Tokenizer, theirs: Any) -> None:
    """The ids are those of transformers' sanitize_control_tokens, for whatever a user types."""
    tokenizer = with_settings(ours, DataSettings(control_tokens="text"))
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": content}]
    (found,) = RecordEncoder(tokenizer).pairs([to_record({"messages": messages})])
    assert isinstance(found, list)
    (pair,) = found
    ids = [*pair.prompt_ids.tolist(), *pair.response_ids.tolist()]
    whole = theirs.apply_chat_template(messages, return_dict=False, sanitize_control_tokens=True)
    assert ids == whole[: len(ids)]
    written = sum(i in ours.added_tokens.values() for i in ids)
    assert written == 4  # two turns begin, two end


@QUIET
@given(prompt=WRITTEN, response=WRITTEN)
def test_a_prompt_has_its_own_ids_and_the_pair_its_text(prompt: str, response: str, ours: Tokenizer) -> None:
    """Behind any prompt the response decodes to itself, and the prompt is what a model is asked alone."""
    (found,) = RecordEncoder(ours).pairs([Record(prompt_id="a", prompt=prompt, response=response)])
    assert isinstance(found, list)
    (pair,) = found
    assert pair.prompt_ids.tolist() == ours.encode(prompt).tolist()
    written = ours.text([*pair.prompt_ids.tolist(), *pair.response_ids.tolist()])
    ends = [end for end in ("</s>", "<|im_end|>") if response.endswith(end)]
    assert written == prompt + response + ("" if ends else "</s>")


@QUIET
@given(text=WRITTEN, most=st.integers(1, 6))
def test_pieces_of_a_text_are_the_text(text: str, most: int, ours: Tokenizer) -> None:
    found = pieces(text, ours, most)
    parts = [found[0].prompt_ids, *(piece.response_ids for piece in found)] if found else []
    expected = ours.ends.close(ours.encode(text))
    assert len(found) == -(-(len(expected) - 1) // most)
    assert not found or np.concatenate(parts).tolist() == expected.tolist()


KEYS = (
    *("prompt", "response", "completion", "messages", "conversations", "text", "role", "content", "from", "value"),
    *("tools", "id", "sample", "response_ids", "finish_reason", "tool_calls", "chat_template_kwargs", "train"),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None)
@given(row=JSON)
def test_any_row_is_a_record_or_says_why_not(row: Any, directory: Path) -> None:
    try:
        record = to_record(row)
    except BadLine as reason:
        assert str(reason)
        return
    json.dumps(record.prompt)
    found = RecordEncoder(Tokenizer.load(directory)).pairs([record])
    assert all(isinstance(pairs, RecordRefusal | list) for pairs in found)
