"""Tasks of lm-evaluation-harness on a student, through its own evaluator.

Imported where tasks are asked for alone: the harness is an extra (`[eval]`), and slow to import.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lm_eval import simple_evaluate
from lm_eval.api.model import TemplateLM
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from thack.config import EvaluationSettings, SamplingSettings
from thack.data.sequence import TokenSequence
from thack.errors import UsageError
from thack.generation.sampler import GenerationRequest, generate
from thack.models.batch import Batch
from thack.models.protocol import LanguageModel, evaluating

_LONGEST = 256  # tokens of a generated answer, where the task does not say


def benchmarks(student: LanguageModel, settings: EvaluationSettings, *, seed: int) -> dict[str, float]:
    """Scores by column, `benchmark/TASK/METRIC`, with `/stderr` where the harness gives it.

    Args:
        student: In eval mode, with all its weights; its mode is left as it was.
        settings: Which tasks, where their files are, and at most how many documents of each.
        seed: Of few-shot examples and of answers that are sampled.

    Raises:
        UsageError: there is no such task, or it cannot be read.
    """
    manager = _manager(settings.tasks, settings.tasks_path)
    with evaluating(student), _quiet(), torch.random.fork_rng(devices=[]):
        found = simple_evaluate(
            model=_Student(student, settings.batch_size, seed),
            tasks=list(settings.tasks),
            task_manager=manager,
            limit=settings.tasks_limit or None,
            log_samples=False,
            random_seed=seed,
            numpy_random_seed=seed % (1 << 32),
            torch_random_seed=seed % (1 << 32),
            fewshot_random_seed=seed,
        )
    return dict(_columns(found["results"]))


@cache
def _manager(tasks: tuple[str, ...], path: str) -> TaskManager:
    """The harness's own tasks are looked through only where a task is not among the user's: they are thousands."""
    unknown: list[str] = []
    for with_own in [False, True] if path else [True]:
        found = TaskManager(include_path=str(Path(path).expanduser()) if path else None, include_defaults=with_own)
        unknown = sorted(set(tasks) - set(found.all_tasks))
        if not unknown:
            return found
    raise UsageError(
        f"evaluation.tasks: lm-evaluation-harness knows no {', '.join(unknown)}",
        hint="set `evaluation.tasks_path` to the directory of your task files, or see: lm-eval ls tasks",
    )


def _columns(results: dict[str, dict[str, Any]]) -> Iterator[tuple[str, float]]:
    """The harness names a metric `acc,FILTER`; a filter that is not its default one stays in the name."""
    for task, scores in sorted(results.items()):
        for key, value in scores.items():
            metric, comma, kind = key.partition(",")
            if not comma or isinstance(value, bool) or not isinstance(value, int | float):
                continue
            name = metric.removesuffix("_stderr") + ("" if kind == "none" else f"_{kind}")
            yield f"benchmark/{task}/{name}" + ("/stderr" if metric.endswith("_stderr") else ""), float(value)


class _Student(TemplateLM):  # type: ignore[misc]  # the harness has no types here
    """The harness's view of a model."""

    def __init__(self, model: LanguageModel, batch_size: int, seed: int) -> None:
        super().__init__()
        self._model, self._batch_size, self._seed = model, batch_size, seed
        self._width = min(model.tokenizer.size, model.vocab_size)

    @property
    def eot_token_id(self) -> int:
        return self._model.tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        """What an answer without a context begins behind: the tokenizer's BOS, or else its EOS."""
        begun = self._model.tokenizer.as_prompt(np.empty(0, dtype=np.int32))
        return int(begun[-1]) if len(begun) else self.eot_token_id

    def tok_encode(self, string: str, **options: Any) -> list[int]:
        return [int(i) for i in self._model.tokenizer.encode(string)]

    def _loglikelihood_tokens(self, requests: Sequence[Any], **options: Any) -> list[tuple[float, bool]]:
        """Of every (name, context, answer): Σ log q of the answer, and whether its tokens are the most likely ones."""
        found: list[tuple[float, bool]] = []
        for start in range(0, len(requests), self._batch_size):
            part = [self._sequence(i, *one[1:]) for i, one in enumerate(requests[start : start + self._batch_size])]
            batch = Batch.of(part, self._model.device)
            log_q_NV = self._model(batch)[:, : self._width].float().log_softmax(dim=1)
            own_N = log_q_NV.gather(1, batch.labels_N[:, None])[:, 0].double()
            greedy_N = log_q_NV.argmax(dim=1) == batch.labels_N
            lengths = batch.lengths_B.tolist()
            for nats, most_likely in zip(own_N.split(lengths), greedy_N.split(lengths), strict=True):
                found.append((float(nats.sum()), bool(most_likely.all())))
        return found

    def _sequence(self, number: int, context: Sequence[int], answer: Sequence[int]) -> TokenSequence:
        """A context that does not fit loses its beginning, as in the harness."""
        room = max(self._model.max_positions - len(answer), 1)
        prompt = self._model.tokenizer.as_prompt(np.asarray(context, dtype=np.int32))
        return TokenSequence(
            example=number,
            prompt_id=str(number),
            prompt_ids=prompt[-room:],
            response_ids=np.asarray(answer, dtype=np.int32),
        )

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        return [self._rolling(request.args[0]) for request in requests]

    def _rolling(self, text: str) -> float:
        """Σ log q of a text, in windows of the model's positions, each token once."""
        most = min(self._model.max_positions, 2048) - 1
        windows = get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, most, 1)
        pairs = [("", *make_disjoint_window(window)) for window in windows]
        return sum(nats for nats, _ in self._loglikelihood_tokens(pairs))

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        return [self._answer(number, *request.args) for number, request in enumerate(requests)]

    def _answer(self, number: int, context: str, options: dict[str, Any]) -> str:
        sampled = bool(options.get("do_sample")) and float(options.get("temperature") or 0) > 0
        request = GenerationRequest(
            sampling=SamplingSettings(
                temperature=float(options["temperature"]) if sampled else 1.0,
                top_p=float(options.get("top_p") or 1.0) if sampled else 1.0,
                greedy=not sampled,
            ),
            max_new_tokens=int(options.get("max_gen_toks") or _LONGEST),
            seed=self._seed,
        )
        tokenizer = self._model.tokenizer
        room = max(self._model.max_positions - request.max_new_tokens, 1)
        prompt = tokenizer.as_prompt(tokenizer.encode(context))[-room:]
        (ids,) = generate(self._model, [prompt], request, examples=[number])
        text = tokenizer.decode(ids[:-1] if len(ids) and tokenizer.ends.is_end(ids[-1:])[0] else ids)
        stops = options.get("until") or []
        for stop in [stops] if isinstance(stops, str) else stops:
            text = text.split(stop)[0] if stop else text
        return text


@contextmanager
def _quiet() -> Iterator[None]:
    """The harness's logs and bars would break into ours."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            yield
    finally:
        logging.disable(before)
