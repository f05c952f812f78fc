"""The chat templates of real models, as TRL ships them: ids and masks are those of transformers for every one."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from thack.data.encode import RecordEncoder
from thack.data.formats import to_record
from thack.data.records import RecordRefusal
from thack.data.tokenizer import Tokenizer as Ours

from .small import write_files

transformers = pytest.importorskip("transformers")

_SPEC = find_spec("trl")
DIRECTORY = Path(_SPEC.submodule_search_locations[0]) / "chat_templates" if _SPEC else Path("no trl")  # type: ignore[index]
TEMPLATES = sorted(path.stem for path in DIRECTORY.glob("*.jinja"))
CONTROL = re.compile(r"<\|[\w:]+\|>|<｜[^｜]+｜>|<(?:start|end)_of_turn>|<turn\|>|<\|turn>|\[gMASK\]|<sop>")

SYSTEM, ASKED = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 2+2? "}
TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"x": {}}}},
}
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
CALLS = {"role": "assistant", "content": "", "tool_calls": [CALL]}
CHATS: dict[str, list[dict[str, Any]]] = {
    "plain": [ASKED, {"role": "assistant", "content": "It is 4."}],
    "system": [SYSTEM, ASKED, {"role": "assistant", "content": "It is 4."}],
    "two": [ASKED, {"role": "assistant", "content": "4"}, ASKED, {"role": "assistant", "content": "again 4"}],
    "reasoning": [ASKED, {"role": "assistant", "content": "4", "reasoning_content": "add them"}],
    "think": [ASKED, {"role": "assistant", "content": "<think>\nadd\n</think>\n\n4"}],
    "tool": [ASKED, CALLS, {"role": "tool", "name": "f", "content": "7"}, {"role": "assistant", "content": "seven"}],
    "call": [ASKED, CALLS],
}

# These write another end behind the last turn than behind an earlier one. Each turn is trained as a last one.
CLOSES_LAST_TURN_OTHERWISE = {"gptoss_training", "phi3_training", "phi3_5_training"}


SKIPPED: list[object] = [pytest.param("", marks=pytest.mark.skip(reason="no trl"))]


@pytest.fixture(scope="module", params=TEMPLATES or SKIPPED)
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of bytes that knows the template's control tokens."""
    source = (DIRECTORY / f"{request.param}.jinja").read_text()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    names = ["<s>", "</s>", *sorted(set(CONTROL.findall(source)))]
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    backend.add_tokens([AddedToken(name, normalized=False) for name in ("<think>", "</think>", "</tool_call>")])
    return write_files(backend, tmp_path_factory.mktemp(request.param or "none"), source, None, None, None)


@pytest.mark.parametrize("chat", CHATS)
def test_ids_and_mask_are_those_of_transformers(directory: Path, chat: str) -> None:
    messages, tools = CHATS[chat], [TOOL] if chat in ("tool", "call") else None
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    ours = Ours.load(directory)
    row = {"messages": messages} | ({"tools": tools} if tools else {})
    (found,) = RecordEncoder(ours).pairs([to_record(row)])
    template = ours.template()
    assert template is not None
    try:
        whole = theirs.apply_chat_template(
            messages, tools=tools, return_dict=True, return_assistant_tokens_mask=template.marks_generation
        )
    except Exception:  # whatever the template raises
        assert isinstance(found, RecordRefusal)
        return
    assert not isinstance(found, RecordRefusal)
    (pair,) = found
    ids = [*pair.prompt_ids.tolist(), *pair.response_ids.tolist()]
    if template.marks_generation:
        assert ids == whole["input_ids"][: len(ids)]
        assert np.flatnonzero(whole["assistant_masks"])[-len(pair.response_ids) :].tolist() == list(
            range(len(pair.prompt_ids), len(ids))
        )
        return
    # An end that the template does not write is added; what it writes behind an end is not trained.
    assert ids[:-1] == whole["input_ids"][: len(ids) - 1] and len(ids) - 1 <= len(whole["input_ids"])
    behind = ours._backend.decode(whole["input_ids"][len(ids) :], skip_special_tokens=True)
    assert not behind.strip()
    prompt = theirs.apply_chat_template(messages[:-1], tools=tools, add_generation_prompt=True, return_dict=False)
    assert not pair.continues or pair.prompt_ids.tolist() == prompt


def test_all_turns_are_what_the_template_marks(directory: Path) -> None:
    ours = Ours.load(directory)
    template = ours.template()
    assert template is not None
    if not template.marks_generation:
        return
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    messages = CHATS["two"]
    (found,) = RecordEncoder(ours, train_on="all").pairs([to_record({"messages": messages})])
    try:
        whole = theirs.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    except Exception:  # a template for pictures
        assert isinstance(found, RecordRefusal)
        return
    assert not isinstance(found, RecordRefusal) and len(found) == 2
    wholes = [[*pair.prompt_ids.tolist(), *pair.response_ids.tolist()] for pair in found]
    if any(ids != whole["input_ids"][: len(ids)] for ids in wholes):
        assert directory.name.rstrip("0123456789") in CLOSES_LAST_TURN_OTHERWISE
        return
    mask = np.zeros(len(whole["input_ids"]), dtype=int)
    for pair in found:
        mask[len(pair.prompt_ids) : len(pair.prompt_ids) + len(pair.response_ids)] = 1
    assert mask.tolist() == whole["assistant_masks"]
