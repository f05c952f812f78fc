"""Chat tokenizers, tiny models and conversations for the checks before training."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer as Backend

from thack.config import ArchitectureSettings, DataSettings
from thack.data.prepare import prepare
from thack.data.tokenizer import Tokenizer
from thack.models.batch import Batch
from thack.models.load import new_decoder

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = ("red", "green", "blue", "black", "white", "grey", "pink", "brown", "gold", "silver", "teal", "plum")


def save_tokenizer(directory: Path, *, template: str = CHATML, eos: str = "<|im_end|>") -> Tokenizer:
    """Bytes and two control tokens, with a chat template; empty: none."""
    Tokenizer.train(["red green"], 258).save(directory)
    backend = Backend.from_file(str(directory / "tokenizer.json"))
    backend.add_special_tokens(["<|im_start|>", "<|im_end|>", "<|endoftext|>"])
    backend.save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": eos, "pad_token": "<pad>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    if template:
        (directory / "chat_template.jinja").write_text(template)
    return Tokenizer.load(directory)


def save_model(directory: Path, *, rows: int = 0, seed: int = 0, data: Path | None = None, **tokens: str) -> Path:
    """A decoder of width 32 with `rows` rows in its head (0: one for each id); trained on `data`, if given."""
    tokenizer = save_tokenizer(directory / "tokenizer", **tokens)
    settings = ArchitectureSettings(hidden_size=32, num_layers=2, num_heads=2, max_positions=128)
    if rows:
        tokenizer.size = rows
    model = new_decoder(settings, tokenizer, seed)
    if data is not None:
        found = prepare(DataSettings(path=str(data)), tokenizer, need_response=True).sequences
        batch, optimizer = Batch.of(found), torch.optim.AdamW(model.parameters(), 1e-2)
        for _ in range(50):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(batch), batch.labels_N).backward()
            optimizer.step()
    model.eval().save(directory)
    return directory


def save_chats(path: Path, count: int = 12) -> Path:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"say {word}"},
                {"role": "assistant", "content": f"{word}, {word}"},
            ]
        }
        for word in WORDS[:count]
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
