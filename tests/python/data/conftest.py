"""Tokenizers of three kinds, for long texts."""

from __future__ import annotations

import pytest

from thack.data.tokenizer import Tokenizer

from .long_text import TRAINED
from .small import CHATML, write_metaspace, write_tokenizer


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> list[Tokenizer]:
    root = tmp_path_factory.mktemp("tokenizers")
    paths = [write_tokenizer(root / "bytes", template=CHATML), write_metaspace(root / "spaces", template=CHATML)]
    return [TRAINED, *map(Tokenizer.load, paths)]
