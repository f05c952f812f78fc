"""The command line within this process, and a stand-in for the API."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from thack import api
from thack.cli import app
from thack.cli.session import session


class Done(NamedTuple):
    """What one command line left behind."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)


Run = Callable[..., Done]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs a command line; gives exit code, stdout and stderr."""

    def call(*arguments: str) -> Done:
        code = app.run(list(arguments))
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    yield call
    session.reset()


class Calls(dict[str, tuple[tuple[Any, ...], dict[str, Any]]]):
    """The arguments of each API function that was called, by name."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self._patch = patch

    def answer(self, name: str, result: object) -> None:
        """Let `api.<name>` return `result`, or raise it."""

        def function(*arguments: Any, **keywords: Any) -> object:
            self[name] = (arguments, keywords)
            if isinstance(result, BaseException):
                raise result
            return result

        assert hasattr(api, name)
        self._patch.setattr(api, name, function)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """API functions that do nothing but note how they were called."""
    return Calls(monkeypatch)
