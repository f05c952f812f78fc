"""What was minimised, in words: for a model's card, and for the axis of a figure."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from thack.config import LossSettings, load_settings
from thack.config.specs import loss_terms
from thack.errors import ThackError
from thack.schema.cross_tokenizer import PUBLISHED
from thack.schema.targets import Divergence, LossTerm


def loss_in_words(loss: LossSettings, *, has_two_tokenizers: bool) -> str:
    """The sum that is minimised.

    Example:
        >>> loss_in_words(LossSettings(weight=0.5, temperature=2, ce_weight=1.0), has_two_tokenizers=False)
        '0.5 · forward KL at temperature 2 + cross-entropy'
    """
    between = loss.cross_tokenizer.replace("auto", "cell") if has_two_tokenizers else ""
    terms = " + ".join(_term(term, between) for term in loss_terms(loss))
    order = f" of order {loss.entropy_order:g}" if loss.mix == "entropy" and loss.entropy_order != 1 else ""
    return terms if loss.mix == "sum" else f"{terms}, hard and soft weighed by {loss.mix}{order}"


def _term(term: LossTerm, between: str) -> str:
    name = "cross-entropy"
    if term.policy is not None:
        name = f"policy gradient ({term.policy.estimator})"
    elif term.divergence is not None:
        name = _soft(term.divergence, between)
    return name if term.weight == 1 else f"{term.weight:g} · {name}"


def _soft(divergence: Divergence, between: str) -> str:
    """A divergence, or the loss between two tokenizers that is taken for it or computes it."""
    if between in PUBLISHED and between != "gold":
        return between
    return f"{divergence.label} ({between})" if between else divergence.label


def sole_divergence(config: Mapping[str, object]) -> str | None:
    """The divergence whose values a run logged as its training loss; None: it logged other values, or none is known.

    Args:
        config: a run's settings by dotted key.
    """
    given = {key.removeprefix("loss."): value for key, value in config.items() if key.startswith("loss.")}
    with suppress(ThackError):  # of another version
        loss = load_settings(LossSettings, overrides=given)
        first, *others = loss_terms(loss)
        found = first.divergence
        is_one = not others and first.weight == 1 and loss.cross_tokenizer not in PUBLISHED
        if given and is_one and found is not None and found.temperature == 1:
            return found.label
    return None
