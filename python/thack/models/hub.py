"""A model by its name on the Hugging Face hub: a snapshot on this machine, and the commit that it is.

`org/name`, or `org/name@revision` with a branch, a tag or a commit. A directory of that name always wins.
Only configuration, safetensors and tokenizer files are fetched: no pickles, no code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from thack.data.model_files import PATTERNS
from thack.errors import ModelError
from thack.files import directory_kind

_HUB_ID = re.compile(r"(?P<name>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a model's files lie, and what to call it: its directory, or `org/name@commit`."""

    directory: Path
    origin: str


def locate(name: Path | str, *, fetch: bool = True) -> Source:
    """The directory of that name, or the hub's snapshot of it; raises ModelError if there is neither.

    `fetch` False: of the hub, only what is on this machine already.
    """
    directory = Path(name).expanduser()
    if directory.is_dir():
        return Source(directory=_model_in(directory), origin=str(name))
    if directory.is_file() and directory.suffix == ".gguf":
        raise ModelError(f"{name} is a GGUF file, not a model directory", hint=gguf_advice(directory))
    match = _HUB_ID.fullmatch(str(name))
    # A mistyped directory is not asked for on the network: its parent stands here.
    if match is None or directory.parent.is_dir():
        raise ModelError(
            f"no such model directory: {name}",
            hint="give a directory that holds config.json, or a name on the hub, such as org/name",
        )
    snapshot = _snapshot(match["name"], match["revision"], fetch)
    return Source(directory=snapshot, origin=f"{match['name']}@{snapshot.name}")


def gguf_advice(path: Path) -> str:
    """How a GGUF file becomes a directory that thack loads."""
    return (
        "convert it once (pip install gguf): AutoModelForCausalLM.from_pretrained("
        f"'{path.parent}', gguf_file='{path.name}').save_pretrained(OUT), and AutoTokenizer alike"
    )


def _model_in(directory: Path) -> Path:
    """A run of ours stands for the model that it ended with; any other directory for itself."""
    if (directory / "config.json").is_file() or directory_kind(directory) != "run":
        return directory
    if not (directory / "model").is_dir():
        raise ModelError(
            f"{directory} is a run that has not finished: it has no model yet",
            hint=f"run its command again, or give one of {directory / 'checkpoints'}/step_*",
        )
    return directory / "model"


def _snapshot(name: str, revision: str | None, fetch: bool) -> Path:
    try:
        from huggingface_hub import constants, snapshot_download
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ImportError as error:
        raise ModelError(
            f"no such model directory: {name}", hint="models from the hub need transformers: pip install 'thack[hf]'"
        ) from error
    label = name if revision is None else f"{name}@{revision}"
    try:
        found = snapshot_download(name, revision=revision, allow_patterns=list(PATTERNS), local_files_only=not fetch)
        return Path(found)
    except GatedRepoError as error:
        raise ModelError(
            f"{label} is gated on the hub", hint="accept its terms there, and run: hf auth login"
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(f"{name} has no revision {revision} on the hub") from error
    except RepositoryNotFoundError as error:
        raise ModelError(f"neither a directory nor a model on the hub: {name}", hint="check its name") from error
    except LocalEntryNotFoundError as error:
        if not fetch:
            raise ModelError(f"{label} is not on this machine", hint=f"fetch it: hf download {name}") from error
        if constants.HF_HUB_OFFLINE:
            raise ModelError(
                f"{label} is not on this machine, and HF_HUB_OFFLINE forbids to fetch it",
                hint=f"fetch it where there is a network (hf download {name}), or unset HF_HUB_OFFLINE",
            ) from error
        raise _unreachable(label, error) from error
    except (HfHubHTTPError, OSError) as error:
        raise _unreachable(label, error) from error


def _unreachable(label: str, error: Exception) -> ModelError:
    reason = str(error).strip().splitlines()
    return ModelError(
        f"{label} is not a directory here, and the hub does not give it",
        details=reason[:1],
        hint="give a directory, or fetch it where there is a network and copy it here",
    )
