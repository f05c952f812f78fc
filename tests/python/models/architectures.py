"""Tiny models of every architecture that transformers builds from a configuration, with random weights."""

from __future__ import annotations

from typing import Any

import torch

VOCAB = 300
# Sizes under the names that configurations give them; what a configuration does not have is ignored.
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "d_model": 32,
    "n_embd": 32,
    "dim": 32,
    "embedding_size": 32,
    "emb_dim": 32,
    "embedding_dim": 32,
    "lru_width": 32,
    "intermediate_size": 48,
    "ffn_dim": 48,
    "n_inner": 48,
    "d_ff": 48,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "num_hidden_layers": 2,
    "num_layers": 2,
    "n_layer": 2,
    "n_layers": 2,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "num_attention_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "num_heads": 4,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "d_kv": 8,
    "max_position_embeddings": 64,
    "n_positions": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "is_decoder": True,
    "use_cache": True,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_topk": 2,
    "n_group": 1,
    "topk_group": 1,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "rotary_dim": 8,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "decoder_start_token_id": 2,
    "mamba_n_heads": 4,
    "mamba_d_head": 8,
    "mamba_d_ssm": 32,
    "mamba_d_state": 8,
    "mamba_chunk_size": 4,
    "state_size": 8,
}
# What single architectures need beside, to be tiny and to show what is special about them.
CHANGES: dict[str, dict[str, Any]] = {
    "xlstm": {
        "num_blocks": 2,
        "hidden_size": 64,
        "embedding_dim": 64,
        "chunk_size": 16,
        "output_logit_soft_cap": 0.5,
        "qk_dim_factor": 1.0,
    },
    "recurrent_gemma": {"num_hidden_layers": 3, "attention_window_size": 8, "logits_soft_cap": 0.5},
    "gemma2": {"final_logit_softcapping": 0.5},
    "cohere": {"logit_scale": 0.3},
    "granite": {"logits_scaling": 3.0},
    "falcon_h1": {"lm_head_multiplier": 0.4},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 4},
    "deepseek_v4": {
        "num_hidden_layers": 4,
        "sliding_window": 8,
        "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8},
        "head_dim": 16,
        "qk_rope_head_dim": 8,
        "q_lora_rank": 16,
        "o_lora_rank": 16,
        "o_groups": 2,
        "index_n_heads": 2,
        "index_head_dim": 8,
        "index_topk": 4,
        "num_key_value_heads": 1,
        "num_experts_per_tok": 2,
    },
    **{
        kind: {"num_hidden_layers": 4}
        for kind in ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "jamba", "kimi_linear", "lfm3", "bailing_hybrid")
    },
    "jamba": {"num_hidden_layers": 8, "mamba_dt_rank": 4},
    "bamba": {"attn_layer_indices": [1]},
    **{
        kind: {"num_key_value_heads": 4}
        for kind in ("axk1", "axk2", "deepseek_v2", "deepseek_v3", "glm4_moe_lite", "minicpm3", "sarvam_mla", "youtu")
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    "reformer": {"axial_pos_embds": False},
}
MOST_PARAMETERS = 20_000_000


def build(kind: str, *, seq2seq: bool = False, seed: int = 0, **changes: Any) -> Any:
    """A model in evaluation mode whose every weight matters: biases and norms are no constants."""
    import transformers

    config = transformers.AutoConfig.for_model(kind)
    known = config.to_dict()
    values = {name: value for name, value in SIZES.items() if name in known or name.endswith("token_id")}
    values |= {name: 0.0 for name, value in known.items() if "drop" in name and isinstance(value, float)}
    config = transformers.AutoConfig.for_model(kind, **{**values, **CHANGES.get(kind, {}), **changes})
    cls = transformers.AutoModelForSeq2SeqLM if seq2seq else transformers.AutoModelForCausalLM
    torch.manual_seed(seed)
    with torch.device("meta"):
        size = sum(p.numel() for p in cls.from_config(config).parameters())
    assert size <= MOST_PARAMETERS, f"{kind} has {size:,} parameters"
    torch.manual_seed(seed)
    model = cls.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model
