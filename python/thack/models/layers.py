"""A smaller model out of some layers of another: the start of a teacher or student that is to be fine-tuned.

Embedding, final norm and head stay; the layers that are left out are dropped without any correction, so that the result
is far worse than the model that it comes from until it has been trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from thack.errors import UsageError
from thack.files import atomic_directory
from thack.models.directory import read_config
from thack.models.load import load_native
from thack.models.native.architecture import Architecture

_COUNT = "num_hidden_layers"
_PER_LAYER = ("layer_types",)


def check_layers(directory: Path, layers: Sequence[int]) -> None:
    """Refuse layers that a model directory does not have, and directories whose layers cannot be told apart.

    Raises:
        UsageError: they do not ascend, or the model has fewer.
        UnsupportedArchitecture: it is not of the Llama family.
    """
    count = Architecture.read(read_config(directory)).num_layers
    if list(layers) != sorted(set(layers)) or not layers or not 0 <= layers[0] <= layers[-1] < count:
        shown = ", ".join(map(str, layers))
        raise UsageError(
            f"layers {shown} of {directory}: it has {count}, numbered from 0 to {count - 1}",
            hint="name each layer that is kept once, in ascending order",
        )


def keep_layers(directory: Path, layers: Sequence[int], out: Path) -> None:
    """Write the model in `directory` with some of its layers, in the number format of its weights.

    Args:
        directory: A model of the Llama family.
        layers: The numbers of the layers that stay, ascending from 0.
        out: The model directory to write; one that is there is replaced.

    Raises:
        UsageError: as of `check_layers`.
        ModelError: the directory is incomplete, or of another family.
    """
    check_layers(directory, layers)
    model = load_native(directory, Architecture.read(read_config(directory)), device="cpu", dtype=torch.float32)
    architecture = model.architecture
    model.architecture = replace(
        architecture, num_layers=len(layers), source=_of_layers(architecture.source, layers, architecture.num_layers)
    )
    model.blocks = nn.ModuleList(model.blocks[i] for i in layers)
    with atomic_directory(out, replace=True) as temporary:
        model.save(temporary, dtype=model.facts.dtype)


def _of_layers(config: Mapping[str, Any], layers: Sequence[int], count: int) -> dict[str, Any]:
    """config.json with as many layers; a list with an entry for each layer keeps those of the layers that stay."""
    listed = {key: config[key] for key in _PER_LAYER if isinstance(config.get(key), list)}
    kept = {key: [values[i] for i in layers] for key, values in listed.items() if len(values) == count}
    return {**config, **kept, _COUNT: len(layers)}
