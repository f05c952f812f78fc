"""Checks of meaning before training: do teacher, student and data say the same?

Nothing later in a run would notice an end of turn that the student never learns, a template that differs, or rows that
predict another token than their own. `examine` is `thack doctor` with models; `examine_run` is the same in a run.
"""

from thack.training.preflight.findings import CELLS, COUNTED
from thack.training.preflight.run import examine, examine_run

__all__ = ["CELLS", "COUNTED", "examine", "examine_run"]
