"""Real byte-level tokenizers through thack, against tiktoken on the same ranks: ids, texts and sizes."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from transformers.convert_slow_tokenizer import TikTokenConverter

from thack.data.parting import SHORT
from thack.data.tokenizer import Tokenizer

from .conftest import PACKAGES, package

QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
LLAMA_3 = QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
LLAMA_4 = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXTS = [
    "The quick brown fox jumps over 13 lazy dogs, doesn't it?",
    "  leading spaces,\ttabs\n\n\nand\r\nnewlines   ",
    "def f(x: int) -> str:\n    return f'{x!r:>10}'  # ünïcödé",
    "日本語とEnglishと한국어, العربية, עברית, हिन्दी",
    "🙂👩‍👩‍👧‍👦 \u200b\ufeff zero width, and \x00 control",
    "<|im_start|>user\nhi<|im_end|> </s> [INST]",
    "1234567890 3.14159e-10 0xDEADBEEF",
]


@dataclass(frozen=True, slots=True)
class Ranks:
    """A byte-level BPE as its file gives it."""

    pattern: str
    ranks: dict[bytes, int]


def tiktoken_file(folder: str, path: str, pattern: str) -> Ranks:
    lines = (package(folder) / path).read_bytes().splitlines()
    pairs = (line.split() for line in lines if line)
    return Ranks(pattern, {base64.b64decode(token): int(rank) for token, rank in pairs})


def tekken() -> Ranks:
    content = json.loads((package("mistral_common") / "data" / "tekken_240911.json").read_text(encoding="utf-8"))
    config = content["config"]
    size = config["default_vocab_size"] - config["default_num_special_tokens"]
    ranks = {base64.b64decode(entry["token_bytes"]): entry["rank"] for entry in content["vocab"][:size]}
    return Ranks(config["pattern"], ranks)


REAL: dict[str, Callable[[], Ranks]] = {
    "qwen": lambda: tiktoken_file("dashscope", "resources/qwen.tiktoken", QWEN),
    "llama-3": lambda: tiktoken_file("llama_models", "llama3/tokenizer.model", LLAMA_3),
    "llama-4": lambda: tiktoken_file("llama_models", "llama4/tokenizer.model", LLAMA_4),
    "tekken": tekken,
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", REAL)
def test_ids_are_those_of_tiktoken(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = REAL[name]()
    monkeypatch.setattr(sys, "path", [*sys.path, str(PACKAGES)])
    tiktoken: Any = pytest.importorskip("tiktoken")
    theirs = tiktoken.Encoding(name, pat_str=found.pattern, mergeable_ranks=found.ranks, special_tokens={})
    ours = saved(found, tmp_path)
    assert ours.size == len(found.ranks) + 1  # and its end
    for text in TEXTS:
        ids = ours.encode(text).tolist()
        assert ids == theirs.encode_ordinary(text)
        assert ours.decode(ids) == text
    long = " and so on ".join(TEXTS * 300)
    assert len(long) > SHORT and ours.can_part
    assert ours.encode(long).tolist() == theirs.encode_ordinary(long), "part by part"


def saved(found: Ranks, directory: Path) -> Tokenizer:
    """The ranks as a directory that transformers would write, loaded by thack."""
    file = directory / "ranks.tiktoken"
    lines = (f"{base64.b64encode(token).decode()} {rank}" for token, rank in found.ranks.items())
    file.write_text("\n".join(lines), encoding="utf-8")
    converter = TikTokenConverter(vocab_file=str(file), pattern=found.pattern, extra_special_tokens=["<end>"])
    converter.converted().save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<end>"}), encoding="utf-8")
    return Tokenizer.load(directory)
