"""What the files of a model's directory say of its tokenizer beside tokenizer.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from thack.data.eos import Ends, configured_ends
from thack.errors import ModelError

# Carried along unchanged by `Tokenizer.save`: what transformers and vLLM read beside tokenizer.json.
_SIDE_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
)
_TEMPLATES = "additional_chat_templates"  # directory of NAME.jinja
# Special tokens that transformers hands to chat templates by name.
_NAMED = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerFacts:
    """What a tokenizer is, beyond the splitting of text into ids.

    Args:
        ends: the ids that end a response, without that of a chat template.
        pad_id: fills rectangles; never recognised by its value.
        bos_id: begins a text, or None.
        tokens: texts of special tokens that templates use, by name.
        templates: chat templates by name; the usual one is `default`.
        encoder_decoder: prompts go to an encoder and keep the end that the tokenizer writes.
        adds_bos: what tokenizer_config.json says of a BOS before texts; None: nothing.
        side_files: content of the files that belong to the tokenizer, by name.
    """

    ends: Ends
    pad_id: int
    bos_id: int | None = None
    tokens: Mapping[str, str]
    templates: Mapping[str, str]
    encoder_decoder: bool = False
    adds_bos: bool | None = None
    side_files: Mapping[str, bytes]


def read_backend(directory: Path) -> Backend:
    """tokenizer.json of a directory.

    Raises:
        ModelError: there is none, or it is no tokenizer.
    """
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise ModelError(
            f"no tokenizer.json in {directory}",
            hint="save the tokenizer in the fast format, for example "
            "AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)",
        )
    try:
        return Backend.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ModelError(f"{path}: not a tokenizer ({error})") from error


def read_facts(directory: Path, backend: Backend) -> TokenizerFacts:
    """The facts that the files beside tokenizer.json hold.

    Raises:
        ModelError: a file is damaged, or no end-of-sequence token is defined.
    """
    config = _json_object(directory / "tokenizer_config.json")
    special = {**_json_object(directory / "special_tokens_map.json"), **config}
    model, generation = (_json_object(directory / name) for name in ("config.json", "generation_config.json"))
    if generation.get("_from_model_config"):  # never set: it repeats config.json
        model, generation = {**model, **generation}, {}
    configured = {**model, **generation}
    ids = {
        name: _special_id(backend, special.get(f"{name}_token"), configured.get(f"{name}_token_id"))
        for name in ("eos", "pad", "bos")
    }
    eos = ids["eos"]
    if eos is None:
        raise ModelError(
            f"{directory}: no end-of-sequence token is defined",
            hint="name one as eos_token in tokenizer_config.json",
        )
    marked = {i for i, token in backend.get_added_tokens_decoder().items() if token.special}
    others = {
        *configured_ends(generation.get("eos_token_id")),
        *configured_ends(model.get("eos_token_id"), only=marked),
    }
    bos = config.get("add_bos_token")
    return TokenizerFacts(
        ends=Ends(eos=eos, others=frozenset(others - {eos})),
        pad_id=eos if ids["pad"] is None else ids["pad"],
        bos_id=ids["bos"],
        tokens={name: text for name in _NAMED if (text := _text(special.get(name)))},
        templates=_read_templates(directory, config.get("chat_template")),
        encoder_decoder=bool(model.get("is_encoder_decoder")),
        adds_bos=bos if isinstance(bos, bool) else None,
        side_files=_read_side_files(directory),
    )


def _read_side_files(directory: Path) -> dict[str, bytes]:
    names = [name for name in _SIDE_FILES if (directory / name).is_file()]
    extra = sorted((directory / _TEMPLATES).glob("*.jinja")) if (directory / _TEMPLATES).is_dir() else []
    return {
        name: (directory / name).read_bytes() for name in [*names, *(f"{_TEMPLATES}/{path.name}" for path in extra)]
    }


def _read_templates(directory: Path, configured: object) -> dict[str, str]:
    """Chat templates by name: of tokenizer_config.json, or of files of their own, which come first."""
    found: dict[str, str] = {}
    if isinstance(configured, str):
        found["default"] = configured
    for item in configured if isinstance(configured, list) else []:
        if isinstance(item, dict) and isinstance(item.get("name"), str) and isinstance(item.get("template"), str):
            found[item["name"]] = item["template"]
    files = {}
    if (directory / "chat_template.jinja").is_file():
        files["default"] = directory / "chat_template.jinja"
    if (directory / _TEMPLATES).is_dir():
        files |= {path.stem: path for path in sorted((directory / _TEMPLATES).glob("*.jinja"))}
    return {name: path.read_text(encoding="utf-8") for name, path in files.items()} or found


def _json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is no such file."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ModelError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: holds {type(content).__name__}, expected an object")
    return content


def _text(token: object) -> str:
    """The text of a special token, which files write as a text or as an object."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else ""


def _special_id(backend: Backend, token: object, configured: object) -> int | None:
    """The id of a special token: by name from the tokenizer's files, else by id from the model's."""
    found: int | None = backend.token_to_id(_text(token)) if _text(token) else None
    if found is not None:
        return found
    if isinstance(configured, list) and configured:
        configured = configured[0]
    return configured if isinstance(configured, int) and not isinstance(configured, bool) else None
