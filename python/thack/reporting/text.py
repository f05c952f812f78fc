"""Text of a user or a model, as a page may show it."""

from __future__ import annotations

import unicodedata

_BIDI = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # embeddings, overrides, isolates and their ends
_VISIBLE = {ord(mark): f"[{unicodedata.name(mark).lower()}]" for mark in _BIDI}
_CONTROLS = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), 127) if chr(code) not in "\t\n\r"}
_SURROGATES = dict.fromkeys(range(0xD800, 0xE000), "\N{REPLACEMENT CHARACTER}")  # of a file name that is not UTF-8
_TABLE = _VISIBLE | _CONTROLS | _SURROGATES


def printable(text: str) -> str:
    """The text without characters that would act on the page around it.

    Marks that reverse the direction of what follows are written out, so that a name cannot show as another one.
    Control characters and halves of a surrogate pair, which no HTML file may hold, become U+FFFD.

    Example:
        >>> printable("a\u202eb")
        'a[right-to-left override]b'
    """
    return text.translate(_TABLE)


def one_line(value: object) -> str:
    """A value as printable text without line breaks, for files in which a line has a meaning."""
    return " ".join(printable(str(value)).splitlines())


def typeset(value: object) -> str:
    """A value as the page shows it: printable, and without a line break before a percent sign or an arrow."""
    text = printable(str(value)).replace(" %", "\N{NO-BREAK SPACE}%")
    return text.replace(" → ", "\N{NO-BREAK SPACE}→\N{NO-BREAK SPACE}")
