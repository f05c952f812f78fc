"""What the files of a model's directory say of its tokenizer beside tokenizer.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer as Backend

from thack.data.eos import Ends, configured_ends
from thack.data.model_files import TEMPLATES, model_file, read_file, read_object, read_text
from thack.data.template_meter import TEMPLATE_BYTES
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
_MOST_ADDED = 64  # special tokens around a text
_OWN_TOKENS = ("extra_special_tokens", "model_specific_special_tokens")  # of one model, where they are objects


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
        rows: embeddings of the model, where it has fewer than the tokenizer ids; None: it has one of each.
        adds_bos: what tokenizer_config.json says of a BOS before texts; None: nothing.
        side_files: content of the files that belong to the tokenizer, by name.
    """

    ends: Ends
    pad_id: int
    bos_id: int | None = None
    tokens: Mapping[str, str]
    templates: Mapping[str, str]
    encoder_decoder: bool = False
    rows: int | None = None
    adds_bos: bool | None = None
    side_files: Mapping[str, bytes]


def read_backend(directory: Path) -> Backend:
    """tokenizer.json of a directory.

    Raises:
        ModelError: there is none, or it is no tokenizer.
    """
    path = model_file(directory, "tokenizer.json")
    if path is None:
        raise ModelError(
            f"no tokenizer.json in {directory}",
            hint="save the tokenizer in the fast format, for example "
            "AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)",
        )
    try:
        found = Backend.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ModelError(f"{path}: not a tokenizer ({error})") from error
    if (added := found.num_special_tokens_to_add(is_pair=False)) > _MOST_ADDED:
        raise ModelError(f"{path}: its post_processor puts {added:,} special tokens around each text")
    return found


def read_facts(directory: Path, backend: Backend) -> TokenizerFacts:
    """The facts that the files beside tokenizer.json hold.

    Raises:
        ModelError: a file is damaged, or no end-of-sequence token is defined.
    """
    config = read_object(directory, "tokenizer_config.json") or {}
    special = {**(read_object(directory, "special_tokens_map.json") or {}), **config}
    model, generation = (read_object(directory, name) or {} for name in ("config.json", "generation_config.json"))
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
        *_known(backend, generation.get("eos_token_id")),
        *configured_ends(model.get("eos_token_id"), only=marked),
    }
    bos = config.get("add_bos_token")
    return TokenizerFacts(
        ends=Ends(eos=eos, others=frozenset(others - {eos})),
        pad_id=eos if ids["pad"] is None else ids["pad"],
        bos_id=ids["bos"],
        tokens=_tokens(special),
        templates=_read_templates(directory, config.get("chat_template")),
        encoder_decoder=bool(model.get("is_encoder_decoder")),
        adds_bos=bos if isinstance(bos, bool) else None,
        side_files=_read_side_files(directory),
    )


def _read_side_files(directory: Path) -> dict[str, bytes]:
    names = [*_SIDE_FILES, *_own_templates(directory)]
    return {name: content for name in names if (content := read_file(directory, name)) is not None}


def _own_templates(directory: Path) -> list[str]:
    """Names of the templates that are files of their own beside chat_template.jinja."""
    return sorted(f"{TEMPLATES}/{path.name}" for path in (directory / TEMPLATES).glob("*.jinja"))


def _read_templates(directory: Path, configured: object) -> dict[str, str]:
    """Chat templates by name: of tokenizer_config.json, or of files of their own, which come first."""
    found: dict[str, str] = {}
    if isinstance(configured, str):
        found["default"] = configured
    for item in configured if isinstance(configured, list) else []:
        if isinstance(item, dict) and isinstance(item.get("name"), str) and isinstance(item.get("template"), str):
            found[item["name"]] = item["template"]
    names = {"default": "chat_template.jinja"} | {Path(name).stem: name for name in _own_templates(directory)}
    files = {name: text for name, file in names.items() if (text := read_text(directory, file)) is not None}
    if too_long := [name for name, text in found.items() if len(text) > TEMPLATE_BYTES]:
        raise ModelError(f"{directory}: the chat template {too_long[0]!r} has more than {TEMPLATE_BYTES:,} characters")
    return files or found


def _text(token: object) -> str:
    """The text of a special token, which files write as a text or as an object."""
    if isinstance(token, dict):
        token = token.get("content")
    is_text = isinstance(token, str) and not any("\ud800" <= letter <= "\udfff" for letter in token)
    return str(token) if is_text else ""  # half of a surrogate pair is no text


def _tokens(special: Mapping[str, object]) -> dict[str, str]:
    """Special tokens by name, as transformers hands them to chat templates: bos_token, image_token, …"""
    named = {name: token for name, token in special.items() if name.endswith("_token")}
    for own in map(special.get, _OWN_TOKENS):
        named |= own if isinstance(own, dict) else {}
    return {name: text for name, token in named.items() if (text := _text(token))}


def _special_id(backend: Backend, token: object, configured: object) -> int | None:
    """The id of a special token: by name from the tokenizer's files, else by id from the model's."""
    found: int | None = backend.token_to_id(_text(token)) if _text(token) else None
    return next(iter(_known(backend, configured)), None) if found is None else found


def _known(backend: Backend, configured: object) -> list[int]:
    """The ids that a model's file names, without those that are no token's, such as -1: they are never written."""
    return [i for i in configured_ends(configured) if 0 <= i < 1 << 32 and backend.id_to_token(i)]
