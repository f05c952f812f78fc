"""Settings are strict, complete in their complaints, and survive a round trip."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thack.config import describe, from_dict, load, settings, to_dict, to_toml
from thack.config.bounds import RULES
from thack.config.settings import CacheSettings, DistillSettings, SftSettings
from thack.errors import DataError, UsageError

ALL = [
    value
    for name, value in vars(settings).items()
    if name.endswith("Settings") and is_dataclass(value) and isinstance(value, type)
]


@dataclass(frozen=True, kw_only=True)
class _Inner:
    size: int = 3
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class _Outer:
    needed: int
    maybe: float | None = None
    many: tuple[float, ...] = ()
    where: Path = Path("x")
    flag: bool = False
    mode: Literal["fast", "slow"] = "fast"
    inner: _Inner = field(default_factory=lambda: _Inner(size=7))


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_round_trips_and_comments(cls: type[Any], tmp_path: Path) -> None:
    instance = cls()
    assert from_dict(cls, to_dict(instance)) == instance
    for comments in (False, True):
        (tmp_path / "c.toml").write_text(to_toml(instance, comments=comments))
        assert load(cls, [tmp_path / "c.toml"]) == instance


def test_layers_win_in_order(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('epochs = 2\nbatch_size = 4\nseed = 1\n[loss]\ndivergence = "jsd"\n')
    (tmp_path / "b.toml").write_text("epochs = 3\n")
    loaded = load(
        DistillSettings,
        [tmp_path / "a.toml", tmp_path / "b.toml"],
        ["batch_size=8"],
        {"seed": 9, "out": None},
    )
    assert (loaded.epochs, loaded.batch_size, loaded.seed) == (3, 8, 9)
    assert loaded.loss.divergence == "jsd"
    assert loaded.out == Path("runs/distill")


def test_nested_group_keeps_the_defaults_its_parent_chose() -> None:
    loaded = load(SftSettings, [], ["optimizer.warmup_steps=7"])
    assert loaded.optimizer.warmup_steps == 7
    assert loaded.optimizer.learning_rate == SftSettings().optimizer.learning_rate != 1e-3


def test_all_mistakes_at_once_with_key_value_and_accepted() -> None:
    sets = [
        "learning_rate=3",
        "loss.divergance=jsd",
        "loss.divergence=jdd",
        "batch_size=0",
        "epochs=1.5",
        "source=1",
    ]
    with pytest.raises(UsageError) as caught:
        load(DistillSettings, [], [*sets, "nonsense"], {"out": 3})
    text = str(caught.value)
    assert "8 settings are wrong" in text
    assert "learning_rate: no such key; did you mean optimizer.learning_rate?" in text
    assert "loss.divergance: no such key; did you mean loss.divergence?" in text
    assert 'loss.divergence = "jdd": must be forward_kl | reverse_kl' in text
    assert "did you mean jsd?" in text
    assert "batch_size = 0: must be 1 or more" in text
    assert "epochs = 1.5: must be a whole number" in text
    assert "source is a group of keys" in text
    assert "nonsense: not of the form key=value" in text


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("student=1e3", "student", "1e3"),
        ("student=a=b", "student", "a=b"),
        ('student="quoted"', "student", "quoted"),
        ("student=true", "student", "true"),
        ("out=7", "out", Path("7")),
        ("profile=true", "profile", True),
        ("steps = 5", "steps", 5),
    ],
)
def test_set_values_follow_the_type_of_the_key(text: str, key: str, value: object) -> None:
    assert getattr(load(DistillSettings, [], [text]), key) == value


def test_lists_and_fractions() -> None:
    loaded = load(CacheSettings, [], ["temperatures=[1, 2.5]"])
    assert loaded.temperatures == (1.0, 2.5)
    with pytest.raises(UsageError, match=r"temperatures = .*a list of numbers above 0"):
        load(CacheSettings, [], ["temperatures=[-1]"])
    with pytest.raises(UsageError, match="must be a list, each a number"):
        load(CacheSettings, [], ["temperatures=2"])


@pytest.mark.parametrize("text", ["flag=1", "needed=true", "mode=1", "inner.size=nan", "many=[inf]", "maybe=x"])
def test_types_are_not_bent(text: str) -> None:
    with pytest.raises(UsageError, match="must be"):
        load(_Outer, [], [text], {"needed": 1} if "needed" not in text else {})


def test_required_optional_and_nested_defaults() -> None:
    with pytest.raises(UsageError, match="needed is required"):
        load(_Outer)
    outer = load(_Outer, [], ["needed=1", "maybe=2", "inner.name=n"])
    assert (outer.maybe, outer.inner) == (2.0, _Inner(size=7, name="n"))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        load(DistillSettings, [tmp_path / "none.toml"])
    (tmp_path / "bad.toml").write_text("a = = 1")
    with pytest.raises(DataError, match="not TOML"):
        load(DistillSettings, [tmp_path / "bad.toml"])
    with pytest.raises(DataError, match="cannot be read"):
        load(DistillSettings, [tmp_path])
    (tmp_path / "key.toml").write_text("epoch = 1")
    with pytest.raises(UsageError, match=r"epoch: no such key; did you mean epochs\? \(in .*key.toml\)"):
        load(DistillSettings, [tmp_path / "key.toml"])


def test_describe_has_every_key_with_its_comment() -> None:
    found = {setting.key: setting for setting in describe(DistillSettings)}
    assert found["loss.divergence"].accepts.startswith("forward_kl | ")
    assert found["optimizer.clip_norm"].help == "0: no clipping"
    assert found["steps"].default == 0


def test_every_rule_of_bounds_names_an_existing_key() -> None:
    names = {entry.name for cls in ALL for entry in fields(cls)}
    assert set(RULES) <= names


@given(st.text())
def test_any_text_survives_toml(text: str) -> None:
    import tomllib

    instance = DistillSettings(student=text.encode(errors="ignore").decode())
    assert from_dict(DistillSettings, tomllib.loads(to_toml(instance))) == instance
