"""How the texts of tokens are split before merging, by shapes: tokens of one shape are split alike.

The patterns of byte-level tokenizers look at classes of characters (letters by case, marks, digits, spaces, line ends),
at apostrophes and slashes, and at the letters of contractions. So a token's characters are replaced by one of their
class, and runs are shortened. The split of two tokens is then a table over pairs of shapes, filled in by the
`tokenizers` library itself. A pattern that looks at anything else is refused.
"""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np

from thack.cross_tokenizer.bpe import Bpe, characters, pre_tokenizer_of
from thack.errors import MismatchError
from thack.reading import parse_json

OTHER, JOINED, CUT = 0, 1, 2
_ATOM = re.compile(
    r"\\p\{(?:L|N|Lu|Ll|Lt|Lm|Lo|M)\}|\\s|\\S|\\r|\\n|\(\?i:|\(\?!|\(\?=|\{1,3\}|[][()|?*+^ '/sdmtlvreSDMTLVRE]"
)
_CONTRACTION = frozenset("sdmtlvreSDMTLVRE\u017f")
_SPACES = frozenset("\t\x0b\x0c\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000") | {chr(c) for c in range(0x2000, 0x200B)}
_KEPT = frozenset(" \n\r'/")
_CLASS = {"Lu": "X", "Ll": "x", "Lt": "\u01c5", "Lm": "\u02b0", "Lo": "\xaa"}
_LETTERS = frozenset(_CLASS.values())
_MARK = "\u0300"
_VISIBLE = "\x01"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LONGEST = 3  # a run of one character


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The split of any two tokens.

    Args:
        shape_V: int32 [ids] shape of each id; ids without text have shape 0.
        table_SS: uint8 [shapes, shapes] JOINED: the texts of both are one piece. CUT: two pieces that meet between
            them. OTHER: anything else.
    """

    shape_V: np.ndarray
    table_SS: np.ndarray


@dataclass(frozen=True, slots=True)
class Alphabet:
    """Which characters a pre-tokenizer tells apart."""

    cased: bool  # letters by their categories, and marks
    slash: bool
    contractions: bool  # of either case where `cased` is False
    fold: bool

    def shape(self, token: bytes) -> str:
        """The token with each character replaced by one of its class, and runs shortened."""
        text, _ = characters(token)
        near = 2  # letters behind an apostrophe, which may stand in the token before
        found = []
        for c in text:
            is_kept = near > 0 and self.contractions and c in _CONTRACTION
            found.append((c.lower() if self.fold else c) if is_kept else self._class(c))
            near = 2 if c == "'" else near - 1 if is_kept else 0
        return "".join(c * _shortened(c, len([*run])) for c, run in groupby(found))

    def _class(self, c: str) -> str:
        found = _class(c)
        if not self.cased:
            found = "x" if found in _LETTERS else "!" if found == _MARK else found
        return "!" if found == "/" and not self.slash else found


def alphabet_of(bpe: Bpe) -> Alphabet:
    """What the pre-tokenizer looks at.

    Raises:
        MismatchError: it looks at more than an alphabet can say; names the part.
    """
    parts = _parts(None if bpe.pre_tokenizer is None else parse_json(bpe.pre_tokenizer, strict=False))
    patterns = "|".join(_pattern(part) for part in parts)
    cased = re.search(r"\\p\{[LM][ultmo]?\}", patterns.replace(r"\p{L}", "")) is not None
    contractions = "'s" in patterns
    return Alphabet(cased, "/" in patterns, contractions, contractions and not cased and "(?i:" in patterns)


def _pattern(part: Any) -> str:
    kind = part["type"]
    if kind == "ByteLevel" and not part.get("add_prefix_space"):
        return _GPT2 if part.get("use_regex", True) else ""
    if kind == "Digits":
        return r"\p{N}"
    pattern = part["pattern"].get("Regex", "") if kind == "Split" else ""
    if not pattern or part["behavior"] != "Isolated" or part["invert"] or _ATOM.sub("", pattern):
        raise MismatchError(
            f"the pre-tokenizer {json.dumps(part)[:120]} cannot be analysed: it looks at more than letters, digits, "
            "spaces, line ends and contractions",
            hint="take a student whose tokenizer splits text as GPT-2, Llama 3, Qwen or Mistral do",
        )
    return str(pattern)


def _parts(content: Any) -> list[Any]:
    if content is None:
        return []
    if content["type"] == "Sequence":
        return [p for part in content["pretokenizers"] for p in _parts(part)]
    return [content]


def _shortened(c: str, size: int) -> int:
    if size <= _LONGEST:
        return size
    return _LONGEST + size % _LONGEST if c.isnumeric() else _LONGEST


@lru_cache(maxsize=1 << 17)
def _class(c: str) -> str:
    if c in _KEPT:
        return c
    if c in _SPACES:
        return "\t"
    category = unicodedata.category(c)
    return _MARK if category[0] == "M" else "1" if category[0] == "N" else _CLASS.get(category, "!")


def splits_of(bpe: Bpe) -> Splits:
    """Fill in the table by the library: about 10 µs for a pair of shapes."""
    alphabet = alphabet_of(bpe)
    numbers: dict[str, int] = {"": 0}
    shape_V = np.array(
        [numbers.setdefault(alphabet.shape(token or b""), len(numbers)) for token in bpe.bytes_V], np.int32
    )
    shapes = [*numbers]
    if bpe.pre_tokenizer is None:
        return Splits(shape_V=shape_V, table_SS=np.full((len(shapes), len(shapes)), JOINED, np.uint8))
    pre = pre_tokenizer_of(bpe.pre_tokenizer).pre_tokenizer
    whole = [len(pre.pre_tokenize_str(text)) <= 1 for text in shapes]
    table_SS = np.zeros((len(shapes), len(shapes)), np.uint8)
    for a, left in enumerate(shapes):
        for b, right in enumerate(shapes) if whole[a] else ():
            if whole[b]:
                table_SS[a, b] = _split(pre, left, right)
    return Splits(shape_V=shape_V, table_SS=table_SS)


def _split(pre: Any, left: str, right: str) -> int:
    """How two shapes are split, with nothing behind them; or behind white space, with a character that is none.

    `\\s+(?!\\S)` splits spaces by what stands behind them. Two pieces allow all that one piece allows.
    """
    found = _pieces(pre, left, right, "")
    if found != CUT and left and right.isspace() and _pieces(pre, left, right, _VISIBLE) == CUT:
        return CUT
    return found


def _pieces(pre: Any, left: str, right: str, behind: str) -> int:
    ends = [end for _, (_, end) in pre.pre_tokenize_str(left + right + behind)]
    inside = [end for end in ends if end < len(left) + len(right)]
    return JOINED if not inside else CUT if inside == [len(left)] else OTHER
