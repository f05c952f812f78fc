"""Every settings class: help on every key, defaults within bounds, and a round trip of any instance."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import thack.config
from thack.config import (
    DistillSettings,
    ExperimentSettings,
    SftSettings,
    describe,
    fields_of,
    from_dict,
    load_settings,
    to_dict,
    to_toml,
)
from thack.config.reference import REQUIRED

from .strategies import settings_of

ALL = [value for name, value in sorted(vars(thack.config).items()) if name.endswith("Settings")]
each_class = pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)


@each_class
def test_every_key_has_help_in_one_short_line(cls: type[Any]) -> None:
    for setting in describe(cls):
        text = setting.field.help
        assert 4 <= len(text) <= 110, setting.key
        assert text == text.strip() and not text.endswith(".") and "\n" not in text, setting.key


@each_class
def test_every_default_is_within_its_bound_and_among_its_choices(cls: type[Any]) -> None:
    for setting in describe(cls):
        field, default = setting.field, setting.default
        assert default is not REQUIRED and default is not None, setting.key
        assert field.bound is None or field.bound.accepts(default), setting.key
        chosen = map(str, default if isinstance(default, tuple) else [default])
        assert not field.choices or set(chosen) <= set(field.choices), setting.key
        assert from_dict(cls, _nested(setting.key, to_plain(default))) == cls()


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def to_plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value


@each_class
def test_every_number_has_a_bound(cls: type[Any]) -> None:
    numbers = [setting for setting in describe(cls) if setting.field.type in (int, float)]
    unbound = [setting.key for setting in numbers if setting.field.bound is None]
    assert not [key for key in unbound if not key.startswith("thresholds.")], "a threshold may be any number"


@each_class
def test_every_class_says_what_it_is(cls: type[Any]) -> None:
    assert cls.__doc__ and not cls.__doc__.startswith(f"{cls.__name__}("), "the docstring that dataclass writes"


@each_class
@given(data=st.data())
@hypothesis_settings(
    max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate]
)
def test_any_instance_survives_toml_and_json(cls: type[Any], data: st.DataObject) -> None:
    instance = data.draw(settings_of(cls))
    for comments in (False, True):
        assert from_dict(cls, tomllib.loads(to_toml(instance, comments=comments))) == instance
    assert from_dict(cls, to_dict(instance)) == instance


@each_class
def test_toml_comments_hold_choices_and_help(cls: type[Any], tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(to_toml(cls(), comments=True))
    assert load_settings(cls, [tmp_path / "c.toml"]) == cls()
    lines = (tmp_path / "c.toml").read_text().splitlines()
    for line in lines:
        assert not line or line.startswith("[") or " # " in line
    for name, field in fields_of(cls).items():
        if field.choices:
            assert any(line.startswith(f"{name} = ") and " | ".join(field.choices) in line for line in lines)


def test_a_group_keeps_the_defaults_of_its_parent() -> None:
    found = {setting.key: setting.default for setting in describe(SftSettings)}
    assert found["optimizer.learning_rate"] == 1.5e-3
    assert {s.key: s.default for s in describe(DistillSettings)}["optimizer.learning_rate"] == 1e-3


def test_describe_names_types_and_bounds() -> None:
    found = {setting.key: setting.field for setting in describe(DistillSettings)}
    assert found["loss.divergence"].accepts == "forward_kl | reverse_kl | jsd | skewed_kl | total_variation"
    assert found["loss.beta"].accepts == "a number, between 0 and 1"
    assert found["seed"].accepts == "a whole number, between 0 and 2^64 − 1"
    assert found["loss.fused"].accepts == "true or false or auto"
    assert found["out"].accepts == "a path"
    assert {s.key: s.field for s in describe(ExperimentSettings)}["axes.budget"].accepts == (
        "a list, each a whole number, 1 or more"
    )
