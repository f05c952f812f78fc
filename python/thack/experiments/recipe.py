"""The experiments that come with thack, and a user's own: TOML files in recipes/, or anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path

from thack.config import load_settings
from thack.config.experiment import ExperimentSettings
from thack.errors import UsageError

RECIPES = ("demo", "quick", "laptop", "gpu", "paper")


def load_recipe(
    name: str,
    sets: Sequence[str] = (),
    config: Sequence[Path] = (),
    overrides: Mapping[str, object] | None = None,
) -> ExperimentSettings:
    """A shipped recipe or a user's own TOML file, changed by what follows.

    Args:
        name: One of `RECIPES`, or the path of a TOML file.
        sets: Texts of the form `key=value`, such as `axes.budget=[1, 4]`.
        config: TOML files of further settings.
        overrides: Values by dotted key; None means not given.

    Raises:
        UsageError: there is no such recipe, or a setting is wrong.
        DataError: a file is not TOML.

    Example:
        >>> load_recipe("laptop", ["seeds=[0]"]).seeds
        (0,)
    """
    if name in RECIPES:
        with as_file(files("thack.experiments") / "recipes" / f"{name}.toml") as path:
            return load_settings(ExperimentSettings, [path, *config], sets, overrides)
    own = Path(name)
    if not own.is_file():
        raise UsageError(
            f"there is no recipe {name!r}, and no file of that name",
            hint=f"recipes: {', '.join(RECIPES)}; or the path of a TOML file",
        )
    return load_settings(ExperimentSettings, [own, *config], sets, overrides)
