"""Golden and proxy metrics on a frozen bank of held-out prompts, and health beside them."""

from thack.metrics.bank import PromptBank
from thack.metrics.distance import Evaluation, Evaluator, distance, evaluate
from thack.metrics.run import run_evaluate

__all__ = ["Evaluation", "Evaluator", "PromptBank", "distance", "evaluate", "run_evaluate"]
