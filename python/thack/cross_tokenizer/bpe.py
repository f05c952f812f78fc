"""A tokenizer as bytes and merges: what the comparison of two vocabularies needs, and what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
from tokenizers import Tokenizer as Backend

from thack.data.tokenizer import Tokenizer
from thack.errors import MismatchError
from thack.reading import parse_json

_BYTE = re.compile("<0x[0-9A-F]{2}>")
# Changes few texts; `align` refuses a response whose bytes it changes.
_HARMLESS = ("NFC",)
_LETTER = "\u02bc"  # stands for a byte that is no UTF-8: a letter without case
_SPACE = "\u2581"  # SentencePiece writes a space so


@dataclass(frozen=True, kw_only=True)
class Bpe:
    """A byte-level BPE, or one of SentencePiece with byte fallback.

    Args:
        fingerprint: of the tokenizer.
        bytes_V: the bytes of each id; None: the id is no text (control tokens, holes).
        merges_M3: int32 [M, 3] left, right and merged id of each merge, by rank.
        ignore_merges: a piece of text that is a token is that token, whatever the merges say.
        byte_ids: ids that stand for a byte of a character that the vocabulary lacks (SentencePiece); empty: every
            byte is a token that merges.
        added: ids of added tokens that are text.
        roles: ids by role: `eos`, and `turn` where the chat template has an end of its own.
        pre_tokenizer: as tokenizer.json has it; None: text is not split before merging.
    """

    fingerprint: str
    bytes_V: tuple[bytes | None, ...]
    merges_M3: np.ndarray
    ignore_merges: bool = False
    byte_ids: frozenset[int] = frozenset()
    added: frozenset[int] = frozenset()
    roles: Mapping[str, int]
    pre_tokenizer: str | None = None

    @property
    def size(self) -> int:
        """Number of ids, holes included."""
        return len(self.bytes_V)

    @cached_property
    def id_of(self) -> dict[bytes, int]:
        """The id that the encoder gives to these bytes as one token."""
        found: dict[bytes, int] = {}
        for i, token in enumerate(self.bytes_V):
            if token is not None and i not in self.added and (token not in found or i not in self.byte_ids):
                found[token] = i
        return found


def read_bpe(tokenizer: Tokenizer) -> Bpe:
    """Take a tokenizer apart.

    Raises:
        MismatchError: it is of a kind whose tokens cannot be compared by their bytes.
    """
    content = tokenizer.meaning()
    model = cast("dict[str, object]", content["model"])
    _refuse(model, content)
    vocab = cast("dict[str, int]", model["vocab"])
    fallback = bool(model.get("byte_fallback"))
    pre = cast("Mapping[str, object] | None", content.get("pre_tokenizer"))
    tokens: list[bytes | None] = [None] * tokenizer.size
    for text, i in vocab.items():
        tokens[i] = _fallback_bytes(text) if fallback else _byte_level_bytes(text)
    added: set[int] = set()
    for text, i in tokenizer.added_tokens.items():
        if i >= tokenizer.size:  # the model has no row for it
            continue
        is_text = text not in tokenizer.special_tokens
        tokens[i] = text.encode() if is_text else None
        added.update({i} if is_text else ())
    return Bpe(
        fingerprint=tokenizer.fingerprint(),
        bytes_V=tuple(tokens),
        merges_M3=_merges(model, vocab),
        ignore_merges=bool(model.get("ignore_merges")),
        byte_ids=frozenset(i for text, i in vocab.items() if fallback and _BYTE.fullmatch(text)),
        added=frozenset(added),
        roles=_roles(tokenizer),
        pre_tokenizer=None if pre is None or _splits_nothing(pre) else json.dumps(pre),
    )


def _parts(content: object) -> list[dict[str, object]]:
    """A normalizer's parts, sequences taken apart."""
    if not isinstance(content, dict):
        return []
    inner = content.get("normalizers") if content.get("type") == "Sequence" else None
    return [content] if inner is None else [p for part in inner for p in _parts(part)]


def _writes_spaces(part: Mapping[str, object]) -> bool:
    """SentencePiece's own sign for a space, which is a space again in a token's bytes."""
    if part["type"] == "Prepend":
        return part.get("prepend") == _SPACE
    return part["type"] == "Replace" and (part.get("pattern"), part.get("content")) == ({"String": " "}, _SPACE)


def _splits_nothing(pre: Mapping[str, object]) -> bool:
    """SentencePiece's sign for a space, written by the pre-tokenizer instead of the normalizer."""
    return pre["type"] == "Metaspace" and pre.get("replacement") == _SPACE and pre.get("split") is False


def _roles(tokenizer: Tokenizer) -> dict[str, int]:
    ends = tokenizer.ends
    found = {"eos": tokenizer.eos_id}
    return found if ends.turn is None else {"eos": ends.eos, "turn": ends.turn}


def _refuse(model: Mapping[str, object], content: Mapping[str, object]) -> None:
    kind = model.get("type")
    if kind not in ("BPE", None) or "merges" not in model:
        raise MismatchError(
            f"a {kind} tokenizer cannot be compared with another one: only BPE is",
            hint="give teacher and student one tokenizer, or take a student with a byte-level BPE",
        )
    for part in _parts(content.get("normalizer")):
        if part["type"] not in _HARMLESS and not _writes_spaces(part):
            raise MismatchError(
                f"the normalizer {part['type']} changes the bytes of a text, by which tokenizers are compared",
                hint="take a student whose tokenizer keeps the text as it is",
            )
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise MismatchError(
                f"a BPE tokenizer with {name} = {model[name]!r} cannot be compared with another one",
                hint="its tokens do not follow from the bytes of a text; take another student",
            )


def _merges(model: Mapping[str, object], vocab: Mapping[str, int]) -> np.ndarray:
    found = []
    for merge in cast("list[str | list[str]]", model["merges"]):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        found.append((vocab[left], vocab[right], vocab[left + right]))
    return np.array(found, np.int32).reshape(-1, 3)


def _alphabet() -> dict[str, int]:
    """GPT-2's printable character of each byte, inverted."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}


_BYTE_OF = _alphabet()


def _byte_level_bytes(text: str) -> bytes | None:
    found = [_BYTE_OF.get(c) for c in text]
    return None if None in found else bytes(cast("list[int]", found))


def _fallback_bytes(text: str) -> bytes:
    if _BYTE.fullmatch(text):
        return bytes([int(text[3:5], 16)])
    return text.replace(_SPACE, " ").encode()


def pre_tokenizer_of(json_text: str) -> Backend:
    """A tokenizer with this pre-tokenizer alone."""
    model = {"type": "BPE", "vocab": {}, "merges": []}
    return Backend.from_str(
        json.dumps({"version": "1.0", "model": model, "pre_tokenizer": parse_json(json_text, strict=False)})
    )


def characters(data: bytes) -> tuple[str, list[int]]:
    """The characters, a letter for each byte that belongs to none; and where each begins, the end last."""
    text = data.decode("utf-8", "surrogateescape")
    places = [0]
    for c in text:
        places.append(places[-1] + (1 if "\udc80" <= c <= "\udcff" else len(c.encode())))
    return "".join(_LETTER if "\udc80" <= c <= "\udcff" else c for c in text), places
