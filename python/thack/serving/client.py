"""JSON over HTTP: bounded time and size, retries with backoff, and errors that say what the server said."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from thack.config import ServerSettings
from thack.errors import ServerError, UsageError
from thack.reading import parse_json

_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 30.0
_LONGEST_ASKED_S = 600.0  # a server may ask for more in Retry-After: it is asked again after this
_PART_BYTES = 1 << 16
_REPEATED = (408, 409, 425, 429)
_NOT_BUILT = 501  # of 5xx the one that says that a request will never be answered


def check_address(url: str) -> None:
    """Refuse what is no address of a server, before it is asked again and again.

    Raises:
        UsageError: says what to type.
    """
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, a bracket that is left open
        right = False
    if not right:
        host = url if re.fullmatch(r"(?!https?/|https?:)[\w.-]+(:\d+)?(/v1)?/?", url) else "localhost:8000"
        raise UsageError(f"server.url = {url}: not an address of a server", hint=f"such as http://{host}")


class Refusal(ServerError):
    """The server understood the request and refuses it: repeating it would change nothing."""

    def __init__(self, message: str, *, status: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status


class Client:
    """Requests to one server, from any number of threads.

    Args:
        settings: address, retries, time limit, name of the variable with the key.
        wait: sleeps for a number of seconds.

    Raises:
        UsageError: `settings.url` is no address, or httpx is not installed.
    """

    def __init__(self, settings: ServerSettings, wait: Callable[[float], None] = time.sleep) -> None:
        check_address(settings.url)
        self._http = _library()
        self._settings = settings
        self._wait = wait
        self._url = settings.url.rstrip("/").removesuffix("/v1")
        key = os.environ.get(settings.key_variable, "") if settings.key_variable else ""
        self._client = self._http.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=settings.timeout_s,
            limits=self._http.Limits(max_connections=settings.concurrency),
        )
        self.repeated = 0  # requests that were sent again, to report

    def get(self, path: str) -> Mapping[str, Any]:
        """The JSON object at `path`; ServerError as `post`."""
        return self._ask("GET", path, None)

    def post(self, path: str, body: Mapping[str, object]) -> Mapping[str, Any]:
        """The JSON object that the server answers.

        Raises:
            Refusal: a status that repeating cannot change, with what the server said.
            ServerError: no usable answer after all retries.
        """
        return self._ask("POST", path, body)

    def _ask(self, method: str, path: str, body: Mapping[str, object] | None) -> Mapping[str, Any]:
        problem = ""
        for attempt in range(self._settings.retries + 1):
            asked: float | None = None
            try:
                status, headers, content = self._answer(method, path, body)
                if status < 300:
                    return _object(content)
                if status not in _REPEATED and (status < 500 or status == _NOT_BUILT):
                    raise self._refusal(path, status, headers, content)
                asked = _retry_after(headers.get("Retry-After", ""))
                problem = f"{status}: {_said(content)}"
            except (self._http.RequestError, ValueError) as error:
                problem = f"{type(error).__name__}: {error}"
            except self._http.InvalidURL as error:
                raise UsageError(f"server.url = {self._settings.url}: {error}") from error
            if attempt < self._settings.retries:
                self.repeated += 1
                self._wait(min(_FIRST_WAIT_S * 2**attempt, _LONGEST_WAIT_S) if asked is None else asked)
        raise ServerError(
            f"{self._url}{path} gave no answer after {self._settings.retries + 1} attempts",
            details=[problem],
            hint="see that the server runs there; then run the same command again, which resumes",
        )

    def _answer(
        self, method: str, path: str, body: Mapping[str, object] | None
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and content of one answer, of which no more than is allowed comes into memory."""
        most, content = self._settings.answer_bytes, bytearray()
        with self._client.stream(method, self._url + path, json=body) as response:
            for part in response.iter_bytes(_PART_BYTES):
                content += part
                if len(content) > most:
                    raise Refusal(
                        f"{self._url}{path} answers more than {most:,} bytes",
                        status=response.status_code,
                        hint="ask for less at once (`top_k`, `data.max_response_tokens`), or raise "
                        "`server.answer_bytes`, which each of `server.concurrency` requests may take in memory",
                    )
            return response.status_code, response.headers, bytes(content)

    def _refusal(self, path: str, status: int, headers: Mapping[str, str], content: bytes) -> Refusal:
        hint = None
        if status < 400:
            hint = f"it has moved: set `server.url` to where {headers.get('Location', 'the server')} is"
        if status in (401, 403):
            hint = f"put the key into the environment variable {self._settings.key_variable} (`server.key_variable`)"
        text = f"{self._url}{path} answers {status}: {_said(content)}"
        return Refusal(text, status=status, hint=hint)

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _library() -> Any:
    try:
        import httpx
    except ImportError as error:
        raise UsageError("a teacher behind a server needs httpx", hint="pip install 'thack[serve]'") from error
    return httpx


def _object(content: bytes) -> Mapping[str, Any]:
    """ValueError unless it is a JSON object; NaN and Infinity are read, and refused where they stand for numbers.

    A server that has begun to answer can no longer change its status, and puts an error into the answer.
    """
    found = parse_json(content, strict=False)
    if not isinstance(found, dict):
        raise ValueError("the answer is no JSON object")
    if found.get("error"):
        raise ValueError(f"the answer is an error: {_said(content)}")
    return found


def _said(content: bytes) -> str:
    """The message of an error, in one line."""
    try:
        found = parse_json(content, strict=False)
        inner = found.get("error", found) if isinstance(found, dict) else found
        text = str(inner.get("message", inner)) if isinstance(inner, dict) else str(inner)
    except ValueError:
        text = content.decode(errors="replace")
    return " ".join(text.split())[:300] or "nothing"


def _retry_after(value: str) -> float | None:
    """Seconds until the server wants to be asked again: a number, or a date."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return min(max(0.0, seconds), _LONGEST_ASKED_S)  # in this order NaN is 0
