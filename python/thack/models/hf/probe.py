"""What a transformers model does with later tokens, with padding and with its cache: tested on a few tokens.

No list of architectures can be complete, and a wrong answer is silent: text that looks fluent, rows that have seen the
token they predict. So each model is asked. The reference is always the model's own forward of one sequence alone.

    scoring     a changed token must not move earlier rows (else the model is refused)
                a padded batch must equal its sequences alone (else batches of equal length)
    generation  the cache must equal the forward (else no cache), padding on the left too (else equal lengths), and
                dropped rows must leave the others as they were (else rows are not dropped)

Cost: 6 forwards of at most 22 tokens when a model is loaded, and about 10 at its first generation. Each reads all
weights once: on a CPU about a second per forward for 7 billion parameters in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from thack.data.sequence import TokenSequence
from thack.data.tokenizer import Tokenizer
from thack.errors import ModelError
from thack.models.batch import Batch
from thack.models.protocol import DecodeState

_LONGEST = 11  # tokens that are read of one sequence
_SHORTEST = 5  # fewer are too few for a test
_WRITTEN = 4  # tokens of a response in the tests of generation
# Cached rows are kept by one of these methods of transformers' caches; some have one, some the other.
_SELECTIONS = ("reorder_cache", "batch_select_indices")
# Largest difference, as a share of the largest logit: rounding stays below, a wrong position or mask is far above.
_EXACT, _ON_A_GPU, _LOW_PRECISION = 2e-4, 5e-3, 0.1  # TF32 is on by default in convolutions
_WIDE = (torch.float32, torch.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """How a model generates exactly.

    Args:
        cached: with its key-value cache; else every token reads the whole text.
        mixed: prompts of several lengths together, padded on the left.
        select: the cache's method that keeps some rows; empty: finished rows stay in the batch.
        offset: the position of a first token, where positions are given; None where the model counts them.
    """

    cached: bool = True
    mixed: bool = True
    select: str = _SELECTIONS[0]
    offset: int | None = None


class Probed(Protocol):
    """What the tests ask of a model."""

    tokenizer: Tokenizer
    is_encoder_decoder: bool
    model: Any

    @property
    def max_positions(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def score(self, batch: Batch, *, first_position: int | None = None) -> Tensor:
        """logits_NV of one padded batch; with `first_position`, positions are given."""

    def state(self, prompts: Sequence[np.ndarray], way: Generation) -> DecodeState:
        """A state of generation in the given way."""


def scores_padded(model: Probed) -> bool:
    """Whether a padded batch scores as its sequences alone.

    Raises:
        ModelError: rows depend on later tokens, so the model is not a causal language model.
    """
    with _undisturbed(model.model, model.device):
        longest = min(_LONGEST, model.max_positions)
        if longest < _SHORTEST:
            return True
        ids = _ordinary_ids(model)
        _require_causal(model, ids, longest)
        sequences = _mixed(ids, longest)
        padded_NV = model.score(_batch(sequences, model.device))
        alone_NV = torch.cat([model.score(_batch([s], model.device)) for s in sequences])
        return _same(padded_NV, alone_NV, _tolerance(model, alone_NV))


def best_generation(model: Probed, *, takes_positions: bool) -> Generation:
    """The fastest way in which `model` generates exactly."""
    with _undisturbed(model.model, model.device):
        longest = min(_LONGEST, model.max_positions)
        if longest < _SHORTEST:
            return Generation(offset=0 if takes_positions else None)
        ids = _ordinary_ids(model)
        offset = _first_position(model, ids, longest) if takes_positions else None
        pair = [_sequence(ids[:longest]), _sequence(ids[1 : longest + 1])]
        for select in (*_SELECTIONS, ""):
            way = Generation(select=select, offset=offset)
            if _generates(model, pair, way, keep=[1]):
                mixed = _generates(model, _mixed(ids, longest), way, keep=[0, 2])
                return Generation(select=select, offset=offset, mixed=mixed)
        return Generation(cached=False, mixed=True, select="", offset=None)


def probe_batch(model: Probed) -> Batch | None:
    """A few tokens for the test of the head; None where the model has no room for them."""
    longest = min(_LONGEST, model.max_positions)
    if longest < _SHORTEST:
        return None
    ids = _ordinary_ids(model)
    return _batch([_sequence(ids[:longest], prompt=1), _sequence(ids[1 : longest + 1], prompt=1)], model.device)


def _require_causal(model: Probed, ids: np.ndarray, longest: int) -> None:
    """Two texts with the same first half: their rows there must be the same."""
    half = longest // 2
    changed = np.concatenate([ids[:half], ids[: longest - half]])
    pair = [_sequence(ids[:longest], prompt=1), _sequence(changed, prompt=1)]
    first_NV, second_NV = model.score(_batch(pair, model.device)).chunk(2)
    # Row i predicts response token i, so it may see those before it: `half` tokens are one of prompt and the others.
    first_NV, second_NV = first_NV[:half], second_NV[:half]
    scale = _scale(first_NV)
    moved_N = (first_NV - second_NV).float().abs().amax(dim=1)
    exact = _is_exact(model, first_NV)
    # In a low precision a few rows move by rounding (experts are chosen anew); a model that looks ahead moves all.
    moved = float(moved_N.max() if exact else moved_N.median())
    if moved > _tolerance(model, first_NV) * scale:
        raise ModelError(
            f"{type(model.model).__name__} is not causal: a later token changes earlier logits (by {moved:.2g})",
            hint="it sees the tokens that it should predict; thack needs a causal or an encoder-decoder model "
            "(for BERT and its relatives: is_decoder = true in config.json, if it was trained so)",
        )


def _first_position(model: Probed, ids: np.ndarray, longest: int) -> int | None:
    """The position of a first token that gives what the model counts itself: 0, or padding_idx + 1 (RoBERTa)."""
    batch = _batch([_sequence(ids[:longest])], model.device)
    own_NV = model.score(batch)
    pad_id = getattr(model.model.config, "pad_token_id", None)
    for first in (0, *([pad_id + 1] if isinstance(pad_id, int) and pad_id >= 0 else [])):
        try:
            given_NV = model.score(batch, first_position=first)
        except Exception:  # transformers' own, for positions of another shape: then the model counts itself
            continue
        if _same(given_NV, own_NV, _tolerance(model, own_NV)):
            return int(first)
    return None


def _generates(model: Probed, sequences: Sequence[TokenSequence], way: Generation, *, keep: Sequence[int]) -> bool:
    """Whether generating the responses gives the logits of the forward; half way only the rows `keep` continue."""
    expected = [model.score(_batch([s], model.device)) for s in sequences]
    rows = list(range(len(sequences)))
    try:
        state = model.state([s.prompt_ids for s in sequences], way)
        for t in range(_WRITTEN):
            expected_BV = torch.stack([expected[i][t] for i in rows])
            if not _same(state.logits(), expected_BV, _tolerance(model, expected_BV)):
                return False
            if t == _WRITTEN // 2:
                state.keep(torch.tensor(keep, device=model.device))
                rows = list(keep)
            if t + 1 < _WRITTEN:
                state.append(torch.tensor([int(sequences[i].response_ids[t]) for i in rows], device=model.device))
    except Exception:  # a cache of another kind, or none: many different errors in transformers' code
        return False
    return True


def _mixed(ids: np.ndarray, longest: int) -> list[TokenSequence]:
    """Three texts with prompts of different length, not a multiple of 2 or 4 apart: some models count in blocks."""
    prompt = longest - _WRITTEN + 1
    starts = ((0, prompt), (3, 1), (5, max(2, prompt // 2 - 1)))
    return [_sequence(np.roll(ids, -start)[: length + _WRITTEN], prompt=length) for start, length in starts]


def _sequence(ids: np.ndarray, prompt: int | None = None) -> TokenSequence:
    """A text of which `prompt` tokens are given (default: all but those that the tests generate)."""
    count = len(ids) - _WRITTEN if prompt is None else prompt
    return TokenSequence(example=0, prompt_id="probe", prompt_ids=ids[:count], response_ids=ids[count:])


def _batch(sequences: Sequence[TokenSequence], device: torch.device) -> Batch:
    return Batch.of(sequences, device)


def _ordinary_ids(model: Probed) -> np.ndarray:
    """int32 ids from end to end of the vocabulary that have no special meaning, in no order."""
    config = model.model.config.get_text_config(decoder=True).to_dict()
    special = {model.tokenizer.pad_id, model.tokenizer.bos_id, *model.tokenizer.ends.ids}
    special |= {value for key, value in config.items() if key.endswith("token_id") and isinstance(value, int)}
    ids = [i for i in range(model.tokenizer.size) if i not in special] or [0]
    count = 2 * _LONGEST
    places = (np.arange(count) * 7 % count) * len(ids) // count
    return np.asarray(ids, dtype=np.int32)[places]


def _is_exact(model: Probed, logits: Tensor) -> bool:
    """Whether the model computes in float32 throughout."""
    quantised = getattr(model.model, "hf_quantizer", None) is not None
    return logits.dtype in _WIDE and next(model.model.parameters()).dtype in _WIDE and not quantised


def _tolerance(model: Probed, logits: Tensor) -> float:
    if not _is_exact(model, logits):
        return _LOW_PRECISION
    return _EXACT if logits.device.type == "cpu" else _ON_A_GPU


def _scale(logits: Tensor) -> float:
    """The largest logit, from the middle of its row."""
    logits = logits.float()
    return float((logits - logits.mean(dim=1, keepdim=True)).abs().max())


def _same(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    far = float((found - expected).float().abs().max())
    return far <= tolerance * _scale(expected)


@contextmanager
def _undisturbed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode, no gradient, no autocast; training mode and the CPU's random numbers are left as they were."""
    was_training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False), torch.random.fork_rng(devices=[]):
            yield
    finally:
        for module, training in was_training.items():
            module.training = training


def head_reader(model: Probed, batch: Batch, run: Callable[[Batch], tuple[Tensor, Tensor]]) -> Callable[[], Any]:
    """`run` of one batch, undisturbed: what `measured_form` calls."""

    def read() -> tuple[Tensor, Tensor]:
        with _undisturbed(model.model, model.device):
            return run(batch)

    return read
