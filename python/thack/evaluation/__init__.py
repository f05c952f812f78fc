"""How far a student is from its references on held-out prompts.

golden.py, proxy.py  the two metrics: one distance, with the oracle and with the teacher as reference
evaluator.py         that distance, the baseline KL(oracle‖teacher) beside it, and all columns of one evaluation
readings.py          the same responses in the ids of two tokenizers, and the log ratio on them
references.py        oracle, teacher, judge and human responses
eval_set.py          held-out prompts with fixed responses
health.py            entropy, overlap, calibration, repetition; monitor.py  distance on training prompts
"""

from thack.evaluation.eval_set import EvalSet
from thack.evaluation.evaluator import Evaluator
from thack.evaluation.measure import distance, evaluate
from thack.evaluation.measured import Measured
from thack.evaluation.references import References
from thack.evaluation.run import run_evaluate

__all__ = ["EvalSet", "Evaluator", "Measured", "References", "distance", "evaluate", "run_evaluate"]
