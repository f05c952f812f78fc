"""Pair tests, first tokens and settledness against brute force, and against the `tokenizers` library."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thack.cross_tokenizer import Bpe, build_cells, read_bpe
from thack.cross_tokenizer.encoder import Encoder
from thack.data.tokenizer import Tokenizer

from .small import small

GPT2 = '{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}'
ALPHABET = b"ab '1\n\xc3\xa9"
TOKENIZERS = [small(290), small(320, code=True), small(320, digits=True)]


def random_bpe(merges: list[tuple[int, int]], *, pre_tokenizer: str | None, ignore_merges: bool) -> Bpe:
    """The alphabet alone, and a token for each new merge of the ids that `merges` takes modulo those known so far."""
    tokens = [bytes([byte]) for byte in ALPHABET]
    ids: list[tuple[int, int, int]] = []
    for left, right in merges:
        a, b = left % len(tokens), right % len(tokens)
        merged = tokens[a] + tokens[b]
        if len(merged) > 5:
            continue
        if merged not in tokens:
            tokens.append(merged)
        if (a, b) not in [(x, y) for x, y, _ in ids]:
            ids.append((a, b, tokens.index(merged)))
    return Bpe(
        fingerprint=repr((tokens, ids, pre_tokenizer, ignore_merges)),
        bytes_V=(*tokens, None),
        merges_M3=np.array(ids, np.int32).reshape(-1, 3),
        ignore_merges=ignore_merges,
        roles={"eos": len(tokens)},
        pre_tokenizer=pre_tokenizer,
    )


BPES = st.builds(
    random_bpe,
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), max_size=14),
    pre_tokenizer=st.sampled_from([None, GPT2]),
    ignore_merges=st.booleans(),
)


def text_ids(bpe: Bpe) -> list[int]:
    return [i for i, token in enumerate(bpe.bytes_V) if token]


def pairs_of(encoder: Encoder) -> np.ndarray:
    """bool [ids, ids] by the definition."""
    tokens = encoder.bpe.bytes_V
    rows = [[stand(encoder, a or b"", b or b"", [i, j]) for j, b in enumerate(tokens)] for i, a in enumerate(tokens)]
    return np.array(rows)


def stand(encoder: Encoder, a: bytes, b: bytes, pair: list[int]) -> bool:
    """With nothing behind them, or behind white space with a visible character, which the alphabet lacks."""
    if encoder.encode(a + b) == pair:
        return True
    text = a + b + b"\x01"
    inside = [start for start in encoder.split(text) if 0 < start < len(a + b)]
    return b.isspace() and inside == [len(a)] and [encoder.encode(a), encoder.encode(b)] == [pair[:1], pair[1:]]


def is_text(data: bytes) -> bool:
    return data == data.decode("utf-8", "ignore").encode()


def wrong_pairs(encoder: Encoder) -> Iterator[tuple[bytes, bytes]]:
    ids, tokens = text_ids(encoder.bpe), encoder.bpe.bytes_V
    found = encoder.can(np.arange(len(tokens))[:, None], np.arange(len(tokens))[None])
    exact = pairs_of(encoder)
    for i, j in product(ids, ids):
        a, b = tokens[i], tokens[j]
        if a and b and found[i, j] != exact[i, j] and is_text(a + b):
            yield a, b


@settings(max_examples=40, deadline=None)
@given(BPES)
def test_the_pair_test_is_that_of_the_definition(bpe: Bpe) -> None:
    assert [*wrong_pairs(Encoder(bpe))] == []


@settings(max_examples=40, deadline=None)
@given(BPES, BPES)
def test_first_tokens_and_settledness_are_those_of_brute_force(teacher: Bpe, student: Bpe) -> None:
    cells = build_cells(teacher, student)
    ids, tokens = text_ids(teacher), [token or b"" for token in teacher.bytes_V]
    for v in ids:
        encoded = cells.student.encode(tokens[v])
        assert cells.first_V_T[v] == encoded[0]
        changes = {
            changed[0]
            for w in ids
            if is_text(text := tokens[v] + tokens[w])
            and cells.teacher.encode(text) == [v, w]
            and (changed := cells.student.encode(text))[0] != encoded[0]
        }
        if changes:
            assert not cells.settled(np.array(v)), (tokens[v], changes)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_the_pair_test_is_that_of_the_library(tokenizer: Tokenizer) -> None:
    bpe = read_bpe(tokenizer)
    encoder, draw = Encoder(bpe), np.random.default_rng(0)
    ids = [i for i in text_ids(bpe) if is_text(bpe.bytes_V[i] or b"")]
    pairs = draw.choice(ids, (4000, 2))
    found = encoder.can(pairs[:, 0], pairs[:, 1])
    texts = [((bpe.bytes_V[a] or b"") + (bpe.bytes_V[b] or b"")).decode() for a, b in pairs]
    exact = [ids.tolist() == pair.tolist() for ids, pair in zip(tokenizer.encode_batch(texts), pairs, strict=True)]
    wrong = [text for text, a, b in zip(texts, found, exact, strict=True) if a != b]
    assert [text for text in wrong if not text[-1].isspace()] == []


def test_line_breaks_before_a_word_may_stand_apart() -> None:
    """GPT-2's pattern leaves the last of several spaces or line breaks to what follows them."""
    tokenizer = small(290)
    ids = tokenizer.encode("\n\nx")
    assert len(ids) == 3
    assert Encoder(read_bpe(tokenizer)).can(ids[:-1], ids[1:]).all()
