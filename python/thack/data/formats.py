"""Rows of data as records, in the formats that people have.

prompt, response                   text; or response_ids, the ids that a model wrote
prompt, completion                 TRL: text, or lists of messages
messages                           a conversation; with system, tools, documents, chat_template_kwargs, response beside
conversations                      ShareGPT: turns of from and value, the same beside
text                               a raw text, trained on as a whole

Keys of other names are given by `columns.Columns`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from thack.data.columns import OWN, Columns, seen
from thack.data.records import Conversation, Message, Record, prompt_id
from thack.data.rows import BadLine, UnknownKeys
from thack.reading import BadJson, parse_json

_MARKS = ("train", "weight")  # of a turn: whether it is trained
_SPEAKERS = {  # ShareGPT's names of roles
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model"), "assistant"),
    "system": "system",
    **dict.fromkeys(("tool", "observation", "function_response"), "tool"),
    "function_call": "assistant",
}


def to_record(row: object, place: str = "", columns: Columns = OWN) -> Record:
    """One row as a record.

    Raises:
        BadLine: the row is no record of a format that is known here.
    """
    if isinstance(row, BadLine):
        raise row
    if not isinstance(row, Mapping):
        raise BadLine(f"a record is an object, not {type(row).__name__}")
    row = {key: value for key, value in columns.renamed(row).items() if value is not None}
    if "messages" in row:
        return _conversation(row, _begun(row, _messages(row, "messages")), place)
    if "conversations" in row:
        return _conversation(row, _begun(row, _sharegpt(row)), place)
    if isinstance(row.get("prompt"), list):
        return _conversational_pair(row, place)
    if "prompt" in row:
        return _pair(row, place)
    if "text" in row:
        return _raw_text(row, place)
    if "completion" in row:
        raise UnknownKeys("no key `prompt` beside `completion`")
    raise UnknownKeys(f"no key `prompt`, `messages`, `conversations` or `text`; it has {seen(row)}")


def _pair(row: Mapping[str, Any], place: str) -> Record:
    prompt = _text(row, "prompt") or ""
    _refuse_system(row, prompt)
    return Record(
        prompt_id=_id(row, prompt),
        prompt=prompt,
        response=_response(row),
        response_ids=_ids(row),
        stopped=row.get("finish_reason") == "stop",
        was_cut=_was_cut(row),
        sample=given_sample(row),
        teacher_prompt=_teacher_prompt(row),
        place=place,
    )


def _refuse_system(row: Mapping[str, Any], text: str) -> None:
    """A text has no turn for the `system` beside it, which would be lost unless the text holds it."""
    system = row.get("system")
    if system and not (isinstance(system, str) and system in text):
        raise BadLine("`system` stands beside a text, which has no turn for it: give the turns as `messages`")


def _teacher_prompt(row: Mapping[str, Any]) -> str | tuple[Message, ...] | None:
    """A text, or turns."""
    if isinstance(row.get("teacher_prompt"), list):
        turns = _messages(row, "teacher_prompt")
        if turns[-1]["role"] == "assistant":
            raise BadLine("`teacher_prompt` ends with a turn of the assistant: it stands before the response")
        return turns
    return _text(row, "teacher_prompt")


def _was_cut(row: Mapping[str, Any]) -> bool:
    """As servers say it, and as `thack generate` does."""
    return row.get("finish_reason") == "length" or row.get("finished") is False


def _response(row: Mapping[str, Any]) -> str | None:
    """`response`, or TRL's `completion`."""
    if row.get("response") is not None and row.get("completion") is not None:
        raise BadLine("both `response` and `completion`: leave one of them out")
    return _text(row, "response" if row.get("response") is not None else "completion")


def _raw_text(row: Mapping[str, Any], place: str) -> Record:
    text = _text(row, "text")
    if not text:
        raise BadLine("empty text")
    _refuse_system(row, text)
    return Record(
        prompt_id=_id(row, text),
        prompt="",
        response=text,
        is_text=True,
        teacher_prompt=_teacher_prompt(row),
        place=place,
    )


def _conversational_pair(row: Mapping[str, Any], place: str) -> Record:
    prompt = _begun(row, _messages(row, "prompt"))
    answer = _messages(row, "completion") if isinstance(row.get("completion"), list) else ()
    if any(message["role"] == "user" for message in answer):
        raise BadLine("`completion` holds a turn of the user: give the whole conversation as `messages`")
    beside = {key: value for key, value in row.items() if key != "completion" or not answer}
    return _conversation(beside, (*prompt, *answer), place, prompt_turns=len(prompt))


