"""What exceptions of the machine and of torch mean, and what to do about them."""

from __future__ import annotations

import errno
from collections.abc import Callable

from thack.errors import PeerFailed, ThackError

_MEMORY = (
    "lower `micro_batch_size`, `evaluation.batch_size` or `source.batch_size`, or set "
    "`memory.checkpoint_activations = true` or, on several GPUs, `parallel.strategy = fsdp`, "
    "and run the command again to resume; "
    "a lower `batch_size` or `data.max_response_tokens` changes the result, and needs another `out`"
)
_PEER = "that rank's own message gives the cause; run the same command again to resume from the last checkpoint"


def lost_peer(error: BaseException) -> PeerFailed:
    """For a collective that failed: another rank is gone, or did not answer in time."""
    return PeerFailed("a peer rank exited or timed out", details=_first_line(error), hint=_PEER)


def out_of_memory(error: BaseException) -> ThackError:
    """The memory of the device or of the machine is used up."""
    return ThackError("out of memory", details=_first_line(error), hint=_MEMORY)


def explained_failure(error: BaseException) -> ThackError | None:
    """An exception as an error that a user can act on; None where it is not known, and so may be a bug."""
    return next((explain(error) for fits, explain in _TABLE if fits(error)), None)


def is_out_of_memory(error: BaseException) -> bool:
    """Python's own type, torch's, or the message of torch's CPU allocator, which has no type."""
    return isinstance(error, MemoryError) or _is_torchs(error, "OutOfMemoryError") or "can't allocate" in str(error)


def _is_torchs(error: BaseException, name: str) -> bool:
    """By name, so that nothing imports torch to find out."""
    return any(t.__name__ == name and t.__module__.partition(".")[0] == "torch" for t in type(error).__mro__)


def _is_the_systems(error: BaseException) -> bool:
    return isinstance(error, OSError) and bool(error.strerror)


def _system_error(error: BaseException) -> ThackError:
    """With the file, where there is one; and the limit that was reached, where it was one."""
    assert isinstance(error, OSError) and error.strerror
    hint = _LIMITS.get(error.errno or 0)
    return ThackError(
        f"{error.filename}: {error.strerror.lower()}" if error.filename else error.strerror.lower(), hint=hint
    )


def is_panic(error: BaseException) -> bool:
    """Whether a library in Rust has panicked: PyO3's exception, which is no `Exception`."""
    return type(error).__name__ == "PanicException"


def _wants_a_thread(error: BaseException) -> bool:
    """Python's words, and those of rayon's pool in the tokenizers library."""
    pool = is_panic(error) and "ThreadPoolBuildError" in str(error)
    return pool or (isinstance(error, RuntimeError) and "can't start new thread" in str(error))


def _no_thread(error: BaseException) -> ThackError:
    return ThackError("this machine grants no further thread", hint=_LIMITS[errno.EAGAIN])


_LIMITS = {
    errno.EAGAIN: "raise `ulimit -u`, or set THACK_NUM_THREADS to a lower number",
    errno.EFBIG: "raise `ulimit -f`, and run the same command again",
    errno.EMFILE: "raise `ulimit -n`, and run the same command again",
    errno.ENOSPC: "free space, and run the same command again",
    errno.EDQUOT: "free space, and run the same command again",
}


def _first_line(error: BaseException) -> list[str]:
    return [line for line in str(error).split("\n")[:1] if line]


_TABLE: tuple[tuple[Callable[[BaseException], bool], Callable[[BaseException], ThackError]], ...] = (
    (is_out_of_memory, out_of_memory),
    (lambda error: _is_torchs(error, "DistError"), lost_peer),
    (_wants_a_thread, _no_thread),
    (_is_the_systems, _system_error),
)
