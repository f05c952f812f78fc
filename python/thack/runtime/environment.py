"""What a number depends on beside its settings: versions, machine, threads. Stored with every run."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from thack import _native, _version
from thack.runtime.device import fast_bf16_flag
from thack.runtime.ranks import current_rank
from thack.runtime.threads import limits, threads
from thack.schema.run import Environment

_PACKAGES = ("torch", "numpy", "tokenizers", "safetensors", "transformers", "matplotlib", "pyarrow")


def environment() -> Environment:
    """This process and its machine."""
    return Environment(
        thack=native_version(),
        git=_git_revision(),
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        packages={name: found for name in _PACKAGES if (found := version(name))},
        cpu=cpu_name(),
        simd=simd_level(),
        bf16=fast_bf16_flag() or "emulated",
        threads=threads(),
        thread_limits=limits(),
        gpus=gpus(),
        world_size=current_rank().world_size,
        slurm_job=os.environ.get("SLURM_JOB_ID"),
    )


def version(package: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def native_version() -> str:
    """The version of the native module, which is the package's: both come from Cargo.toml."""
    return _version.__version__


def simd_level() -> str:
    """The vector instructions that the Rust kernels chose on this CPU."""
    return _native.simd_level()


def cpu_name() -> str:
    """The model, as the operating system names it."""
    if platform.system() == "Linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def gpus() -> tuple[str, ...]:
    """Names of the GPUs that torch can use, without importing torch where there can be none."""
    if "torch" not in sys.modules and not _may_have_gpu():
        return ()
    import torch  # seconds to import: only where there may be a GPU

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return tuple(torch.cuda.get_device_name(index) for index in range(count))


def _may_have_gpu() -> bool:
    return platform.system() != "Linux" or Path("/proc/driver/nvidia").exists() or Path("/dev/kfd").exists()


def _git_revision() -> str | None:
    """The commit of the checkout that thack runs from, with + where files differ from it; None when installed."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