def _conversation(
    row: Mapping[str, Any], messages: tuple[Message, ...], place: str, *, prompt_turns: int = 0
) -> Record:
    """Turns; the last one is the response if the assistant said it, else `response` may hold it."""
    response, response_ids = _response(row), _ids(row)
    if response is not None and response_ids is None:
        if messages[-1]["role"] == "assistant":
            raise BadLine("the assistant has the last turn, and there is a `response` too: leave one of them out")
        messages = (*messages, {"role": "assistant", "content": response})
    conversation = Conversation(
        messages=messages,
        tools=_objects(row, "tools"),
        documents=_objects(row, "documents"),
        template_variables=_object(row, "chat_template_kwargs"),
        prompt_turns=prompt_turns,
    )
    asked = messages[: conversation.num_prompt_turns]
    if not asked:
        raise BadLine("`messages` has no turn before the response")
    prompt = _prompt_text(conversation, asked)
    _check_unicode("messages", prompt + _json(messages[-1:]))
    return Record(
        prompt_id=_id(row, prompt),
        prompt=prompt,
        response=_answer(messages[-1]) if len(asked) < len(messages) else response,
        response_ids=response_ids,
        conversation=conversation,
        stopped=row.get("finish_reason") == "stop",
        was_cut=_was_cut(row),
        sample=given_sample(row),
        teacher_prompt=_teacher_prompt(row),
        place=place,
    )


def _prompt_text(conversation: Conversation, asked: tuple[Message, ...]) -> str:
    """JSON of all that the template is given before the response: what tells one prompt from another."""
    beside = {
        "tools": conversation.tools,
        "documents": conversation.documents,
        "chat_template_kwargs": dict(conversation.template_variables) or None,
    }
    given = {key: value for key, value in beside.items() if value is not None}
    turns = f"[{', '.join(_json(_in_order(turn)) for turn in asked)}]"  # turn by turn: copies of all would be large
    return f'{{"messages": {turns}, {_json(given)[1:]}' if given else turns


def _in_order(turn: Message) -> Message:
    """Role and content first, marks left out: the same turn has the same text."""
    first = {key: turn[key] for key in ("role", "content") if key in turn}
    return {**first, **{key: value for key, value in turn.items() if key not in (*first, *_MARKS)}}


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _answer(message: Message) -> str | None:
    """The text of the assistant's turn; None where it says nothing at all."""
    content = message.get("content")
    if isinstance(content, str) and content:
        return content
    rest = {key: value for key, value in message.items() if key not in ("role", *_MARKS) and value}
    return _json(rest) if rest else None


def _messages(row: Mapping[str, Any], key: str) -> tuple[Message, ...]:
    """Turns, every key of them kept but those without a value: a template may use any."""
    messages = row[key]
    if not isinstance(messages, list) or not messages:
        raise BadLine(f"`{key}` is not a list of turns")
    turns = []
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise BadLine(f"turn {number} of `{key}` is no object with a role")
        is_whole = all(value is not None for value in message.values())
        turn = message if is_whole else {k: v for k, v in message.items() if v is not None}
        if not isinstance(turn.get("content", ""), str | list):
            raise BadLine(f"turn {number} of `{key}`: `content` is {type(turn['content']).__name__}, not text or parts")
        if not turn.keys() - {"role", "name", *_MARKS}:
            raise BadLine(f"turn {number} of `{key}` has no `content`")
        _check_parts(turn, f"turn {number} of `{key}`")
        turns.append(turn)
    return tuple(turns)


