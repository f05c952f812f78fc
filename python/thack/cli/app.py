"""The `thack` command: its commands, and how every failure becomes a short message and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated, Any, NoReturn

import typer

from thack.cli import verbs
from thack.cli.console import error_document, print_error, print_json
from thack.cli.messages import translated
from thack.errors import Interrupted, PeerFailed, Preempted, ThackError, UsageError
from thack.runtime.failures import in_words
from thack.runtime.ranks import current_rank

app = typer.Typer(
    name="thack",
    help="Cache what a teacher knows, distill it into a student, and see the moment the student starts to "
    "learn the teacher's mistakes.",
    epilog="Start with:  [bold]thack demo[/]   ·   every command has --help with an example",
    rich_markup_mode="rich",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _version(value: bool) -> None:
    if value:
        from thack.runtime.environment import native_version

        typer.echo(f"thack {native_version()}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _register() -> None:
    """In the order of the pipeline; importing a command's file adds it to `app`."""
    from thack.cli import (  # noqa: F401, I001
        demo,
        experiment,
        corpus,
        sft,
        generate,
        cache_logits,
        distill,
        evaluate,
        verdict,
        report,
        cache,
        slurm,
        doctor,
    )


def main() -> NoReturn:
    """Run the command line and exit with the documented code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line; 0 ok, 1 failure, 2 usage, 3 hacking found, 75 preempted, 130 Ctrl-C."""
    verbs.state.reset()
    _register()
    try:
        code: Any = app(arguments, prog_name="thack", standalone_mode=False)
        if code == 130:  # typer turns Ctrl-C into a code
            return _fail(Interrupted("stopped by Ctrl-C"), KeyboardInterrupt())
        return code if isinstance(code, int) else 0
    except ThackError as error:
        return _fail(error, error)
    except KeyboardInterrupt as error:
        return _fail(Interrupted("stopped by Ctrl-C"), error)
    except (MemoryError, OSError, RuntimeError) as error:
        return _fail(_system_error(error), error)
    except Exception as error:
        usage = _usage_error(error)
        if usage is not None and not usage.message:  # `thack` alone: its help was printed
            return 2
        return _fail(_bug(error) if usage is None else usage, error)


def _fail(error: ThackError, cause: BaseException) -> int:
    error = translated(error, verbs.state.names)
    if isinstance(error, Preempted | Interrupted):
        again = f"go on with: {verbs.command_line()}"
        error = type(error)(error.message, details=error.details, hint=again)
    if verbs.state.verbose:
        traceback.print_exception(cause, file=sys.stderr)
    if not _first_rank():
        if not isinstance(error, Preempted | Interrupted | PeerFailed):  # those the first rank tells for all
            print(f"rank {current_rank().rank}: {error.message}", file=sys.stderr)
        return error.exit_code
    print_error(error)
    if verbs.state.json:
        print_json(error_document(error))
    return error.exit_code


def _first_rank() -> bool:
    try:
        return current_rank().is_first
    except UsageError:  # what is wrong with the variables is the error to show
        return True


def _system_error(error: Exception) -> ThackError:
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at exit
        return ThackError("the reader of this output went away")
    return in_words(error) or _bug(error)


def _bug(error: Exception) -> ThackError:
    return ThackError(
        f"this should not happen: {type(error).__name__}: {error}",
        hint="a bug in thack: run again with -v and report what it prints",
    )


def _usage_error(error: Exception) -> UsageError | None:
    """What typer has to say about a wrong flag, as our one line; None for anything else."""
    if not isinstance(error, typer.BadParameter.__mro__[1]):
        return None
    raised: Any = error
    context = raised.ctx
    path = context.command_path if context is not None else "thack"
    message = str(raised.format_message()).rstrip(".")
    return UsageError(message[:1].lower() + message[1:], hint=f"see: {path} --help")
