"""What `thack doctor` looks at: facts about the machine, and checks that say what to do where one fails."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from thack.runtime.device import bf16_speedup
from thack.runtime.environment import environment
from thack.schema.preflight import Finding
from thack.schema.run import Environment


def examine(out: Path) -> list[Finding]:
    """Everything worth knowing before a run that writes into `out`."""
    facts = environment()
    return [*_software(facts), *_processor(facts), *_accelerators(facts), *file_system(out)]


def _software(facts: Environment) -> list[Finding]:
    packages = facts.packages
    found = [
        Finding(name="thack", value=facts.thack + (f" ({facts.git})" if facts.git else "")),
        Finding(name="python", value=f"{facts.python} on {facts.platform}"),
        Finding(name="torch", value=packages.get("torch", "missing")),
    ]
    for name, extra, use in (
        ("transformers", "hf", "checkpoints of other architectures"),
        ("matplotlib", "plot", "plots in reports"),
        ("pyarrow", "data", "Parquet files"),
    ):
        missing = Finding(name=name, value="not installed", state="note", advice=f"{use}: pip install 'thack[{extra}]'")
        found.append(Finding(name=name, value=packages[name]) if name in packages else missing)
    return [*found, _hub()]


def _hub() -> Finding:
    """Whether a model named `org/name` may be fetched from the hub, and where fetched models are kept."""
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    home = os.environ.get("HF_HOME", "~/.cache/huggingface")
    how = "offline (HF_HUB_OFFLINE): only what is there already" if offline else "fetched when named (org/name)"
    return Finding(name="hub", value=f"{how}, in {home}")


def _processor(facts: Environment) -> list[Finding]:
    limits, used = facts.thread_limits, facts.threads
    binding = ", ".join(f"{name} {value}" for name, value in limits.items())
    machine = os.cpu_count() or 1
    threads = Finding(name="threads", value=f"{used} of {machine} cores ({binding})")
    if used > min(limits.values()):
        threads = Finding(
            name="threads",
            value=f"{used}, more than granted ({binding})",
            state="wrong",
            advice="unset THACK_NUM_THREADS, or ask the scheduler for more cores",
        )
    return [
        Finding(name="cpu", value=facts.cpu),
        Finding(name="simd", value=facts.simd),
        threads,
        _bf16(facts),
    ]


def _bf16(facts: Environment) -> Finding:
    speedup = bf16_speedup()
    how = "native" if facts.bf16 != "emulated" else "emulated"
    chosen = "chosen for wide models" if how == "native" and speedup > 1.3 else "float32 is chosen"
    return Finding(name="bfloat16", value=f"{how} ({facts.bf16}), {speedup:.2g} × float32's speed: {chosen}")


def _accelerators(facts: Environment) -> list[Finding]:
    if not facts.gpus:
        return [Finding(name="gpus", value="none")]
    import torch  # seconds to import: only where there is a GPU

    found = []
    for index, name in enumerate(facts.gpus):
        free, total = torch.cuda.mem_get_info(index)
        found.append(Finding(name=f"gpu {index}", value=f"{name}, {free >> 30} of {total >> 30} GiB free"))
    return found


def file_system(out: Path) -> list[Finding]:
    """Can `out` keep what a cache needs: exclusive creation, hard links, renames, fsync, room."""
    place = _existing_parent(out)
    kind = file_system_type(place)
    found = [Finding(name="out", value=f"{out} (on {kind})")]
    if not os.access(place, os.W_OK):
        return [
            *found,
            Finding(name="write", value=f"no permission in {place}", state="wrong", advice="choose another `out`"),
        ]
    found += [_try(name, work, place) for name, work in _TRIALS.items()]
    usage = shutil.disk_usage(place)
    free, low = usage.free / 1e9, usage.free < 5e9
    advice = "a cache of 10 million tokens takes about 2 GB" if low else ""
    found.append(Finding(name="free space", value=f"{free:,.1f} GB", state="note" if low else "ok", advice=advice))
    return found


def _existing_parent(path: Path) -> Path:
    path = path.absolute()
    return next(parent for parent in (path, *path.parents) if parent.is_dir())


def file_system_type(path: Path) -> str:
    """The type of the mount that holds `path`, as Linux lists it."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return "an unknown file system"
    resolved = path.resolve()
    holding = [(len(point), kind) for _, point, kind, *_ in mounts if resolved.is_relative_to(point)]
    return max(holding)[1] if holding else "an unknown file system"


def _try(name: str, work: Callable[[Path], None], place: Path) -> Finding:
    file = place / f".thack-doctor-{os.getpid()}-{secrets.token_hex(4)}"
    started = time.perf_counter()
    try:
        work(file)
        passed = (time.perf_counter() - started) * 1e3
        slow = name == "fsync" and passed > 200
        advice = "shards are committed by fsync: larger shards (shard_tokens) amortise it" if slow else ""
        return Finding(name=name, value=f"works, {passed:.1f} ms", state="note" if slow else "ok", advice=advice)
    except OSError as error:
        advice = "caches need it: choose an `out` on another file system"
        return Finding(name=name, value=f"fails: {error.strerror}", state="wrong", advice=advice)
    finally:
        file.unlink(missing_ok=True)
        file.with_suffix(".2").unlink(missing_ok=True)


def _exclusive(file: Path) -> None:
    os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    try:
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return
    raise OSError(0, "a second exclusive creation of the same file succeeded")


def _link(file: Path) -> None:
    file.touch()
    os.link(file, file.with_suffix(".2"))


def _rename(file: Path) -> None:
    file.touch()
    os.replace(file, file.with_suffix(".2"))


def _fsync(file: Path) -> None:
    with open(file, "wb") as opened:
        opened.write(bytes(1 << 20))
        opened.flush()
        os.fsync(opened.fileno())


_TRIALS: dict[str, Callable[[Path], None]] = {
    "O_EXCL": _exclusive,
    "hard link": _link,
    "rename": _rename,
    "fsync": _fsync,
}
