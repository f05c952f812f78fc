"""Settings as TOML: every text, number and list comes back as it was."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thack.config import DistillSettings, LossSettings, SamplingSettings, from_dict, to_dict, to_toml
from thack.schema.fields import Help


@dataclass(frozen=True, kw_only=True)
class _Deep:
    value: Annotated[int, Help("a number")] = 1


@dataclass(frozen=True, kw_only=True)
class _Middle:
    text: Annotated[str, Help("a text")] = ""
    deep: Annotated[_Deep, Help("a group")] = field(default_factory=_Deep)


@dataclass(frozen=True, kw_only=True)
class _Root:
    middle: Annotated[_Middle, Help("a group")] = field(default_factory=_Middle)
    name: Annotated[str, Help("a name")] = "x"
    maybe: Annotated[int | None, Help("a number or nothing")] = None
    many: Annotated[tuple[float, ...], Help("numbers")] = ()


def test_keys_come_before_groups_and_groups_are_tables() -> None:
    assert to_toml(_Root()) == 'name = "x"\nmany = []\n\n[middle]\ntext = ""\n\n[middle.deep]\nvalue = 1\n'


def test_an_absent_value_is_left_out_and_comes_back_as_absent() -> None:
    assert "maybe" not in to_toml(_Root())
    assert "maybe = 3" in to_toml(_Root(maybe=3))
    assert from_dict(_Root, tomllib.loads(to_toml(_Root()))).maybe is None


def test_comments_start_in_one_column_where_the_value_is_short() -> None:
    lines = to_toml(SamplingSettings(), comments=True).splitlines()
    assert {line.index(" # ") for line in lines} == {40}
    assert lines[0] == f"{'temperature = 1.0':<40} # sampling temperature; 1 is the model's own distribution"


def test_comments_show_choices_first() -> None:
    line = next(line for line in to_toml(LossSettings(), comments=True).splitlines() if line.startswith("divergence"))
    assert "# forward_kl | reverse_kl | jsd | skewed_kl | total_variation; divergence between" in line


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a b",
        'quo"te',
        "back\\slash",
        "new\nline",
        "tab\t",
        "\x7f",
        "\x00",
        "ünï",
        "日本",
        "# no comment",
        "[x]",
        "'",
    ],
)
def test_texts_with_marks_survive(text: str) -> None:
    instance = DistillSettings(student=text)
    assert tomllib.loads(to_toml(instance, comments=True))["student"] == text


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives(text: str) -> None:
    assert from_dict(_Root, tomllib.loads(to_toml(_Root(name=text)))).name == text


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False)))
def test_any_finite_number_survives_to_the_last_bit(values: list[float]) -> None:
    found = from_dict(_Root, tomllib.loads(to_toml(_Root(many=tuple(values))))).many
    assert [value.hex() for value in found] == [value.hex() for value in values]


@pytest.mark.parametrize("value", [0, -1, 2**63 - 1, 10**15])
def test_whole_numbers_survive(value: int) -> None:
    instance = _Root(middle=_Middle(deep=_Deep(value=value)))
    assert from_dict(_Root, tomllib.loads(to_toml(instance))) == instance


def test_plain_values_are_ready_for_json() -> None:
    found = to_dict(DistillSettings(out=Path("a/b"), tracker=("wandb",)))
    assert (found["out"], found["tracker"]) == ("a/b", ["wandb"])
    assert found["loss"] == to_dict(LossSettings())
    assert list(found) == [name for name in DistillSettings.__dataclass_fields__]
