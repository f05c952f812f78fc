"""Settings are strict, complete in their complaints, and survive a round trip."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest

from thack.config import CacheSettings, DistillSettings, LossSettings, SftSettings, checked, from_dict, load_settings
from thack.errors import DataError, UsageError
from thack.schema.fields import AtLeast, Each, Help


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
    sizes: Annotated[tuple[int, ...], Each(AtLeast(1)), Help("sizes")] = ()
    length: Annotated[int | None, AtLeast(1), Help("length")] = None
    inner: _Inner = field(default_factory=lambda: _Inner(size=7))


def test_layers_win_in_order(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('epochs = 2\nbatch_size = 4\nseed = 1\n[loss]\ndivergence = "jsd"\n')
    (tmp_path / "b.toml").write_text("epochs = 3\n")
    loaded = load_settings(
        DistillSettings,
        [tmp_path / "a.toml", tmp_path / "b.toml"],
        ["batch_size=8"],
        {"seed": 9, "out": None},
    )
    assert (loaded.epochs, loaded.batch_size, loaded.seed) == (3, 8, 9)
    assert loaded.loss.divergence == "jsd"
    assert loaded.out == Path("runs/distill")


def test_nested_group_keeps_the_defaults_its_parent_chose() -> None:
    loaded = load_settings(SftSettings, [], ["optimizer.warmup_steps=7"])
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
        load_settings(DistillSettings, [], [*sets, "nonsense"], {"out": 3})
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
    assert getattr(load_settings(DistillSettings, [], [text]), key) == value


def test_a_near_miss_in_a_list_is_named() -> None:
    with pytest.raises(UsageError, match=r"tracker = \[.*did you mean wandb\?"):
        load_settings(DistillSettings, [], ['tracker=["tensorboard", "wanb"]'])


def test_lists_and_fractions() -> None:
    loaded = load_settings(CacheSettings, [], ["temperatures=[1, 2.5]"])
    assert loaded.temperatures == (1.0, 2.5)
    with pytest.raises(UsageError, match=r"temperatures = .*a list, each more than 0"):
        load_settings(CacheSettings, [], ["temperatures=[-1]"])
    with pytest.raises(UsageError, match="must be a list, each a number"):
        load_settings(CacheSettings, [], ["temperatures=2"])


@pytest.mark.parametrize("text", ["flag=1", "needed=true", "mode=1", "inner.size=nan", "many=[inf]", "maybe=x"])
def test_types_are_not_bent(text: str) -> None:
    with pytest.raises(UsageError, match="must be"):
        load_settings(_Outer, [], [text], {"needed": 1} if "needed" not in text else {})


def test_required_optional_and_nested_defaults() -> None:
    with pytest.raises(UsageError, match="needed is required"):
        load_settings(_Outer)
    outer = load_settings(_Outer, [], ["needed=1", "maybe=2", "inner.name=n"])
    assert (outer.maybe, outer.inner) == (2.0, _Inner(size=7, name="n"))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        load_settings(DistillSettings, [tmp_path / "none.toml"])
    (tmp_path / "bad.toml").write_text("a = = 1")
    with pytest.raises(DataError, match="not TOML"):
        load_settings(DistillSettings, [tmp_path / "bad.toml"])
    with pytest.raises(DataError, match="cannot be read"):
        load_settings(DistillSettings, [tmp_path])
    (tmp_path / "key.toml").write_text("epoch = 1")
    with pytest.raises(UsageError, match=r"epoch: no such key; did you mean epochs\? \(in .*key.toml\)"):
        load_settings(DistillSettings, [tmp_path / "key.toml"])


def test_wrong_values_are_not_reported_as_missing_too() -> None:
    with pytest.raises(UsageError) as caught:
        load_settings(_Outer, [], ["needed=x"])
    assert caught.value.details == ('needed = "x": must be a whole number (in `sets` needed=x)',)


def test_bounds_are_checked_item_by_item_and_not_on_an_absent_value() -> None:
    assert load_settings(_Outer, [], ["sizes=[1, 2]"], {"needed": 1}).sizes == (1, 2)
    with pytest.raises(UsageError, match=r"sizes = \[1, 0\]: must be a list, each 1 or more"):
        load_settings(_Outer, [], ["sizes=[1, 0]"], {"needed": 1})
    assert load_settings(_Outer, [], [], {"needed": 1}).length is None


def test_a_whole_number_too_large_for_a_fraction_is_refused() -> None:
    with pytest.raises(UsageError, match="must be a number"):
        load_settings(LossSettings, [], [f"weight=1{'0' * 400}"])


def test_from_dict_refuses_what_is_not_there_and_what_is_wrong() -> None:
    with pytest.raises(UsageError, match="not the settings of _Outer") as caught:
        from_dict(_Outer, {"flag": 1, "nothing": 2})
    assert [detail.split(":")[0].split(" = ")[0] for detail in caught.value.details] == [
        "flag",
        "nothing",
        "needed is required (a whole number)",
    ]


def test_a_name_that_is_not_utf8_is_refused_by_name() -> None:
    """Settings are written as TOML, which has no place for it."""
    for value in (Path("runs/\udcff"), "runs/\udcff"):
        with pytest.raises(UsageError, match=r"out = 'runs/\\udcff': not UTF-8"):
            checked(DistillSettings(out=value))  # type: ignore[arg-type]
