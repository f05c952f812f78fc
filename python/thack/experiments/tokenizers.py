"""Other tokenizers, for students that do not share their teacher's."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from thack.data import stdlib_records
from thack.data.export import PAIRS
from thack.data.rows import RESPONSES
from thack.data.tokenizer import Tokenizer
from thack.errors import UsageError
from thack.files import atomic_directory, write_text
from thack.runtime import runlog
from thack.runtime.progress import Progress

# Splits like the tokenizers of Llama 3 and Qwen: words by their first letter or sign, digits by three, line ends apart.
CODE_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerWord:
    """A new byte-level BPE, as the axis names it.

    Args:
        size: its ids.
        of_code: trained on source code, with another split before merging; else on the task's own text.
    """

    size: int
    of_code: bool = False

    @classmethod
    def parse(cls, word: str) -> Self:
        """`512`, or `code:1024`.

        Raises:
            UsageError: it is neither.
        """
        kind, _, size = word.rpartition(":")
        if kind not in ("", "code") or not size.isdigit() or int(size) < 258:
            raise UsageError(
                f'tokenizer {word!r} is neither a number of ids from 258 on nor "code:" and one',
                hint='for example axes.tokenizer = ["512", "code:1024"]',
            )
        return cls(size=int(size), of_code=kind == "code")


def write_tokenizer(word: TokenizerWord, corpus: Path, path: Path, progress: Progress) -> None:
    """Train it, on the pairs of a corpus or on the standard library's source code."""
    with progress.task("training a tokenizer", None):
        if word.of_code:
            texts = [text for r in stdlib_records("continuation") for text in (r.prompt, r.response or "")]
            found = Tokenizer.train(texts, word.size, pattern=CODE_PATTERN)
        else:
            rows = runlog.read(corpus / PAIRS)
            found = Tokenizer.train([text for row in rows for text in (row["prompt"], row["response"])], word.size)
        with atomic_directory(path, replace=True) as directory:
            found.save(directory)


def write_encoded(responses: Path, tokenizer: Path, path: Path, progress: Progress) -> None:
    """Generated responses in the ids of another tokenizer; one that was cut stays without an end."""
    own = Tokenizer.load(tokenizer)
    rows = runlog.read(responses / RESPONSES)
    encoded = own.encode_batch([row["response"] for row in rows], as_text=True)
    with atomic_directory(path, replace=True) as directory:
        lines = (
            {"id": row["id"], "prompt": row["prompt"], "response_ids": ids.tolist() + [own.eos_id] * row["finished"]}
            for row, ids in zip(rows, encoded, strict=True)
        )
        write_text(directory / PAIRS, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
