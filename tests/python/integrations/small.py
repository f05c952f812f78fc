"""Tiny models of transformers, and arguments for its Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

VOCAB = 272  # of the heads: wider than the tokenizer


def llama(seed: int = 0, *, sharp: float = 20.0) -> Any:
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=VOCAB, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=64, attention_dropout=0.1, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight.mul_(sharp)
    return model.eval()


def mixtral(seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    config = transformers.MixtralConfig(
        vocab_size=VOCAB, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, max_position_embeddings=64,
        router_aux_loss_coef=3.0, eos_token_id=1, pad_token_id=0, **options,
    )  # fmt: skip
    return transformers.MixtralForCausalLM(config).eval()


def t5(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config = transformers.T5Config(
        vocab_size=VOCAB, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, decoder_start_token_id=0,
        eos_token_id=1, pad_token_id=0, dropout_rate=0.0,
    )  # fmt: skip
    return transformers.T5ForConditionalGeneration(config).eval()


def arguments(path: Path, **options: Any) -> Any:
    values = {"max_steps": 4, "per_device_train_batch_size": 2, "learning_rate": 1e-2, "use_cpu": True} | options
    return transformers.TrainingArguments(
        output_dir=str(path), report_to=[], save_strategy="no", disable_tqdm=True, logging_steps=1, **values
    )
