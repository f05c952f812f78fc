"""Golden and proxy metrics on a frozen bank of held-out prompts."""

from thack.metrics.bank import PromptBank
from thack.metrics.distance import Evaluation, Evaluator, evaluate
from thack.metrics.run import run_evaluate

__all__ = ["Evaluation", "Evaluator", "PromptBank", "evaluate", "run_evaluate"]
