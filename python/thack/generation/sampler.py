"""Autoregressive generation in fixed, length-sorted batches, every draw keyed by what it is for.

The random number of a token is a function of (seed, epoch, prompt, sample, position) alone: batch size,
rank count and resume point do not matter (pitfall 17). Logits can differ in their last bit between batches of
other shapes, so the same text to the byte is promised for the same batches. Always in eval mode, and by
`sampling` alone: a model's own generation settings have no say (pitfall 15).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from thack.config.settings import SamplingSettings
from thack.errors import DataError
from thack.kernels import sample as draw
from thack.models.protocol import LanguageModel
from thack.runtime.process_group import ALONE, ProcessGroup
from thack.runtime.progress import SILENT, Progress

_KEEP_BELOW = 0.75  # drop finished rows once fewer than this share of the batch is alive: copies cost too


def generate(
    model: LanguageModel,
    prompts: Sequence[np.ndarray],
    *,
    examples: Sequence[int] | np.ndarray,
    max_new_tokens: int,
    sampling: SamplingSettings,
    seed: int,
    epoch: int = 0,
    sample: int | np.ndarray = 0,
    batch_size: int = 256,
    progress: Progress = SILENT,
    task: str = "generate",
    group: ProcessGroup = ALONE,
) -> list[np.ndarray]:
    """One response per prompt, int32, with what ended it where that came within `max_new_tokens`.

    The batches are the same for any number of ranks, which share them out and gather what was written.

    `examples` and `sample`, one per prompt, name its random numbers. The model's train mode and torch's
    global generator are left as they were.
    """
    _check_lengths(model, prompts, max_new_tokens)
    keys_N4 = torch.zeros(len(prompts), 4, dtype=torch.int64)
    for column, values in enumerate((epoch, examples, sample)):
        keys_N4[:, column] = torch.from_numpy(np.asarray(values, dtype=np.int64))
    found: list[tuple[int, np.ndarray]] = []
    was_training = bool(getattr(model, "training", False))
    model.eval()
    try:
        # Not inference_mode: what a live trainer's model keeps of it could not be used in a backward.
        with torch.no_grad(), progress.task(task, len(prompts), "responses") as shown:
            for number, rows in enumerate(_batches(prompts, batch_size)):
                if not group.owns(number):
                    continue
                written = _write(model, [prompts[i] for i in rows], keys_N4[rows], max_new_tokens, sampling, seed)
                found += zip(rows, written, strict=True)
                shown.advance(len(rows))
    finally:
        model.train(was_training)
    return [response for _, response in sorted(group.all_gather(found), key=lambda pair: pair[0])]


def _batches(prompts: Sequence[np.ndarray], batch_size: int) -> Iterator[list[int]]:
    """Prompts of like length together; ties by position, so that batches depend on the prompts alone."""
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def _write(
    model: LanguageModel,
    prompts: Sequence[np.ndarray],
    keys_B4: Tensor,
    max_new_tokens: int,
    sampling: SamplingSettings,
    seed: int,
) -> list[np.ndarray]:
    """The responses of one batch. A row that has ended is fed EOS until enough have ended to drop them."""
    eos, stops = model.tokenizer.eos_id, sorted(model.tokenizer.stop_ids)
    width = min(model.tokenizer.size, model.vocab_size)  # ids beyond the tokenizer mean nothing (pitfall 13)
    written_BR = np.full((len(prompts), max_new_tokens), eos, dtype=np.int32)
    length_B = np.full(len(prompts), max_new_tokens, dtype=np.int64)
    rows = np.arange(len(prompts))  # of the batch, that the state still holds
    alive = np.ones(len(prompts), dtype=bool)  # among those
    state = model.start(prompts, max_new_tokens)
    keys = keys_B4.clone()
    for position in range(max_new_tokens):
        keys[:, 3] = position
        ids_B = _draw(state.logits()[:, :width], keys, sampling, seed)
        chosen = ids_B.cpu().numpy()
        written_BR[rows[alive], position] = chosen[alive]
        ended = alive & np.isin(chosen, stops)
        length_B[rows[ended]] = position + 1
        alive = alive & ~ended
        if not alive.any() or position + 1 == max_new_tokens:
            break
        if alive.mean() < _KEEP_BELOW:
            kept = torch.from_numpy(np.flatnonzero(alive))
            state.keep(kept.to(ids_B.device))
            ids_B, keys = ids_B[kept.to(ids_B.device)], keys[kept]
            rows, alive = rows[alive], np.ones(int(alive.sum()), dtype=bool)
        state.append(ids_B)
    return [written_BR[i, : length_B[i]].copy() for i in range(len(prompts))]


def _draw(logits_BV: Tensor, keys_B4: Tensor, sampling: SamplingSettings, seed: int) -> Tensor:
    return draw(
        logits_BV.contiguous(),
        seed=seed,
        keys_N4=keys_B4,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        greedy=sampling.greedy,
    )


def _check_lengths(model: LanguageModel, prompts: Sequence[np.ndarray], max_new_tokens: int) -> None:
    longest = max((len(prompt) for prompt in prompts), default=0)
    needed = max(longest, max_new_tokens) if model.is_encoder_decoder else longest + max_new_tokens
    if needed > model.max_positions:
        raise DataError(
            f"a prompt of {longest} tokens and a response of {max_new_tokens} do not fit the model",
            details=[f"it has {model.max_positions} positions"],
            hint="lower data.max_prompt_tokens or data.max_response_tokens",
        )
