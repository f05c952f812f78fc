"""Benchmarks on the way: tasks of lm-evaluation-harness at evaluations of a run."""

from __future__ import annotations

from thack.config import EvaluationSettings
from thack.models.protocol import LanguageModel
from thack.runtime.process_group import ProcessGroup
from thack.training.hooks import Columns, Hook


class Benchmarks(Hook):
    """Scores of the tasks, at the last evaluation or at each; one rank computes them for all."""

    def __init__(self, settings: EvaluationSettings, *, seed: int, group: ProcessGroup) -> None:
        self._settings, self._seed, self._group = settings, seed, group

    def evaluate(self, step: int, student: LanguageModel) -> Columns:
        return self._scores(student) if self._settings.tasks_at == "every" else {}

    def evaluate_last(self, step: int, student: LanguageModel) -> Columns:
        return self._scores(student) if self._settings.tasks_at == "end" else {}

    def _scores(self, student: LanguageModel) -> Columns:
        if not self._settings.tasks:
            return {}
        found: Columns = {}
        with self._group.raise_on_all_ranks():
            if self._group.is_first:
                from thack.evaluation.harness import benchmarks

                found = benchmarks(student, self._settings, seed=self._seed)
        return self._group.broadcast_from_rank0(found)
