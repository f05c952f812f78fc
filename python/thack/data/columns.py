"""Keys and columns of a user's own names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from thack.config import DataSettings
from thack.data.rows import UnknownKeys


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The user's own names of keys or columns; empty: the names of the formats above.

    Args:
        prompt: of the prompt or the conversation: a text, or a list of turns.
        response: of the response.
        teacher_prompt: of a prompt that the teacher alone reads.
    """

    prompt: str = ""
    response: str = ""
    teacher_prompt: str = ""

    @classmethod
    def of(cls, settings: DataSettings) -> Columns:
        """Those that `settings` name."""
        return cls(
            prompt=settings.prompt_key, response=settings.response_key, teacher_prompt=settings.teacher_prompt_key
        )

    def renamed(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """`row` under the names of the formats.

        Raises:
            BadLine: the row has no such key.
        """
        found = dict(row)
        if self.prompt:
            prompt = _taken(row, "prompt_key", self.prompt)
            found = {key: value for key, value in found.items() if key not in (*_PROMPTS, self.prompt)}
            found[_prompt_format(prompt, has_response=bool(self.response))] = prompt
        if self.response:
            response = _taken(row, "response_key", self.response)
            found = {key: value for key, value in found.items() if key not in (*_RESPONSES, self.response)}
            found["completion" if isinstance(response, list) else "response"] = response
        if self.teacher_prompt:
            found["teacher_prompt"] = _taken(row, "teacher_prompt_key", self.teacher_prompt)
        return found


OWN = Columns()  # the names of the formats
_PROMPTS = ("prompt", "messages", "conversations", "text")
_RESPONSES = ("response", "completion", "response_ids")


def _taken(row: Mapping[str, Any], setting: str, key: str) -> Any:
    if key not in row:
        raise UnknownKeys(f"no key `{key}`, which `data.{setting}` names; it has {seen(row)}")
    return row[key]


def _prompt_format(value: object, *, has_response: bool) -> str:
    """The key under which a prompt stands: a list of turns holds its response too, unless that has a key of its own."""
    if not isinstance(value, list) or has_response:
        return "prompt"
    speaks = bool(value) and isinstance(value[0], Mapping) and "from" in value[0]
    return "conversations" if speaks else "messages"


def seen(row: Mapping[str, Any]) -> str:
    """The keys of a row, for an error."""
    return ", ".join(map(str, row)) or "no key at all"
