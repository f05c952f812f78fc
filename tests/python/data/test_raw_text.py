"""Raw texts: cut into pieces of which every token is predicted once, each from what stands before it."""

from __future__ import annotations

from pathlib import Path

import pytest

from thack.config import DataSettings
from thack.data.prepare import prepare
from thack.data.raw_text import pieces
from thack.data.tokenizer import Tokenizer
from thack.errors import DataError

from .small import BOS_ID, EOS_ID, byte_ids, write_rows, write_tokenizer

TEXT = "abcdefg"


@pytest.mark.parametrize("most", [1, 2, 3, 8, 100])
def test_every_token_is_predicted_once(most: int, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write_tokenizer(tmp_path, around="<s> $A"))
    found = pieces(TEXT, tokenizer, most)
    whole = [*byte_ids(TEXT), EOS_ID]
    assert [i for piece in found for i in piece.response_ids.tolist()] == whole
    assert all(len(piece.response_ids) == most for piece in found[:-1])
    done = 0
    for piece in found:
        assert piece.prompt_ids.tolist() == [BOS_ID, *whole[max(done - 1, 0) : done]]
        done += len(piece.response_ids)


def test_without_a_bos_the_first_token_begins_the_text(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write_tokenizer(tmp_path))
    found = pieces(TEXT, tokenizer, 4)
    whole = [*byte_ids(TEXT), EOS_ID]
    assert found[0].prompt_ids.tolist() == whole[:1]
    assert [i for piece in found for i in piece.response_ids.tolist()] == whole[1:]
    assert [piece.prompt_ids.tolist() for piece in found[1:]] == [whole[4:5]]


def test_one_end_behind_a_text(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write_tokenizer(tmp_path, around="<s> $A"))
    (piece,) = pieces("ab</s>", tokenizer, 100)
    assert piece.response_ids.tolist() == [*byte_ids("ab"), EOS_ID]


def test_pieces_are_sequences_and_not_taken_for_truncated(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write_tokenizer(tmp_path / "t", around="<s> $A"))
    path = write_rows(tmp_path / "d.jsonl", {"text": TEXT}, {"text": "xy", "id": "b"})
    settings = DataSettings(path=str(path), max_response_tokens=4)
    prepared = prepare(settings, tokenizer, need_response=True)
    assert [len(s.response_ids) for s in prepared.sequences] == [4, 4, 3]
    assert [s.example for s in prepared.sequences] == [0, 1, 2]
    assert len({s.prompt_id for s in prepared.sequences}) == 2, "the pieces of a text validate together"
    assert prepared.report.pieces == 3 and prepared.report.warnings() == []
    with pytest.raises(DataError, match=r"d\.jsonl:1: a raw `text` has no prompt"):
        prepare(settings, tokenizer, need_response=False)


def test_a_model_trains_on_them(tmp_path: Path) -> None:
    """The loss of all pieces together is the loss of the text, each token given the token before it."""
    import torch

    from thack.config import ArchitectureSettings
    from thack.losses import cross_entropy
    from thack.models.batch import Batch
    from thack.models.load import new_decoder

    tokenizer = Tokenizer.load(write_tokenizer(tmp_path / "t", around="<s> $A"))
    model = new_decoder(ArchitectureSettings(hidden_size=16, num_heads=2), tokenizer, seed=0)
    path = write_rows(tmp_path / "d.jsonl", {"text": TEXT})
    prepared = prepare(DataSettings(path=str(path)), tokenizer, need_response=True)
    with torch.no_grad():
        batch = Batch.of(prepared.sequences)
        loss = cross_entropy(model(batch), batch.labels_N)
    assert len(loss) == len(TEXT) + 1 and bool(torch.isfinite(loss).all())
