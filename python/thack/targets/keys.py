"""The name of every stream of random numbers, so that no two uses share one by accident.

Random numbers are functions of a seed and a name, never of history. Two families of names exist.

Per token (Philox in rust/kernels/philox.rs): (purpose, epoch, example, sample, position). The purpose separates
sampling a token from threshold sampling. `example` is the index of the prompt in its data set.

    epoch    0       what `thack generate` and `thack cache-logits` write and draw
             e + 1   responses that are newly sampled in epoch e of a training run (`training_epoch`)
             0, 1, 2 the models that wrote an evaluation set's fixed responses, in their order, by its own seed
             3       the student's responses in an evaluation (`EVALUATION_STREAM`)
    sample   0 …     which of several responses to one prompt; below 2^31
             2^31 …  the draws of a multinomial target, those of each response after the other (`multinomial_sample`)
             2^32−1  the teacher's other responses of the training monitors (`MONITOR_SAMPLE`), downwards
             ± n·2^27  the n-th further try, where a response could not be used (`further_try`)

Per run (NumPy's Philox, `run_words`): (seed, stream, step or epoch, rank, part). The phases of a mixture of offline and
online responses are NumPy's own permutation by Philox(key=seed).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from thack.data.sequence import TokenSequence

OFFLINE_EPOCH = 0
EVALUATION_STREAM = 3
MULTINOMIAL_SAMPLE = 1 << 31
MONITOR_SAMPLE = (1 << 32) - 1
_TRY = 1 << 27


class Stream(IntEnum):
    """What a run draws for itself: the last word of the counter. Frozen: a new use gets a new number."""

    POSITIONS = 0  # the order of the data in an epoch
    BATCHES = 1  # the order of batches of similar length
    DROPOUT = 2
    MONITORS = 3  # the prompts of the training monitors
    RESPONSE_SETS = 4  # which response a position uses under the guard


def multinomial_sample(samples_N: Tensor, draw: int, draws: int) -> Tensor:
    """The sample numbers of one of the `draws` of a multinomial target: of their own for each response to a prompt."""
    return MULTINOMIAL_SAMPLE + (samples_N * draws + draw) % (MULTINOMIAL_SAMPLE // 2)  # far below MONITOR_SAMPLE


def further_try(samples: np.ndarray, number: int) -> np.ndarray:
    """The sample numbers of the `number`-th further try of responses; numbers from 2^31 on count downwards."""
    found: np.ndarray = np.where(samples < MULTINOMIAL_SAMPLE, samples + number * _TRY, samples - number * _TRY)
    return found


def training_epoch(epoch: int) -> int:
    """The epoch that names responses which are newly sampled in `epoch` of a training run."""
    return epoch + 1


def row_keys(sequences: Sequence[TokenSequence], epoch: int = OFFLINE_EPOCH) -> Tensor:
    """The names of the random numbers of every response token: what a capture and a live teacher draw by.

    Args:
        sequences: packed one after the other.
        epoch: `OFFLINE_EPOCH` for draws that stay the same, another one for new draws.

    Returns:
        int64 [N, 4] on the CPU: epoch, example, sample, position.
    """
    lengths = [len(s.response_ids) for s in sequences]
    keys_N4 = np.empty((sum(lengths), 4), dtype=np.int64)
    keys_N4[:, 0] = epoch
    keys_N4[:, 1] = np.repeat([s.example for s in sequences], lengths)
    keys_N4[:, 2] = np.repeat([s.sample for s in sequences], lengths)
    keys_N4[:, 3] = np.concatenate([np.arange(length) for length in lengths])
    return torch.from_numpy(keys_N4)


def run_words(seed: int, stream: Stream, step: int, *, rank: int = 0, part: int = 0, count: int = 1) -> np.ndarray:
    """uint64 [count]: raw random words, the same for every version of NumPy; `step` is the step or the epoch."""
    return np.random.Philox(key=seed, counter=[part, rank, step, stream]).random_raw(count)
