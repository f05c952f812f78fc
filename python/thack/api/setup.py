"""Before a run: the machine, the models and the data are looked at, and jobs for Slurm are written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from thack.config import DoctorSettings, SlurmSettings, checked

if TYPE_CHECKING:
    from thack.schema.preflight import Finding, Preflight


def doctor(out: str | Path = ".") -> tuple[Finding, ...]:
    """Whether this machine is ready: versions, SIMD, threads, GPUs, and the file system of `out`.

    Args:
        out: Where a run would write; it need not exist.

    Returns:
        What was found, each ok, a note, or wrong with advice.

    Example:
        >>> [finding.value for finding in thack.doctor() if finding.name == "O_EXCL"][0].startswith("works")
        True
    """
    from thack.runtime.doctor import examine

    return tuple(examine(Path(out)))


def preflight(settings: DoctorSettings) -> Preflight:
    """Whether a teacher, a student and data go together: templates, ends, vocabulary, lengths, the teacher's fit.

    Args:
        settings: Data, with a teacher, a student or both; see `DoctorSettings`.

    Returns:
        The facts, and what they mean: each finding ok, a note, or wrong with advice.

    Raises:
        UsageError: No data, or no model.
        DataError: Data that cannot be read.
        ModelError: A model that cannot be loaded.

    Example:
        >>> data = thack.DataSettings(path="responses")
        >>> found = thack.preflight(thack.DoctorSettings(teacher="runs/teacher/model", data=data))
        >>> [finding.name for finding in found.findings][:2]
        ["teacher's tokens", 'padded ids']
    """
    from thack.training.preflight import examine

    return examine(checked(settings))


def slurm_script(settings: SlurmSettings) -> str:
    """An sbatch script that runs a command of thack, survives preemption and requeues itself.

    Args:
        settings: The command, its arguments, and the resources; see `SlurmSettings`.

    Returns:
        The text of the sbatch script.

    Raises:
        UsageError: A command that cannot run like this.

    Example:
        >>> job = thack.SlurmSettings(command="distill", arguments=("--cache", "cache", "--out", "runs/a"), gpus=2)
        >>> "#SBATCH --gpus-per-task=2" in thack.slurm_script(job)
        True
    """
    from thack.slurm import render

    return render(checked(settings))
