"""What numbers a key accepts, by its last name: one rule for a name wherever it occurs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Rule:
    """A test of one value, and the words for what passes it."""

    accepts: Callable[[Any], bool]
    words: str


_COUNT = Rule(lambda value: value >= 1, "1 or more")
_NON_NEGATIVE = Rule(lambda value: value >= 0, "0 or more")
_POSITIVE = Rule(lambda value: value > 0, "more than 0")
_SHARE = Rule(lambda value: 0 <= value <= 1, "between 0 and 1")
_PROPER_SHARE = Rule(lambda value: 0 <= value < 1, "at least 0 and below 1")
_SEED = Rule(lambda value: 0 <= value < 1 << 64, "between 0 and 2^64 − 1")

_WORDS = {
    _COUNT: (
        "batch_size bootstrap budget epochs hidden_size k keep max_positions max_prompt_tokens max_response_tokens"
        " num_heads num_layers sampled samples shard_bytes shard_tokens tokenizer_size"
    ),
    _NON_NEGATIVE: (
        "ce_weight clip_norm count every every_steps intermediate_size limit micro_batch_size num_kv_heads"
        " steps tail_draws threshold top_k warmup_steps weight weight_decay"
    ),
    _POSITIVE: "growth learning_rate temperature",
    _SHARE: "beta skew online_fraction min_p tail_prior",
    _PROPER_SHARE: "beta1 beta2 dropout validation_fraction",
    _SEED: "seed",
    Rule(lambda values: all(value > 0 for value in values), "a list of numbers above 0"): "temperatures",
    Rule(lambda value: 0 < value <= 1, "above 0 and at most 1"): "top_p",
}

_LISTS = {"temperatures"}  # whose rule is about all values together
RULES = {name: rule for rule, names in _WORDS.items() for name in names.split()}


def out_of_bounds(name: str, value: Any) -> str | None:
    """The words for what `name` accepts, if `value` is not that."""
    rule = RULES.get(name)
    if rule is None:
        return None
    several = isinstance(value, tuple) and name not in _LISTS  # an axis: every value of it
    return None if all(map(rule.accepts, value if several else (value,))) else rule.words
