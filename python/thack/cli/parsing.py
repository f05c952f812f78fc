"""How a command line is taken apart: what typer leaves to chance is refused, and its errors get our words."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from thack.cli.messages import Names
from thack.cli.session import session
from thack.errors import UsageError

_TYPES = {"integer": "a whole number", "number": "a number"}
_WORDS = {"path": "PATH", "str": "TEXT", "int": "N", "float": "N", "int range": "N", "float range": "N"}
_WRONG_TYPE = re.compile(r"invalid value for '(?P<name>[^']+)': Input should be a valid (?P<type>\w+).*")


class KnownGroup(TyperGroup):
    """A group of commands whose help names types as `KnownCommand`s do."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Its parameters."""
        return _in_words(super().get_params(ctx), ctx)


class KnownCommand(TyperCommand):
    """A command that tells the handler of errors its name and how it spells its parameters."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Its parameters."""
        return _in_words(super().get_params(ctx), ctx)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The values of the parameters.

        Raises:
            UsageError: a flag that takes one value is given twice: the first one would be lost without a word.
        """
        options = [p for p in self.params if p.param_type_name == "option"]
        session.command = ctx.command_path
        session.names = Names(
            flags={str(p.name): p.opts[0] for p in options},
            switches={str(p.name) for p in options if getattr(p, "is_flag", False)},
        )
        given = list(args)
        rest: list[str] = super().parse_args(ctx, args)
        _, _, order = self.make_parser(ctx).parse_args(args=given)
        times = Counter(str(p.name) for p in order if p.param_type_name == "option" and not p.multiple)
        repeated = [session.names.flags[name] for name, count in times.items() if count > 1]
        if repeated:
            raise UsageError(f"{', '.join(repeated)}: given twice", hint="give it once; a list goes with commas")
        return rest


def _in_words(parameters: list[Any], ctx: Any) -> list[Any]:
    """The parameters, whose help names what is wanted: PATH in place of typer's <path>, nothing for a bare flag."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
        elif hasattr(parameter, "display_type"):  # of typer since 0.20; before, it had these words itself
            word = _word(parameter.display_type(ctx))
            if parameter.param_type_name == "option":
                parameter.metavar = parameter.metavar or word
            else:
                parameter.metavar = parameter.display_name_raw.upper()
                parameter.display_type_rich = lambda ctx, word=word: word
    return parameters


def _word(shown: str) -> str:
    kind = shown.strip("<>").removeprefix("list[").rstrip("]")
    return _WORDS.get(kind.lower(), kind)


def usage_error(error: BaseException) -> UsageError | None:
    """What typer says about a wrong flag, as one line; None for anything else."""
    if not isinstance(error, typer.BadParameter.__mro__[1]):
        return None
    raised: Any = error
    context = raised.ctx
    path = session.command if context is None else context.command_path
    message = str(raised.format_message()).rstrip(".")
    message = message[:1].lower() + message[1:]
    if (found := _WRONG_TYPE.fullmatch(message)) is not None:  # typer passes on the words of pydantic
        message = f"{found['name']}: must be {_TYPES.get(found['type'], 'a ' + found['type'])}"
    return UsageError(message, hint=f"see: {path} --help")
