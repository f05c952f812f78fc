"""The experiments that come with thack, and a user's own: TOML files in recipes/, or anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib.resources import as_file, files
from pathlib import Path

from thack.config import load_settings
from thack.config.experiment import ExperimentSettings
from thack.errors import UsageError

RECIPES = ("demo", "quick", "laptop", "diversity", "causes", "onset", "on-policy", "tokenizers", "real", "gpu", "paper")
#: Recipes that change another one, which is read first.
_ON_TOP_OF = {
    "diversity": "laptop",
    "causes": "quick",
    "onset": "laptop",
    "on-policy": "laptop",
    "tokenizers": "laptop",
}


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
        with ExitStack() as stack:
            recipes = files("thack.experiments") / "recipes"
            names = [_ON_TOP_OF[name], name] if name in _ON_TOP_OF else [name]
            paths = [stack.enter_context(as_file(recipes / f"{one}.toml")) for one in names]
            return load_settings(ExperimentSettings, [*paths, *config], sets, overrides)
    own = Path(name)
    if not own.is_file():
        raise UsageError(
            f"there is no recipe {name!r}, and no file of that name",
            hint=f"recipes: {', '.join(RECIPES)}; or the path of a TOML file",
        )
    return load_settings(ExperimentSettings, [own, *config], sets, overrides)
