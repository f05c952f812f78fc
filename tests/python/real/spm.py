"""A SentencePiece BPE from its .model file, as the tokenizer.json that transformers would write."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

from thack.data.tokenizer import Tokenizer

_SPACE = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
_NORMAL, _CONTROL = 1, 3  # SentencePiece.Type; 2: unknown, 6: byte


def saved_spm(model: Path, directory: Path, *, metaspace: bool = False) -> Tokenizer:
    """Written to a directory, and loaded by thack; it puts a space before a text, as Llama 2's does.

    Spaces are written by the normalizer, or with `metaspace` by the pre-tokenizer, as transformers does with
    `legacy=False`.
    """
    pieces = [*_pieces(model.read_bytes())]
    vocab = {text: i for i, (text, _, _) in enumerate(pieces)}
    content: dict[str, object] = {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": text, "special": True, "normalized": False}
            | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
            for i, (text, _, kind) in enumerate(pieces)
            if kind in (2, _CONTROL)
        ],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, _SPACE]},
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": vocab,
            "merges": _merges({text: score for text, score, kind in pieces if kind == _NORMAL}),
        },
    }
    if metaspace:
        spaces = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}
        content |= {"normalizer": None, "pre_tokenizer": spaces}
    (directory / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}), encoding="utf-8")
    return Tokenizer.load(directory)


def _merges(scores: dict[str, float]) -> list[list[str]]:
    """Two pieces that make up a third are merged by its score; equal ones by the place of the parts."""
    place = {text: n for n, text in enumerate(scores)}
    found = [
        (-score, place[text[:cut]], place[text[cut:]], text[:cut], text[cut:])
        for text, score in scores.items()
        for cut in range(1, len(text))
        if text[:cut] in scores and text[cut:] in scores
    ]
    return [[left, right] for *_, left, right in sorted(found)]


def _pieces(data: bytes) -> Iterator[tuple[str, float, int]]:
    """Text, score and type of each piece: field 1 of the file, with fields 1 to 3."""
    for field, value in _fields(data):
        if field == 1 and isinstance(value, bytes):
            inner = dict(_fields(value))
            text, score = inner[1], inner[2]
            assert isinstance(text, bytes) and isinstance(score, bytes)
            yield text.decode(), struct.unpack("<f", score)[0], int(inner.get(3, _NORMAL))


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Protocol buffers: the number of each field with its varint, its 4 or 8 bytes, or its content."""
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = data[place]
            place += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while place < len(data):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
            continue
        size = {1: 8, 5: 4}.get(key & 7) or varint()
        yield key >> 3, data[place : place + size]
        place += size
