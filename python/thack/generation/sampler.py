"""Autoregressive generation in fixed batches of similar length, with a named random number for every token.

The random number of a token is a function of (seed, epoch, example, sample, position) alone: batch size, number of
ranks and resume point do not matter. Logits can differ in their last bit between batches of other shapes, so the
same text to the byte is promised for the same batches. The model runs in eval mode. Its own generation settings are
not used: `GenerationRequest.sampling` alone decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from thack.config import SamplingSettings
from thack.data.sequence import TokenSequence
from thack.errors import DataError
from thack.generation.kept import KeptStream
from thack.kernels import sample as draw
from thack.models.precision import FLOAT32, Precision
from thack.models.protocol import LanguageModel, evaluating
from thack.runtime.process_group import ALONE, ProcessGroup
from thack.runtime.progress import SILENT, Progress

_KEEP_BELOW = 0.75  # drop finished rows once a smaller share of the batch is unfinished: a copy costs time too


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """How responses are sampled.

    Args:
        sampling: temperature, top-k, top-p, min-p, or greedy.
        max_new_tokens: longest response, in tokens, ≥ 1.
        seed: of every random number.
        epoch: names the random numbers; 0 is what `thack generate` and `thack cache-logits` use.
        batch_size: responses that are generated at a time.
        precision: of the model's products, as `inference_precision` decides it.
    """

    sampling: SamplingSettings
    max_new_tokens: int
    seed: int
    epoch: int = 0
    batch_size: int = 256
    precision: Precision = FLOAT32


def generate(
    model: LanguageModel,
    prompts: Sequence[np.ndarray],
    request: GenerationRequest,
    *,
    examples: Sequence[int] | np.ndarray,
    samples: int | np.ndarray = 0,
    progress: Progress = SILENT,
    task: str = "generate",
    group: ProcessGroup = ALONE,
    kept: KeptStream | None = None,
) -> list[np.ndarray]:
    """Generate one response to each prompt.

    Ranks share the batches, which are the same for any number of ranks, and gather the responses. The model's
    training mode and torch's global generator are left as they were.

    Args:
        model: generates the responses.
        prompts: token ids, int32 [P], P ≥ 1 each.
        request: how to sample.
        examples: index in the data set of each prompt: names its random numbers.
        samples: which of several responses to its prompt each one is: names its random numbers too.
        progress: counts responses.
        task: what that is called.
        group: the ranks that share the work.
        kept: where batches are committed as they are complete, and found again by the next start.

    Returns:
        Of each response the ids, int32 [R], 1 ≤ R ≤ request.max_new_tokens, with its end unless it was cut.

    Raises:
        DataError: the longest prompt and `max_new_tokens` exceed the model's positions.

    Example:
        >>> from thack.config import ArchitectureSettings
        >>> from thack.data.tokenizer import Tokenizer
        >>> from thack.models.load import new_decoder
        >>> tokenizer = Tokenizer.train(["def read(path): read the file"] * 3, 264)
        >>> model = new_decoder(ArchitectureSettings(hidden_size=16, num_heads=2), tokenizer, seed=0)
        >>> request = GenerationRequest(sampling=SamplingSettings(), max_new_tokens=5, seed=0)
        >>> prompts = [tokenizer.encode("def read"), tokenizer.encode("the file")]
        >>> responses = generate(model, prompts, request, examples=[0, 1])
        >>> again = generate(model, prompts[1:], request, examples=[1])
        >>> responses[1].tolist() == again[0].tolist()
        True
    """
    _check_lengths(model, prompts, request.max_new_tokens)
    keys_N4 = torch.zeros(len(prompts), 4, dtype=torch.int64)
    for column, values in enumerate((request.epoch, examples, samples)):
        keys_N4[:, column] = torch.from_numpy(np.asarray(values, dtype=np.int64))
    found: list[tuple[int, np.ndarray]] = []
    with (
        evaluating(model),
        request.precision.autocast(model),
        progress.task(task, len(prompts), "responses") as bar,
    ):
        for number, rows in enumerate(_batches(prompts, request.batch_size)):
            if not group.owns(number):
                continue
            responses = None if kept is None else kept.find(rows)
            if responses is None:
                responses = _generate_batch(model, [prompts[i] for i in rows], keys_N4[rows], request)
                if kept is not None:
                    kept.add(rows, responses)
            found += zip(rows, responses, strict=True)
            bar.advance(len(rows))
    return [response for _, response in sorted(group.all_gather(found), key=lambda pair: pair[0])]


def respond(
    model: LanguageModel,
    prompts: Sequence[TokenSequence],
    request: GenerationRequest,
    *,
    samples: int | np.ndarray = 0,
    progress: Progress = SILENT,
    group: ProcessGroup = ALONE,
    kept: KeptStream | None = None,
    as_teacher: bool = False,
) -> list[TokenSequence]:
    """`generate` for sequences: every prompt with its new response and the sample number that names it.

    `as_teacher`: the model reads the prompts that the teacher alone reads.
    """
    own = [s.teacher_prompt_ids if as_teacher else None for s in prompts]
    responses = generate(
        model,
        [s.prompt_ids if ids is None else ids for s, ids in zip(prompts, own, strict=True)],
        request,
        examples=[s.example for s in prompts],
        samples=samples,
        progress=progress,
        group=group,
        kept=kept,
    )
    numbers = np.broadcast_to(samples, len(prompts))
    return [s.with_response(ids, int(n)) for s, ids, n in zip(prompts, responses, numbers, strict=True)]


def _batches(prompts: Sequence[np.ndarray], batch_size: int) -> Iterator[list[int]]:
    """Indices of prompts of similar length. Equal lengths keep their order: batches depend on the prompts alone."""
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def _generate_batch(
    model: LanguageModel, prompts: Sequence[np.ndarray], keys_B4: Tensor, request: GenerationRequest
) -> list[np.ndarray]:
    """The responses of one batch. A finished row is fed EOS until enough have finished to drop them."""
    max_new_tokens = request.max_new_tokens
    ends = model.tokenizer.ends
    width = min(model.tokenizer.size, model.vocab_size)  # ids beyond the tokenizer mean nothing (pitfall 13)
    ids_BR = np.full((len(prompts), max_new_tokens), ends.eos, dtype=np.int32)
    length_B = np.full(len(prompts), max_new_tokens, dtype=np.int64)
    rows = np.arange(len(prompts))  # of the batch that are in the state
    alive = np.ones(len(prompts), dtype=bool)  # of these rows, which are unfinished
    state = model.start(prompts, max_new_tokens)
    keys = keys_B4.clone()
    for position in range(max_new_tokens):
        keys[:, 3] = position
        ids_B = _draw(state.logits()[:, :width], keys, request)
        chosen = ids_B.cpu().numpy()
        ids_BR[rows[alive], position] = chosen[alive]
        ended = alive & ends.is_end(chosen)
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
    return [ids_BR[i, : length_B[i]].copy() for i in range(len(prompts))]


def _draw(logits_BV: Tensor, keys_B4: Tensor, request: GenerationRequest) -> Tensor:
    sampling = request.sampling
    return draw(
        logits_BV.contiguous(),
        seed=request.seed,
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
