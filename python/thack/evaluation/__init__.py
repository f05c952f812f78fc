"""Golden and proxy metrics on a frozen evaluation set of held-out prompts, and health beside them."""

from thack.evaluation.eval_set import EvalSet
from thack.evaluation.evaluator import Evaluator, Measured, distance, evaluate
from thack.evaluation.references import References
from thack.evaluation.run import run_evaluate

__all__ = ["EvalSet", "Evaluator", "Measured", "References", "distance", "evaluate", "run_evaluate"]