def _begun(row: Mapping[str, Any], messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The turns behind the `system` that stands beside them, unless they begin with it."""
    system = row.get("system")
    if not system or (messages[0]["role"] == "system" and messages[0].get("content") == system):
        return messages
    if messages[0]["role"] == "system":
        raise BadLine("`system`, and another turn of the system in the conversation: leave one of them out")
    return (*_messages({"system": [{"role": "system", "content": system}]}, "system"), *messages)


def _check_parts(turn: Mapping[str, Any], what: str) -> None:
    """Parts of text alone: pictures and sounds would be left out of the ids."""
    content = turn.get("content")
    for part in content if isinstance(content, list) else []:
        if not isinstance(part, str) and not (isinstance(part, Mapping) and part.get("type", "text") == "text"):
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise BadLine(f"{what} has a part of type {kind}: thack reads text alone")


def _sharegpt(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """`conversations`: turns of `from` and `value`, or of `role` and `content`."""
    turns = row["conversations"]
    if isinstance(turns, list) and turns and isinstance(turns[0], Mapping) and "role" in turns[0]:
        return _messages(row, "conversations")
    if not isinstance(turns, list) or not turns:
        raise BadLine("`conversations` is not a list of turns")
    found: list[Message] = []
    for number, turn in enumerate(turns):
        speaker = turn.get("from") if isinstance(turn, Mapping) else None
        if speaker not in _SPEAKERS:
            known = ", ".join(_SPEAKERS)
            raise BadLine(f"turn {number} of `conversations`: `from` is {speaker!r}, not one of {known}")
        if not isinstance(turn.get("value"), str):
            raise BadLine(f"turn {number} of `conversations` has no text `value`")
        beside = {key: value for key, value in turn.items() if key not in ("from", "value")}
        called = speaker == "function_call"
        said = {"content": "", "tool_calls": _calls(turn["value"], number)} if called else {"content": turn["value"]}
        found.append({**beside, "role": _SPEAKERS[speaker], **said})
    return _messages({"conversations": found}, "conversations")


def _calls(text: str, number: int) -> list[Message]:
    """The `value` of a `function_call`, one call or a list of them, as `tool_calls`."""
    what = f"turn {number} of conversations"
    given = _loaded(text, what)
    calls = given if isinstance(given, list) else [given]
    if not calls or not all(isinstance(call, Mapping) and isinstance(call.get("name"), str) for call in calls):
        raise BadLine(f"{what} is no call with a `name` and `arguments`")
    return [{"type": "function", "function": call} for call in calls]


def _objects(row: Mapping[str, Any], key: str) -> tuple[Mapping[str, object], ...] | None:
    """A list of objects, which a column may hold as JSON; None where it is empty."""
    values = _loaded(row.get(key), key)
    if values in (None, [], ""):
        return None
    if not isinstance(values, list) or not all(isinstance(value, Mapping) for value in values):
        raise BadLine(f"`{key}` is not a list of objects")
    return tuple(values)


def _object(row: Mapping[str, Any], key: str) -> Mapping[str, object]:
    value = _loaded(row.get(key), key)
    if value is not None and not isinstance(value, Mapping):
        raise BadLine(f"`{key}` is not an object")
    return value or {}


def _loaded(value: Any, key: str) -> Any:
    if not isinstance(value, str) or not value.strip():
        return value or None
    try:
        return parse_json(value, strict=False)
    except BadJson:
        raise BadLine(f"`{key}` is a text, but not of JSON") from None


def _text(row: Mapping[str, Any], key: str) -> str | None:
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        raise BadLine(f"`{key}` is not text but {type(value).__name__}")
    _check_unicode(key, value or "")
    return value


def _check_unicode(key: str, text: str) -> None:
    """JSON may escape half of a pair of surrogates, which no encoding and no tokenizer knows."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start].encode("ascii", "backslashreplace").decode()
        raise BadLine(f"`{key}` is not text: it holds {half}, half of a character") from None


def _id(row: Mapping[str, Any], prompt: str) -> str:
    given = given_name(row, "id")
    return prompt_id(prompt) if given is None else given


def given_name(row: Mapping[str, Any], key: str) -> str | None:
    """The name of a prompt under this key; None where it is missing or null.

    Raises:
        BadLine: it is no name.
    """
    value = row.get(key)
    if value is None:
        return None
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise BadLine(f"`{key}` is neither text nor a whole number")
    _check_unicode(key, str(value))
    return str(value)


def given_sample(row: Mapping[str, Any]) -> int:
    """Which of a prompt's responses this is; part of the names of its random numbers."""
    value = row.get("sample")
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 31:
        raise BadLine("`sample` is not a whole number from 0 on")
    return value


def _ids(row: Mapping[str, Any]) -> tuple[int, ...] | None:
    values = row.get("response_ids")
    if values is None:
        return None
    whole = isinstance(values, list) and all(isinstance(v, int) and not isinstance(v, bool) for v in values)
    if not whole or any(not 0 <= v < 1 << 31 for v in values):
        raise BadLine("`response_ids` is not a list of token ids")
    return tuple(values)
