"""Tokenizers of bytes with a few control tokens, as directories that thack and transformers read alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

BOS, EOS, END, START = "<s>", "</s>", "<|im_end|>", "<|im_start|>"
BOS_ID, EOS_ID, END_ID, START_ID = 256, 257, 258, 259

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
USER = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "ok"}


def byte_ids(text: str) -> list[int]:
    """Ids of a text without control tokens, by the definition of the vocabulary: one for each byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    shown = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    return [alphabet.index(character) for piece, _ in shown for character in piece]


def write_tokenizer(
    directory: Path,
    *,
    template: Any = None,
    around: str = "",
    special_end: bool = True,
    config: dict[str, Any] | None = None,
    generation: dict[str, Any] | None = None,
    model: dict[str, Any] | None = None,
) -> Path:
    """A tokenizer directory.

    Args:
        directory: created.
        template: chat_template of tokenizer_config.json, as it stands there.
        around: template of the post-processor, such as `<s> $A </s>`; empty: there is none.
        special_end: whether `<|im_end|>` is flagged as special.
        config: further keys of tokenizer_config.json.
        generation: generation_config.json.
        model: config.json.
    """
    backend = Tokenizer(
        models.BPE(vocab={c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, merges=[])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    add_control_tokens(backend, special_end)
    if around:
        tokens = [(BOS, BOS_ID), (EOS, EOS_ID)]
        backend.post_processor = processors.TemplateProcessing(single=around, special_tokens=tokens)
    return write_files(backend, directory, template, config, generation, model)


def write_metaspace(directory: Path, *, template: str | None = None, **files: Any) -> Path:
    """A SentencePiece-like tokenizer of single characters that puts a space before a text."""
    letters = [chr(code) for code in range(32, 127)] + ["\n", "▁"]
    backend = Tokenizer(
        models.BPE(vocab={c: i for i, c in enumerate(letters)} | {"▁H": len(letters)}, merges=[("▁", "H")])
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
    backend.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="first")
    add_control_tokens(backend, True)
    return write_files(backend, directory, template, None, None, None)


def add_control_tokens(backend: Tokenizer, special_end: bool) -> None:
    for token in (BOS, EOS, END, START):
        special = special_end or token != END
        (backend.add_special_tokens if special else backend.add_tokens)([AddedToken(token, special=special)])


def write_files(backend: Tokenizer, directory: Path, template: Any, config: Any, generation: Any, model: Any) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    backend.save(str(directory / "tokenizer.json"))
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS, "eos_token": EOS}
    written = {
        "tokenizer_config.json": named | ({} if template is None else {"chat_template": template}) | (config or {}),
        "generation_config.json": generation,
        "config.json": model,
    }
    for name, content in written.items():
        if content is not None:
            (directory / name).write_text(json.dumps(content))
    return directory


def write_rows(path: Path, *rows: Any) -> Path:
    """A JSONL file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
