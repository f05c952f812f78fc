"""Records of any kind from hidden states that an inference engine wrote, and the teacher's own norm and head.

The states are those of vLLM's extraction (`extract_hidden_states`, with the number of layers as the last layer id): a
safetensors file for each request, with `token_ids` [T] and `hidden_states` [T, layers, H] or [T, H]. The state of token
t predicts token t + 1. vLLM's are from before the final norm; whether a source's are, is measured: the teacher computes
the shortest sequence itself, and the states must give its distributions. So a wrong layer or another model is refused.

A teacher that is too large to load gives its final norm and head alone (`head_only`). Whether states are from behind
the norm is then seen by their size, and states that explain the responses no better than chance are refused. Which
layer or model they are of cannot be seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thack.cache.capture.data import CaptureData
from thack.cache.capture.job import capture
from thack.cache.capture.preparation import capture_data, load_teacher, prepare_directory
from thack.cache.exchange.source_row import token_ids
from thack.cache.exchange.tensors import TensorFile, tensor_files
from thack.config import CacheSettings
from thack.data.date import follow_settings
from thack.data.sequence import TokenSequence
from thack.data.teacher_prompt import refuse_teacher_prompts
from thack.errors import DataError, MismatchError, ModelError, UsageError
from thack.files import digest
from thack.models.batch import Batch
from thack.models.load import load_head
from thack.models.protocol import HeadForm, LanguageModel
from thack.runtime.device import choose_device
from thack.runtime.progress import SILENT, Progress
from thack.targets.projected import Projection
from thack.targets.vocabulary import log_probs

_BLOCK = 512  # sequences that are looked at together
_JUDGED = 32  # sequences by whose likelihood the states of a head alone are judged
_ROUNDED = 0.02  # of the size of a row that was rounded to bfloat16, with room
_SAME = 0.05  # mean total variation between the engine's bfloat16 states and the teacher's own, at most


def import_hidden(
    settings: CacheSettings,
    progress: Progress = SILENT,
    *,
    teacher: LanguageModel | None = None,
    sequences: Sequence[TokenSequence] | None = None,
) -> Path:
    """Write the cache that `settings` describe from `settings.hidden_states`, or resume it.

    Args:
        settings: of the cache; `data` names the prompts and responses that the engine has read.
        progress: counts sequences.
        teacher: used instead of `settings.teacher`.
        sequences: used instead of `settings.data`.

    Returns:
        The directory of the cache.

    Raises:
        DataError: a file that is none of hidden states, or a sequence that no file holds.
        MismatchError: the states are not the teacher's.
        ModelError: the teacher's logits are more than norm, head, scale and bound.
    """
    teacher = teacher or _load(settings, progress)
    states = StateFiles(Path(settings.hidden_states).expanduser())
    directory = Path(settings.out).expanduser()
    prepare_directory(directory)
    data = capture_data(settings, teacher.tokenizer, sequences, SILENT, directory)  # shown by the capture
    refuse_teacher_prompts(data.has_teacher_prompts, "hidden states are looked up by the prompt that all models read")
    shortest = states.check_covers(data)
    first = data.read(range(min(_JUDGED, len(data)))) if settings.head_only else [shortest]
    stored = StoredStates(teacher, states, first, head_only=settings.head_only)
    progress.note(
        f"hidden states: {len(states):,} files, from {'behind' if stored.normed else 'before'} the final norm"
    )
    return capture(settings, progress, teacher=stored, sequences=sequences)


def _load(settings: CacheSettings, progress: Progress) -> LanguageModel:
    if not settings.head_only:
        return load_teacher(settings, progress)
    device = choose_device(settings.device)
    teacher = load_head(settings.teacher, device=device, options=settings.load, progress=progress)
    follow_settings(teacher, settings.data, Path(settings.out).expanduser())
    progress.note("warning: head_only: that the states are of this teacher and of its last layer is not compared")
    return teacher


class StateFiles:
    """The files of a directory by the ids that they hold states of."""

    def __init__(self, directory: Path) -> None:
        self._paths: dict[str, Path] = {}
        for path in tensor_files(directory, "hidden_states"):
            ids = _token_ids(path)
            # The last id may be one that the engine generated: its states are of the ids before.
            self._paths.setdefault(_name(ids[:-1]), path)
            self._paths[_name(ids)] = path

    def __len__(self) -> int:
        return len(set(self._paths.values()))

    def path(self, prompt_ids: np.ndarray, response_ids: np.ndarray) -> Path | None:
        """The file with the states that predict the response; None: there is none."""
        whole = np.concatenate([prompt_ids, response_ids])
        return self._paths.get(_name(whole)) or self._paths.get(_name(whole[:-1]))

    def states(self, prompt_ids: np.ndarray, response_ids: np.ndarray) -> np.ndarray:
        """float32 [R, H]: row t predicts response token t."""
        path = self.path(prompt_ids, response_ids)
        assert path is not None, "checked before"
        first = len(prompt_ids) - 1
        with TensorFile(path) as file:
            found = file.rows("hidden_states", first, first + len(response_ids)).astype(np.float32)
        return found[:, -1] if found.ndim == 3 else found

    def check_covers(self, data: CaptureData) -> TokenSequence:
        """See that every sequence has a file; returns the shortest of them.

        Raises:
            DataError: there is none of some.
        """
        shortest: TokenSequence | None = None
        missing: list[str] = []
        lacking = 0
        for first in range(0, len(data), _BLOCK):
            for s in data.read(range(first, min(first + _BLOCK, len(data)))):
                if self.path(s.prompt_ids, s.response_ids) is None:
                    lacking += 1
                    missing += [s.prompt_id] if lacking <= 3 else []
                if shortest is None or _length(s) < _length(shortest):
                    shortest = s
        if lacking:
            names = ", ".join(missing) + (", …" if lacking > 3 else "")
            raise DataError(
                f"no hidden states for {lacking:,} of {len(data):,} sequences",
                details=[f"missing: {names}"],
                hint="give the engine the ids of prompt and response as thack data show prints them, in one prompt",
            )
        if shortest is None:
            raise UsageError("the data holds no sequence to cache", hint="check `data.path` and `data.limit`")
        return shortest


def _length(s: TokenSequence) -> int:
    return len(s.prompt_ids) + len(s.response_ids)


def _token_ids(path: Path) -> np.ndarray:
    with TensorFile(path) as file:
        shapes = file.shapes
        if not {"token_ids", "hidden_states"} <= shapes.keys():
            raise DataError(f"{path}: no tensors token_ids and hidden_states", hint=f"it holds: {', '.join(shapes)}")
        count, states = shapes["token_ids"], shapes["hidden_states"]
        if len(count) != 1 or len(states) not in (2, 3) or states[0] != count[0] or count[0] < 2:
            raise DataError(f"{path}: token_ids {count} and hidden_states {states} do not match")
        return token_ids(file.rows("token_ids", 0, count[0]), str(path))


def _name(ids: np.ndarray) -> str:
    return digest(np.ascontiguousarray(ids, "<i4").tobytes())


class StoredStates(nn.Module):
    """The teacher in every respect but one: its hidden states come from files.

    Args:
        teacher: in full, or its first layer, final norm and head (`load_head`).
        states: of the sequences.
        examples: the sequences by which the side of the norm is found.
        head_only: the teacher does not compute the examples itself, to see that the states are its own.

    Raises:
        ModelError: the teacher's logits are more than its last norm, head, scale and bound.
        MismatchError: the states are not the teacher's.
    """

    routers = None  # they have chosen already

    def __init__(
        self, teacher: LanguageModel, states: StateFiles, examples: Sequence[TokenSequence], *, head_only: bool = False
    ) -> None:
        super().__init__()
        if teacher.is_encoder_decoder:
            raise ModelError("hidden states are read for decoder-only teachers alone")
        self._teacher, self._states = teacher.eval(), states
        self._head = Projection.of(teacher)
        self.tokenizer, self.is_encoder_decoder, self.facts = teacher.tokenizer, False, teacher.facts
        self._norm, self.normed, self._head_only = _final_norm(teacher, examples[0]), False, head_only
        if head_only:
            self._judge(examples)
        else:
            self._compare(examples[0])

    @property
    def head_form(self) -> HeadForm | None:
        return self._teacher.head_form

    @property
    def vocab_size(self) -> int:
        return self._teacher.vocab_size

    @property
    def max_positions(self) -> int:
        return self._teacher.max_positions

    @property
    def device(self) -> torch.device:
        return self._teacher.device

    def head(self) -> nn.Linear:
        return self._teacher.head()

    def fingerprint(self, *, full: bool | None = None) -> str:
        """The teacher's: the numbers are its own. Of a head alone, that of the head."""
        if self._head_only:
            return f"head:{self._teacher.fingerprint(full=False)}"
        return self._teacher.fingerprint(full=full)

    def start(self, prompts: Sequence[np.ndarray], max_new_tokens: int) -> Any:
        raise AssertionError("hidden states generate nothing")

    def save(self, directory: Path, *, dtype: torch.dtype | None = None) -> None:
        raise AssertionError("hidden states are not saved as a model")

    def forward(self, batch: Batch, *, project: bool = True) -> Tensor:
        """logits_NV from the files' states; hidden_NH behind the norm if not `project`."""
        pairs = zip(batch.prompts, batch.responses, strict=True)
        rows = [torch.from_numpy(self._states.states(prompt, response)) for prompt, response in pairs]
        hidden_NH = torch.cat(rows).to(self.device)
        if not self.normed:
            hidden_NH = self._norm(hidden_NH.to(_dtype(self._norm)))
        return self._logits(hidden_NH) if project else hidden_NH

    def _logits(self, hidden_NH: Tensor) -> Tensor:
        head = self._head
        bias = None if head.bias_V is None else head.bias_V.float()
        return head.shape(nn.functional.linear(hidden_NH.float(), head.weight_VH.float(), bias))

    def _compare(self, s: TokenSequence) -> None:
        """Find out on which side of the norm the states are, by the teacher's own distributions."""
        batch, width = Batch.of([s], self.device), self.tokenizer.size
        with torch.no_grad():
            expected_NV = log_probs(self._teacher(batch), width).exp()
            distances = []
            for self.normed in (False, True):
                found_NV = log_probs(self(batch), width).exp()
                distances.append(float((found_NV - expected_NV).abs().sum(1).mean()) / 2)
        self.normed = distances[1] < distances[0]
        if not min(distances) <= _SAME:
            raise MismatchError(
                "the hidden states are not those of this teacher's last layer",
                details=[
                    f"total variation on prompt {s.prompt_id}, taken from before the norm  {distances[0]:.3f}",
                    f"total variation on prompt {s.prompt_id}, taken from behind the norm  {distances[1]:.3f}",
                ],
                hint="extract the last layer (for vLLM the id num_hidden_layers), of the model in `teacher`",
            )

    def _judge(self, examples: Sequence[TokenSequence]) -> None:
        """Find out on which side of the norm the states are, by their size; then how likely they make the responses."""
        batch, width = Batch.of(examples, self.device), self.tokenizer.size
        rows_N = torch.arange(len(batch.labels_N), device=batch.labels_N.device)
        with torch.no_grad():
            self.normed = True
            self.normed = _is_normed(self._norm, self(batch, project=False))
            nats = -float(log_probs(self(batch), width)[rows_N, batch.labels_N].mean())
        if not nats < math.log(width):
            raise MismatchError(
                "the hidden states explain the responses no better than chance",
                details=[
                    f"nats per token  {nats:.3f}, taken from {'behind' if self.normed else 'before'} the norm",
                    f"of {width:,} equal ids  {math.log(width):.3f}",
                ],
                hint="extract the last layer (for vLLM the id num_hidden_layers), of the model in `teacher`",
            )


