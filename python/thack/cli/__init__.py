"""The command line: one file per command, each of which parses, calls and prints."""

from __future__ import annotations

import sys
from typing import NoReturn

from thack.errors import ThackError
from thack.runtime.preemption import StopRequest, ignore_signals, install, stop_error
from thack.runtime.streams import protect_streams, say
from thack.runtime.threads import let_idle_threads_sleep, require_a_thread

__all__ = ["main"]


def main() -> NoReturn:
    """Run the command line and exit with the documented code.

    Signals are answered before anything that takes time is imported.
    """
    try:
        install()
        protect_streams()
        let_idle_threads_sleep()
        require_a_thread()  # else NumPy's BLAS ends the process as Ctrl-C does
        from thack.cli.app import run

        code = run(sys.argv[1:])
    except ThackError as failure:
        say(f"error: {failure}")
        code = failure.exit_code
    except (StopRequest, KeyboardInterrupt) as request:
        error = stop_error(str(request) if isinstance(request, StopRequest) else "SIGINT")
        say(f"error: {error.message}")
        code = error.exit_code
    ignore_signals()  # the work is done, and its code is known
    sys.exit(code)
