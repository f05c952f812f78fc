"""Golden and proxy metrics on a frozen evaluation set of held-out prompts, and health beside them."""

from thack.evaluation.distance import Evaluation, Evaluator, distance, evaluate
from thack.evaluation.eval_set import EvalSet
from thack.evaluation.run import run_evaluate

__all__ = ["EvalSet", "Evaluation", "Evaluator", "distance", "evaluate", "run_evaluate"]
