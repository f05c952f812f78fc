"""Two tokenizers side by side: what differs between them, part by part."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from thack.data.tokenizer import Tokenizer

_SHOWN = 3


def differences(one: Tokenizer, other: Tokenizer) -> list[str]:
    """What makes ids mean different things; empty if a text has the same ids in both.

    Vocabulary, merges, text splitting and added tokens are compared. The token that ends a response changes no id.
    """
    if one.fingerprint() == other.fingerprint():
        return []
    a, b = one.meaning(), other.meaning()
    found = _vocabularies(_model(a).pop("vocab", None), _model(b).pop("vocab", None))
    merges = _model(a).pop("merges", None), _model(b).pop("merges", None)
    if merges[0] != merges[1]:
        found.append("merges: " + " and ".join(f"{len(m or ()):,}" for m in merges))
    added = [dict(map(tuple, x["added"])) for x in (a, b)]  # type: ignore[call-overload]
    differing = sorted({*added[0].items()} ^ {*added[1].items()})
    if differing:
        found.append(f"added tokens: {_some(f'{token} ({i})' for i, token in differing)}")
    del a["added"], b["added"]
    split = [key for key in a if a[key] != b[key]]
    if split:
        found.append(f"text splitting: {', '.join(split)}")
    return found


def _model(meaning: dict[str, object]) -> dict[str, Any]:
    model = meaning["model"]
    assert isinstance(model, dict)
    return model


def _vocabularies(one: Any, other: Any) -> list[str]:
    if one == other:
        return []
    a, b = _by_token(one), _by_token(other)
    missing = sorted(token for token in {*a} | {*b} if a.get(token) != b.get(token))
    return [f"vocabulary: {len(a):,} and {len(b):,} tokens, {len(missing):,} differ, such as {_some(missing)}"]


def _by_token(vocabulary: Any) -> dict[str, int]:
    if isinstance(vocabulary, dict):
        return vocabulary
    return {token: i for i, (token, _) in enumerate(vocabulary or ())}  # Unigram: [token, score]


def _some(values: Iterable[str]) -> str:
    given = list(values)
    return ", ".join(given[:_SHOWN]) + (", …" if len(given) > _SHOWN else "")


def closing_token(tokenizer: Tokenizer, *, chat: bool) -> str:
    """The token behind a response: the named end, or in a conversation the template's end of turn, else EOS."""
    ends = tokenizer.ends
    is_turn = chat and ends.turn is not None and not tokenizer.options.end
    return tokenizer.token(ends.turn if is_turn and ends.turn is not None else ends.eos)
