"""How conversations are encoded: read from settings, compared by what differs from the defaults."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from thack.config import DataSettings
from thack.data.chat_options import ChatOptions
from thack.errors import UsageError

NAMED = {"default": "d", "tool_use": "t", "rag": "r"}


def test_the_defaults_change_nothing() -> None:
    assert ChatOptions.of(DataSettings()) == ChatOptions()
    assert ChatOptions().facts() == []


def test_what_differs_is_listed() -> None:
    settings = DataSettings(
        template_variables='{"enable_thinking": false}', date="2024-02-29T08:00", end="<end>", control_tokens="text"
    )
    options = ChatOptions.of(settings)
    assert options.now == datetime(2024, 2, 29, 8)
    assert options.facts() == [
        "variables={'enable_thinking': False}",
        "now=2024-02-29 08:00:00",
        "end=<end>",
        "control_tokens=text",
    ]


@pytest.mark.parametrize(
    ("template", "with_tools", "expected"),
    [("", False, "d"), ("", True, "t"), ("rag", True, "r"), ("none", False, None), ("{{ own }}", False, "{{ own }}")],
)
def test_a_template_is_chosen_by_name(template: str, with_tools: bool, expected: str | None) -> None:
    assert ChatOptions(template=template).choose(NAMED, with_tools=with_tools) == expected


def test_without_a_template_for_tools_the_default_one_gets_them() -> None:
    assert ChatOptions().choose({"default": "d"}, with_tools=True) == "d"
    assert ChatOptions().choose({}, with_tools=True) is None


def test_a_template_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_text("{{ file }}")
    assert ChatOptions.of(DataSettings(chat_template=str(tmp_path / "t.jinja"))).template == "{{ file }}"
    with pytest.raises(UsageError, match=r"data\.chat_template: .* does not exist"):
        ChatOptions.of(DataSettings(chat_template=str(tmp_path / "u.jinja")))
