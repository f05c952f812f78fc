"""config.json of the Llama family, read strictly and written back as transformers lays it out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from thack.config import ArchitectureSettings
from thack.errors import ModelError, UsageError
from thack.models.directory import check_sizes

_LARGE_VOCABULARY = 8192  # tokens
FAMILIES = {"LlamaForCausalLM": "llama", "Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3"}


class UnsupportedArchitecture(ModelError):
    """A config.json that the native decoder cannot compute exactly; transformers may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """What the native decoder needs to know; `source` is the config.json it came from, kept for saving."""

    family: str = "llama"
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    rms_eps: float = 1e-6
    rope_theta: float = 10_000.0
    rope_scaling: Mapping[str, Any] | None = None  # linear or llama3, with its numbers
    tie_head: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    dropout: float = 0.0  # on the embedding and both residual branches; transformers' classes ignore it
    source: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @classmethod
    def new(cls, settings: ArchitectureSettings, vocab_size: int) -> Architecture:
        """A decoder to be trained from scratch; widths that do not divide are refused."""
        heads = settings.num_heads
        kv_heads = settings.num_kv_heads or heads
        if settings.hidden_size % (2 * heads):
            raise UsageError(
                f"hidden_size {settings.hidden_size} does not divide into {heads} heads of even width",
                hint="choose a multiple of 2 · num_heads",
            )
        if heads % kv_heads:
            raise UsageError(
                f"num_heads {heads} is not a multiple of num_kv_heads {kv_heads}",
                hint="0 means as many key-value heads as heads",
            )
        return cls(
            vocab_size=vocab_size,
            hidden_size=settings.hidden_size,
            intermediate_size=settings.intermediate_size or -(-settings.hidden_size * 8 // 48) * 16,
            num_layers=settings.num_layers,
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=settings.hidden_size // heads,
            max_positions=settings.max_positions,
            tie_head=ties_head(settings, vocab_size),
            dropout=settings.dropout,
        )

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Architecture:
        """Understand a config.json, or raise UnsupportedArchitecture naming the key that stands in the way."""
        check_sizes(config)
        family = _family(config)
        _refuse_variants(config, family)
        try:
            heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
            kv_heads = int(config.get("num_key_value_heads") or heads)
            theta, scaling = _rope(config)
            _scaled(torch.ones(1), scaling)  # its numbers are there
            return cls(
                family=family,
                vocab_size=int(config["vocab_size"]),
                hidden_size=hidden,
                intermediate_size=int(config["intermediate_size"]),
                num_layers=int(config["num_hidden_layers"]),
                num_heads=heads,
                num_kv_heads=kv_heads,
                head_dim=int(config.get("head_dim") or (128 if family == "qwen3" else hidden // heads)),
                max_positions=int(config.get("max_position_embeddings") or 2048),
                rms_eps=float(config.get("rms_norm_eps", 1e-6)),
                rope_theta=theta,
                rope_scaling=scaling,
                tie_head=bool(config.get("tie_word_embeddings", False)),
                qkv_bias=family == "qwen2" or bool(config.get("attention_bias", False)),
                output_bias=family != "qwen2" and bool(config.get("attention_bias", False)),
                mlp_bias=family == "llama" and bool(config.get("mlp_bias", False)),
                qk_norm=family == "qwen3",
                dropout=float(config.get("thack_dropout", 0.0)),
                source=dict(config),
            )
        except UnsupportedArchitecture:
            raise
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            raise ModelError(f"config.json: missing or unreadable key ({error})") from error

    def to_config(self, *, eos_id: int, pad_id: int, bos_id: int | None, dtype: torch.dtype) -> dict[str, Any]:
        """The config.json that transformers loads: the one this came from, or a new one for a Llama."""
        config = dict(self.source) or {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": self.max_positions,
            "rms_norm_eps": self.rms_eps,
            "rope_theta": self.rope_theta,
            "rope_scaling": None,
            "tie_word_embeddings": self.tie_head,
            "attention_bias": False,
            "mlp_bias": False,
            "attention_dropout": 0.0,
            "eos_token_id": eos_id,
            "pad_token_id": pad_id,
            "bos_token_id": bos_id,
        }
        if bool(config.get("tie_word_embeddings", False)) != self.tie_head:
            config["tie_word_embeddings"] = self.tie_head  # the weights had a head of their own
        config.pop("dtype", None)
        config["torch_dtype"] = str(dtype).removeprefix("torch.")
        config.pop("thack_dropout", None)
        if self.dropout:
            config["thack_dropout"] = self.dropout
        return config

    def rope_tables(self, length: int) -> tuple[Tensor, Tensor]:
        """cos and sin, float32 [length, head_dim / 2], of position times frequency."""
        exponents = torch.arange(0, self.head_dim, 2, dtype=torch.int64).float() / self.head_dim
        frequencies = _scaled(1.0 / (self.rope_theta**exponents), self.rope_scaling)
        angles = torch.outer(torch.arange(length).float(), frequencies)
        return angles.cos(), angles.sin()


def _family(config: Mapping[str, Any]) -> str:
    names = config.get("architectures") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ModelError(f"config.json: architectures = {names!r:.40} is not a list of names")
    family = FAMILIES.get(names[0]) if names else config.get("model_type")
    if family not in FAMILIES.values():
        raise UnsupportedArchitecture(f"no native decoder for {names[0] if names else family or 'this config.json'}")
    return str(family)


def _refuse_variants(config: Mapping[str, Any], family: str) -> None:
    """Keys that change the computation in a way that the native decoder does not follow."""
    reasons = {
        "hidden_act": config.get("hidden_act", "silu") != "silu",
        "use_sliding_window": bool(config.get("use_sliding_window", False)),
        "quantization_config": config.get("quantization_config") is not None,
        "partial_rotary_factor": config.get("partial_rotary_factor") not in (None, 1.0),
    }
    for key, refused in reasons.items():
        if refused:
            raise UnsupportedArchitecture(f"no native decoder for {family} with {key} = {config.get(key)!r}")


def _rope(config: Mapping[str, Any]) -> tuple[float, Mapping[str, Any] | None]:
    """θ and scaling, from transformers 5's `rope_parameters` or the older two keys."""
    parameters = dict(config.get("rope_parameters") or {})
    scaling = parameters or dict(config.get("rope_scaling") or {})
    theta = float(scaling.get("rope_theta") or config.get("rope_theta") or 10_000.0)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind not in ("linear", "llama3"):
        raise UnsupportedArchitecture(f"no native decoder for RoPE scaling of type {kind!r}")
    return theta, {**scaling, "rope_type": kind}


def _scaled(frequencies: Tensor, scaling: Mapping[str, Any] | None) -> Tensor:
    """Frequencies of a long-context model: divided by a factor, or (llama3) only the slow ones."""
    if scaling is None:
        return frequencies
    factor = float(scaling["factor"])
    if scaling["rope_type"] == "linear":
        return frequencies / factor
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    old_context = float(scaling["original_max_position_embeddings"])
    wavelengths = 2 * math.pi / frequencies
    smooth = ((old_context / wavelengths - low) / (high - low)).clamp(0.0, 1.0)
    return (1 - smooth) * frequencies / factor + smooth * frequencies


def ties_head(settings: ArchitectureSettings, vocab_size: int) -> bool:
    """Whether a new model shares embedding and head: with a large vocabulary they are most of a small model."""
    return vocab_size > _LARGE_VOCABULARY if settings.tie_head == "auto" else settings.tie_head
