"""The `thack` command: its commands, and how every failure becomes a short message and an exit code."""

from __future__ import annotations

import sys
import traceback
from contextlib import suppress
from typing import Annotated, Any

import typer

from thack._version import __version__
from thack.cli import (
    cache,
    cache_logits,
    corpus,
    data,
    demo,
    distill,
    doctor,
    evaluate,
    experiment,
    generate,
    merge,
    push,
    report,
    sft,
    slurm,
    verdict,
)
from thack.cli.console import error_document, print_error, print_json
from thack.cli.messages import translated
from thack.cli.parsing import KnownGroup, usage_error
from thack.cli.session import command_line, session
from thack.errors import Interrupted, PeerFailed, Preempted, ThackError, UsageError
from thack.runtime.failures import explained_failure, is_panic
from thack.runtime.preemption import StopRequest, stop_error
from thack.runtime.ranks import current_rank
from thack.runtime.streams import abandon_stdout, say

# In the order of the pipeline: as the help lists them.
_COMMANDS = (
    demo,
    experiment,
    corpus,
    data,
    sft,
    generate,
    cache_logits,
    distill,
    merge,
    push,
    evaluate,
    verdict,
    report,
    cache,
    slurm,
    doctor,
)


def run(arguments: list[str]) -> int:
    """Run one command line; 0 ok, 1 failure, 2 usage, 3 hacking found, 75 preempted, 130 Ctrl-C."""
    session.reset()
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    session.json, session.verbose = "--json" in own, not {"-v", "--verbose"}.isdisjoint(own)  # for wrong flags too
    try:
        code: Any = make_app()(arguments, prog_name="thack", standalone_mode=False)
        if code == 130:  # typer turns Ctrl-C into a code
            return _fail(Interrupted("stopped by Ctrl-C"), KeyboardInterrupt())
        return code if isinstance(code, int) else 0
    except ThackError as error:
        return _fail(error, error)
    except KeyboardInterrupt as error:
        return _fail(Interrupted("stopped by Ctrl-C"), error)
    except StopRequest as error:
        return _fail(stop_error(str(error)), error)
    except (MemoryError, OSError, RuntimeError) as error:
        return _fail(_system_error(error), error)
    except BaseException as error:
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        usage = usage_error(error)
        if usage is not None and not usage.message:  # `thack` alone: its help was printed
            return 2
        return _fail(usage or explained_failure(error) or _bug(error), error)


def make_app() -> typer.Typer:
    """The application with every command."""
    app = typer.Typer(
        name="thack",
        cls=KnownGroup,
        help="Cache what a teacher knows, distill it into a student, and see the moment the student starts to "
        "learn the teacher's mistakes.",
        epilog="Start with:  [bold]thack demo[/]   ·   every command has --help with an example",
        rich_markup_mode="rich",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["--help", "-h"]},
    )
    app.callback()(_root)
    for module in _COMMANDS:
        module.register(app)
    return app


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=lambda value: _print_version(value), is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"thack {__version__}")
        raise typer.Exit


def _fail(error: ThackError, cause: BaseException) -> int:
    error = translated(error, session.names)
    if isinstance(error, Preempted | Interrupted):
        error = type(error)(error.message, details=error.details, hint=f"to continue: {command_line()}")
    if session.verbose:
        traceback.print_exception(cause, file=sys.stderr)
    if not _is_first_rank():
        if not isinstance(error, Preempted | Interrupted | PeerFailed):  # the first rank reports these for all
            say(f"rank {current_rank().rank}: {error.message}")
        return error.exit_code
    print_error(error)
    if session.json:
        with suppress(OSError, ValueError):
            print_json(error_document(error))
    return error.exit_code


def _is_first_rank() -> bool:
    try:
        return current_rank().is_first
    except UsageError:  # what is wrong with the variables is the error to show
        return True


def _system_error(error: Exception) -> ThackError:
    if isinstance(error, BrokenPipeError):
        abandon_stdout()
        return ThackError("broken pipe (stdout closed)")
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return ThackError(
            "out of memory",
            details=[str(error).split("\n")[0]] if str(error) else [],
            hint="lower `batch_size` (distill: `micro_batch_size`), or `data.max_response_tokens`",
        )
    return explained_failure(error) or _bug(error)


def _bug(error: BaseException) -> ThackError:
    return ThackError(
        f"this should not happen: {type(error).__name__}: {error}",
        hint="a bug in thack: run again with -v and report what it prints",
    )
