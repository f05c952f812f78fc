"""How much of a response's information comes from its prompt.

The oracle's own responses to the evaluation set's prompts are scored by the oracle twice: after the right prompts, and
after the prompts of other responses. In nats per response token,

    with_prompt     −Σ log p(y | x) / tokens      an estimate of H(Y | X)
    without_prompt  −Σ log p(y | x′) / tokens     averaged over shuffles, x′ ≠ x
    from_prompt     their difference
    share           from_prompt / without_prompt

−log p(y | x′) is on average at least −log Σ p(x′) p(y | x′), by Jensen's inequality. So `from_prompt` bounds the
mutual information I(X; Y) from above: it is large where the prompt decides the response, and 0 where responses do not
depend on their prompts. A task where it is small has other responses to a prompt that are as new as other prompts are.

P prompts, B resamples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from thack.data.batching import by_length
from thack.data.sequence import TokenSequence
from thack.detection.statistics import percentile_interval, prompt_weights
from thack.errors import UsageError
from thack.evaluation.divergences import PromptTotals
from thack.evaluation.eval_set import EvalSet
from thack.losses import cross_entropy
from thack.models.batch import Batch
from thack.models.protocol import LanguageModel, evaluating
from thack.runtime.process_group import ALONE
from thack.schema.evaluation import PromptInformation
from thack.schema.metrics import Floats, Role
from thack.targets.vocabulary import log_probs

NUM_SHUFFLES = 4
_BATCH = 256
_RESAMPLES = 2000
_CONFIDENCE = 0.95
_SEED = 20251129  # fixed: the shuffles are part of the measurement


def prompt_information(oracle: LanguageModel, eval_set: EvalSet, *, shuffles: int = NUM_SHUFFLES) -> PromptInformation:
    """Score the oracle's fixed responses after their prompts, and after those of others.

    Args:
        oracle: The model that wrote them.
        eval_set: Held-out prompts with the oracle's responses, at least two.
        shuffles: How many other prompts each response is scored after; at most one less than there are prompts.

    Returns:
        Both averages in nats per response token, and the difference with its interval over prompts.

    Raises:
        UsageError: there are fewer than two prompts, or no responses of the oracle.
        MismatchError: another model wrote them.

    Example:
        >>> found = prompt_information(oracle, eval_set)
        >>> 0 <= found.with_prompt, found.num_prompts == len(eval_set)
        (True, True)
    """
    if len(eval_set) < 2:
        raise UsageError("shuffled prompts need at least two", hint="raise num_held_out_prompts")
    eval_set.check_writer(Role.ORACLE, oracle)
    sequences, shuffles = eval_set.sequences(Role.ORACLE), min(shuffles, len(eval_set) - 1)
    rng = np.random.default_rng(_SEED)
    with evaluating(oracle):
        right_P, tokens_P = _nats(oracle, sequences)
        others_P = np.mean([_nats(oracle, s)[0] for s in _shuffled(sequences, shuffles, rng)], axis=0)
    weights_BP = prompt_weights(rng, len(sequences), _RESAMPLES)
    difference_B = (weights_BP @ (others_P - right_P)) / (weights_BP @ tokens_P)
    return PromptInformation(
        with_prompt=float(right_P.sum() / tokens_P.sum()),
        without_prompt=float(others_P.sum() / tokens_P.sum()),
        from_prompt_interval=percentile_interval(difference_B, _CONFIDENCE),
        num_prompts=len(sequences),
        num_shuffles=shuffles,
    )


def _shuffled(sequences: Sequence[TokenSequence], shuffles: int, rng: np.random.Generator) -> list[list[TokenSequence]]:
    """The same responses, each after another's prompt, and never twice after the same one.

    Prompts stand in a circle in a random order; each shuffle turns it by another number of places.
    """
    count = len(sequences)
    place_P = rng.permutation(count)
    at_P = np.argsort(place_P)  # at_P[i]: where prompt i stands
    turns = 1 + rng.choice(count - 1, size=shuffles, replace=False)
    return [
        [
            TokenSequence(
                example=s.example,
                prompt_id=s.prompt_id,
                prompt_ids=sequences[place_P[(at_P[i] + turn) % count]].prompt_ids,
                response_ids=s.response_ids,
            )
            for i, s in enumerate(sequences)
        ]
        for turn in turns
    ]


def _nats(oracle: LanguageModel, sequences: Sequence[TokenSequence]) -> tuple[Floats, Floats]:
    """−log p and the number of tokens of each response."""
    totals = PromptTotals(len(sequences), num_values=1)
    for part in by_length(sequences, _BATCH):
        batch = Batch.of(part, oracle.device)
        log_p_NV = log_probs(oracle(batch), oracle.tokenizer.size)
        totals.add(part, cross_entropy(log_p_NV, batch.labels_N)[:, None])
    (sums,) = totals.of_all_ranks(ALONE)
    return sums.nats_P, sums.tokens_P.astype(np.float64)
