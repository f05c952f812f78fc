"""What happens at the evaluations of a run, as hooks of its trainer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from thack.evaluation.evaluator import Evaluator
from thack.evaluation.monitor import RecordedKL
from thack.models.protocol import LanguageModel
from thack.schema import document
from thack.schema.metrics import cache_kl, proxy_in
from thack.schema.run import Costs
from thack.training.monitors import TrainingMonitors
from thack.training.run_directory import RunDirectory

Columns = dict[str, float]


class Hook:
    """Part of a run's evaluations. The trainer asks at every step; a hook overrides the methods it needs.

    A hook's decisions depend on its settings and its state alone, so that every rank, and a resumed run, decides alike.
    """

    name = ""  # of its state in a checkpoint; empty: it has none
    planned: frozenset[int] = frozenset()  # steps at which it is known to want an evaluation

    def wants_evaluation(self, step: int) -> bool:
        """Whether to evaluate after `step` optimizer steps."""
        return False

    def wants_checkpoint(self, step: int) -> bool:
        """Whether to save a checkpoint there."""
        return self.wants_evaluation(step)

    def evaluate(self, step: int, student: LanguageModel) -> Columns:
        """Measure the student, which is in eval mode with all its weights; returns columns of metrics.jsonl."""
        return {}

    def after_evaluation(self, step: int, columns: Mapping[str, float]) -> None:
        """Take in what all hooks measured."""

    def evaluate_last(self, step: int, student: LanguageModel) -> Columns:
        """Further columns of the run's last evaluation, which is known once every hook has seen what it measured."""
        return {}

    def costs(self) -> Costs:
        """What it has cost so far, in this process and on all ranks; every rank asks at the same steps."""
        return Costs()

    def should_stop(self, step: int) -> bool:
        """Whether the run ends here, before its plan does."""
        return False

    def protected_steps(self) -> frozenset[int]:
        """Steps whose checkpoints are not pruned."""
        return frozenset()

    def best_step(self) -> int | None:
        """The checkpoint whose model becomes the run's; None: no opinion, which means the last one."""
        return None

    def kept_step(self) -> int | None:
        """The checkpoint that is published beside the run's model, as best/; None: none is."""
        return None

    def state_dict(self) -> Mapping[str, object]:
        """What a checkpoint stores: plain values that nothing changes later."""
        return {}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Restore what `state_dict` gave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lowest:
    """The evaluation with the lowest proxy so far."""

    step: int | None = None
    nats: float = math.inf


class BestProxy(Hook):
    """Keeps the checkpoint that is nearest to the teacher on held-out prompts; it becomes best/ beside model/."""

    name = "best"

    def __init__(self, steps: Iterable[int]) -> None:
        """`steps`: of the evaluations at which a checkpoint is saved."""
        self._steps = frozenset(steps)
        self._lowest = _Lowest()

    def after_evaluation(self, step: int, columns: Mapping[str, float]) -> None:
        nats = proxy_in(columns)
        if nats is not None and step and step in self._steps and nats < self._lowest.nats:
            self._lowest = _Lowest(step=step, nats=nats)

    def protected_steps(self) -> frozenset[int]:
        return frozenset() if self._lowest.step is None else frozenset({self._lowest.step})

    def kept_step(self) -> int | None:
        return self._lowest.step

    def state_dict(self) -> Mapping[str, object]:
        return {} if self._lowest.step is None else document.dump(self._lowest)

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        self._lowest = document.parse(_Lowest, state, "state of the best checkpoint") if state else _Lowest()


class Evaluation(Hook):
    """Golden, proxy and health on the evaluation set, and the distance to the teacher on training prompts."""

    def __init__(
        self,
        steps: Iterable[int],
        evaluator: Evaluator | None,
        monitors: TrainingMonitors | None,
        run: RunDirectory,
        caches: Sequence[RecordedKL] = (),
    ) -> None:
        """`caches`: what is measured by each of several caches."""
        self.planned = frozenset(steps)
        self._caches = caches
        self._evaluator = evaluator
        self._monitors = monitors
        self._run = run
        self._costs = Costs()

    def wants_evaluation(self, step: int) -> bool:
        return step in self.planned

    def evaluate(self, step: int, student: LanguageModel) -> Columns:
        training = {} if self._monitors is None else self._monitors.measure(student)
        columns = {str(name): sums.token_mean for name, sums in training.items()}
        columns |= {cache_kl(i): one.measure(student).token_mean for i, one in enumerate(self._caches, start=1)}
        if self._evaluator is not None:
            found = self._evaluator.evaluate(student)
            columns |= found.named()
            self._costs += Costs(
                evaluation_generated_tokens=found.generated_tokens, evaluation_scored_tokens=found.scored_tokens
            )
            if found.kept is not None:
                ids, group = self._evaluator.eval_set.ids, self._run.group
                self._run.append_samples(found.kept.rows(step, ids, student.tokenizer, group))
            self._run.append_per_prompt(replace(found.per_prompt_row(step), training=training))
        return columns

    def costs(self) -> Costs:
        return self._costs if self._monitors is None else self._costs + self._monitors.costs()
