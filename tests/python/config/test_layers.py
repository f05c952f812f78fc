"""Layers of settings: later ones win, against a naive merge; mistakes of all layers are in one error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from thack.config import (
    CacheSettings,
    DataSettings,
    DistillSettings,
    LossSettings,
    SftSettings,
    checked,
    load_settings,
    to_dict,
)
from thack.errors import UsageError

# Keys with values that differ from their defaults and from each other.
VALUES: dict[str, list[Any]] = {
    "epochs": [2, 3, 4],
    "out": ["a", "b", "c"],
    "student": ["s1", "s2", "1e3"],
    "loss.divergence": ["jsd", "reverse_kl", "skewed_kl"],
    "loss.beta": [0.1, 0.2, 1.0],
    "loss.fused": [True, False, "auto"],
    "source.sampling.temperature": [0.5, 2.0, 3.0],
    "tracker": [["wandb"], ["trackio"], []],
    "guard.on": [True, False, True],
}
LAYER = st.dictionaries(st.sampled_from(sorted(VALUES)), st.integers(0, 2), max_size=4)


def toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value).replace("'", '"')


def merged(layers: list[dict[str, int]]) -> dict[str, Any]:
    """What the layers say together: the last one that names a key."""
    found: dict[str, Any] = {}
    for layer in layers:
        found |= {key: VALUES[key][choice] for key, choice in layer.items()}
    return found


def at(settings: Any, key: str) -> Any:
    for part in key.split("."):
        settings = getattr(settings, part)
    return list(settings) if isinstance(settings, tuple) else str(settings) if isinstance(settings, Path) else settings


@given(implied=LAYER, files=st.lists(LAYER, max_size=2), sets=LAYER, overrides=LAYER)
@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_later_layers_win(
    implied: dict[str, int],
    files: list[dict[str, int]],
    sets: dict[str, int],
    overrides: dict[str, int],
    tmp_path: Path,
) -> None:
    paths = [tmp_path / f"{number}.toml" for number in range(len(files))]
    for path, layer in zip(paths, files, strict=True):
        path.write_text("".join(f"{key} = {toml(VALUES[key][choice])}\n" for key, choice in layer.items()))
    found = load_settings(
        DistillSettings,
        paths,
        [f"{key}={toml(VALUES[key][choice])}" for key, choice in sets.items()],
        {key: VALUES[key][choice] for key, choice in overrides.items()},
        {"seed": {key: VALUES[key][choice] for key, choice in implied.items()}},
    )
    expected = merged([implied, *files, sets, overrides])
    default = DistillSettings()
    for key in VALUES:
        assert at(found, key) == expected.get(key, at(default, key)), key


def test_a_key_that_is_none_was_not_given() -> None:
    assert load_settings(DistillSettings, overrides={"epochs": None, "out": None}) == DistillSettings()


def test_two_keys_that_imply_different_values_are_refused_unless_one_is_given() -> None:
    implied = {"epochs": {"loss.beta": 0.1}, "seed": {"loss.beta": 0.2}}
    assert (
        load_settings(LossSettings, sets=["beta=0.3"], implied={"skew": {"beta": 0.1}, "add": {"beta": 0.2}}).beta
        == 0.3
    )
    with pytest.raises(UsageError) as caught:
        load_settings(DistillSettings, implied=implied)
    assert caught.value.details == (
        "`epochs` asks for loss.beta = 0.1, `seed` for 0.2: give one of them, or `loss.beta` too",
    )
    assert load_settings(DistillSettings, implied=implied | {"seed": {"loss.beta": 0.1}}).loss.beta == 0.1


@pytest.mark.parametrize("text", ["2024-01-01", "12:30:00", "2024-01-01T12:30:00", "1e3", "true", "0x10", "{a = 1}"])
def test_a_text_that_toml_would_read_as_something_else_stays_text(text: str) -> None:
    found = load_settings(DistillSettings, sets=[f"{key}={text}" for key in ("out", "student", "cache", "data.path")])
    assert (str(found.out), found.student, found.cache, found.data.path) == (text,) * 4


def test_tables_and_dotted_keys_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("[loss]\nbeta = 0.1\n[source.sampling]\ntop_k = 5\n")
    (tmp_path / "b.toml").write_text("loss.beta = 0.1\nsource.sampling.top_k = 5\n")
    found = [load_settings(DistillSettings, [tmp_path / name]) for name in ("a.toml", "b.toml")]
    assert found[0] == found[1] != DistillSettings()


def test_the_mistakes_of_all_layers_are_listed_with_their_place(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("epochs = 0\n")
    with pytest.raises(UsageError) as caught:
        load_settings(DistillSettings, [tmp_path / "a.toml"], ["seed=-1"], {"device": 7})
    assert caught.value.details == (
        f"epochs = 0: must be 1 or more (in {tmp_path}/a.toml)",
        "seed = -1: must be between 0 and 2^64 − 1 (in `sets` seed=-1)",
        "device = 7: must be text",
    )


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [
        ("epoch", "epochs"),
        ("beta", "loss.beta"),
        ("learning_rate", "optimizer.learning_rate"),
        ("loss.divergance", "loss.divergence"),
        ("los", "loss"),
        ("source.sampling.temprature", "source.sampling.temperature"),
        ("sampling.top_k", "source.sampling"),
        ("evaldata", "eval_data"),
        ("batchsize", "batch_size"),
        ("zzz", None),
    ],
)
def test_an_unknown_key_is_guessed(key: str, suggestion: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        load_settings(DistillSettings, sets=[f"{key}=1"])
    (detail,) = caught.value.details
    said = f"; did you mean {suggestion}?" if suggestion else ""
    assert detail.startswith(f"{key.split('.')[0] if key.startswith('sampling') else key}: no such key{said} (in ")


@pytest.mark.parametrize("text", ["", "=", "=3", "epochs", " = 2"])
def test_a_text_without_a_key_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not of the form key=value"):
        load_settings(DistillSettings, sets=[text])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('tracker=["wandb", "trackio"]', ("wandb", "trackio")),
        ("tracker=[]", ()),
        ('tracker = ["wandb"]', ("wandb",)),
    ],
)
def test_lists_are_toml(text: str, value: tuple[str, ...]) -> None:
    assert load_settings(DistillSettings, sets=[text]).tracker == value


def test_checked_converts_paths_and_refuses_what_the_loader_would() -> None:
    settings = DistillSettings(out="runs/a", student="s")  # type: ignore[arg-type]  # as Python users write it
    assert checked(settings).out == Path("runs/a")
    for wrong in (
        DistillSettings(epochs=0),
        DistillSettings(epochs=1.5),  # type: ignore[arg-type]
        DistillSettings(loss=LossSettings(divergence="kl")),  # type: ignore[arg-type]
        CacheSettings(temperatures=(0.0,)),
        SftSettings(data=DataSettings(limit=-1)),
    ):
        with pytest.raises(UsageError, match="must be"):
            checked(wrong)


def test_checked_leaves_good_settings_alone() -> None:
    for settings in (DistillSettings(), SftSettings(), CacheSettings(temperatures=(0.5, 2.0))):
        assert checked(settings) == settings
        assert to_dict(checked(settings)) == to_dict(settings)


def test_a_settings_object_of_another_shape_is_refused() -> None:
    with pytest.raises(UsageError, match="not the settings of DistillSettings"):
        checked(DistillSettings(loss=DataSettings()))  # type: ignore[arg-type]
