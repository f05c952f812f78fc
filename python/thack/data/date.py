"""The day that a chat template takes for today: fixed at the first use, and recorded beside what depends on it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Protocol

from thack import _native
from thack.config import DataSettings
from thack.data.chat_options import ChatOptions
from thack.data.tokenizer import Tokenizer
from thack.errors import DataError, MismatchError
from thack.files import canonical_json
from thack.reading import read_json

NAME = "date.json"


class HasTokenizer(Protocol):
    """A model."""

    tokenizer: Tokenizer


def follow_settings(model: HasTokenizer, settings: DataSettings, directory: Path) -> None:
    """Let a model's tokenizer encode conversations, and end responses, as the settings of the data say.

    Args:
        model: its tokenizer is replaced by one with other options.
        settings: of the data.
        directory: of the output; a date that a template asks for is recorded here, and read back by a resumed job.

    Raises:
        UsageError: a setting is wrong.
    """
    model.tokenizer = with_settings(model.tokenizer, settings, directory)


def with_settings(tokenizer: Tokenizer, settings: DataSettings, directory: Path | None = None) -> Tokenizer:
    """The tokenizer with the options that the settings name; without a directory nothing is recorded."""
    options = ChatOptions.of(settings)
    found = tokenizer.with_options(options)
    templates = [found.template(with_tools=tools) for tools in (False, True)]
    if options.now is not None or not any(template and template.asks_for_date for template in templates):
        return found
    return tokenizer.with_options(replace(options, now=_today() if directory is None else _recorded(directory)))


def _today() -> datetime:
    return datetime.now().replace(hour=0, minute=0, second=0, microsecond=0)


def _recorded(directory: Path) -> datetime:
    """The date of this output: the one that its first process recorded, or today's, recorded now."""
    path = directory / NAME
    if not path.is_file():
        directory.mkdir(parents=True, exist_ok=True)
        with suppress(MismatchError):  # another process was first, on another day
            _native.publish(path, canonical_json({"schema": 1, "date": _today().date().isoformat()}))
    content = read_json(path)
    try:
        return datetime.fromisoformat(content["date"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} holds no date", hint="remove it, or set `data.date`") from error