def _is_normed(norm: nn.Module, hidden_NH: Tensor) -> bool:
    """Whether all rows are outputs of the norm: without its weight and bias they have a mean square of 1.

    Signs have mean 0 and mean square 1, so that a norm of either kind gives their product with its weight, and its
    bias.
    """
    signs_H = 1 - 2 * (torch.arange(hidden_NH.shape[1], device=hidden_NH.device) % 2).to(_dtype(norm))
    plus_H, minus_H = norm(signs_H[None])[0].float(), norm(-signs_H[None])[0].float()
    weight_H, bias_H = (plus_H - minus_H) / 2 * signs_H, (plus_H + minus_H) / 2
    has_weight_H = weight_H != 0
    plain_NH = ((hidden_NH.float() - bias_H) / weight_H)[:, has_weight_H]
    sizes_N = plain_NH.square().mean(dim=1).sqrt()
    return bool(((sizes_N - 1).abs() < _ROUNDED).all())


def _dtype(module: nn.Module) -> torch.dtype:
    return next((parameter.dtype for parameter in module.parameters()), torch.float32)


def _final_norm(teacher: LanguageModel, s: TokenSequence) -> nn.Module:
    """The module whose output the head reads: the last norm that runs.

    Raises:
        ModelError: the head reads something else.
    """
    assert isinstance(teacher, nn.Module)
    outputs: list[tuple[nn.Module, Tensor]] = []
    handles = [
        module.register_forward_hook(lambda module, inputs, output: outputs.append((module, output)))
        for module in teacher.modules()
        if "norm" in type(module).__name__.lower()
    ]
    try:
        with torch.no_grad():
            hidden_NH = teacher(Batch.of([s], teacher.device), project=False)
    finally:
        for handle in handles:
            handle.remove()
    for module, output in reversed(outputs):
        if isinstance(output, Tensor) and output.shape[-1] == hidden_NH.shape[-1]:
            rows_MH = output.reshape(-1, output.shape[-1])
            if all((rows_MH == hidden_H).all(dim=1).any() for hidden_H in hidden_NH):
                return module
    raise ModelError(
        f"{type(teacher).__name__}: what its head reads is not the output of a norm",
        hint="capture this teacher directly: thack cache-logits",
    )
