"""How conversations and control tokens are encoded: the part of `DataSettings` that a tokenizer follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Literal

from thack.config import DataSettings
from thack.data.template_meter import TEMPLATE_BYTES
from thack.errors import DataError, UsageError
from thack.reading import BadJson, parse_json, read_text


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatOptions:
    """Read from settings by `of`.

    Args:
        template: name of a chat template, or its text; empty: `tool_use` for conversations with tools, else `default`.
        variables: variables of the template, such as enable_thinking.
        now: what a template takes for the present; None: the time of the call.
        end: token that ends a response given as text; empty: the tokenizer's.
        control_tokens: what a control token that is written out in a text becomes.
        teacher_system: system text that the teacher alone reads.
        teacher_template: text around a prompt, with `{prompt}`, that the teacher alone reads.
    """

    template: str = ""
    variables: Mapping[str, object] = field(default_factory=dict)
    now: datetime | None = None
    end: str = ""
    control_tokens: Literal["control", "text"] = "control"
    teacher_system: str = ""
    teacher_template: str = ""

    @classmethod
    def of(cls, settings: DataSettings) -> ChatOptions:
        """The options that the settings of a data set name.

        Raises:
            UsageError: template_variables is not a JSON object, date is no date, or chat_template no file.
        """
        template = settings.chat_template
        if template.endswith(".jinja"):
            try:
                template = read_text(Path(template), TEMPLATE_BYTES)
            except DataError as error:
                raise UsageError(f"data.chat_template: {error.message}", hint=error.hint) from error
        return cls(
            template=template,
            variables=_variables(settings.template_variables),
            now=_date(settings.date),
            end=settings.end,
            control_tokens=settings.control_tokens,
            teacher_system=settings.teacher_system,
            teacher_template=settings.teacher_template,
        )

    def facts(self) -> list[str]:
        """What differs from the defaults, as text: two equal lists give equal ids."""
        defaults = ChatOptions()
        return [
            f"{field.name}={getattr(self, field.name)}"
            for field in fields(self)
            if getattr(self, field.name) != getattr(defaults, field.name)
        ]

    def choose(self, templates: Mapping[str, str], *, with_tools: bool) -> str | None:
        """The text of the template to use; None: there is none."""
        if self.template:
            return templates.get(self.template) or (self.template if "{" in self.template else None)
        return (templates.get("tool_use") if with_tools else None) or templates.get("default")


def _variables(text: str) -> Mapping[str, object]:
    if not text:
        return {}
    try:
        found = parse_json(text)
    except BadJson as error:
        raise UsageError(f"data.template_variables: {error}", hint='for example {"enable_thinking": false}') from error
    if not isinstance(found, dict):
        raise UsageError("data.template_variables is not a JSON object", hint='for example {"enable_thinking": false}')
    return found


def _date(text: str) -> datetime | None:
    if not text:
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"data.date = {text!r} is no date", hint="for example 2026-11-29 or 2026-11-29T12:00"
        ) from None
