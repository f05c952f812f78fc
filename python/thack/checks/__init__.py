"""What can be refused before anything is loaded: settings, combinations, and the files that they name.

No module here imports torch, so that a mistake is told at once. What only a loaded model can tell is refused later.
"""

from thack.checks.captures import check_capture
from thack.checks.combinations import check_combination
from thack.checks.commands import check_distill, check_evaluate, check_generate, check_planned, check_push, check_sft

__all__ = [
    "check_capture",
    "check_combination",
    "check_distill",
    "check_evaluate",
    "check_generate",
    "check_planned",
    "check_push",
    "check_sft",
]
