"""What a server or a proxy before it may answer: asked again, or refused with what it said."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from thack.config import ServerSettings
from thack.errors import ServerError
from thack.serving.client import Client, Refusal

pytest.importorskip("httpx", reason="SKIPPED: needs httpx")
RIGHT = b'{"right": 1}'
Answer = tuple[int, dict[str, str], bytes]
Serve = Callable[..., tuple[Client, list[float]]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A client of a server that gives these answers in turn, then right ones; and how long it waited."""
    servers: list[ThreadingHTTPServer] = []

    def start(*answers: Answer) -> tuple[Client, list[float]]:
        left = list(answers)

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                status, headers, content = left.pop(0) if left else (200, {}, RIGHT)
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        waited: list[float] = []
        url = f"http://127.0.0.1:{servers[-1].server_port}"
        return Client(ServerSettings(url=url, retries=1, timeout_s=10), wait=waited.append), waited

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


ONCE: dict[str, tuple[Answer, float]] = {
    "bytes that are no gzip": ((200, {"Content-Encoding": "gzip"}, b"no gzip"), 0.5),
    "nothing": ((200, {}, b""), 0.5),
    "a page": ((502, {}, b"<html>"), 0.5),
    "overloaded": ((529, {}, b'{"error": "overloaded"}'), 0.5),
    "no origin": ((522, {}, b""), 0.5),
    "an error behind a good status": ((200, {}, b'{"error": {"message": "out of memory"}}'), 0.5),
    "a wait": ((503, {"Retry-After": "3"}, b""), 3.0),
    "a wait for nothing": ((429, {"Retry-After": "nan"}, b""), 0.0),
    "a wait for ever": ((429, {"Retry-After": "inf"}, b""), 600.0),
}


@pytest.mark.parametrize("case", ONCE)
def test_it_is_asked_again(case: str, serve: Serve) -> None:
    answer, waited = ONCE[case]
    client, waits = serve(answer)
    with client:
        assert client.post("/x", {}) == {"right": 1}
    assert waits == [waited] and client.repeated == 1


REFUSED: dict[str, tuple[Answer, str]] = {
    "moved": (
        (308, {"Location": "https://other/v1"}, b'{"right": 0}'),
        r"answers 308[\s\S]*to where https://other/v1 is",
    ),
    "a wrong request": ((400, {}, b'{"error": {"message": "too many"}}'), "answers 400: too many"),
    "not built": ((501, {}, b""), "answers 501: nothing"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_at_once(case: str, serve: Serve) -> None:
    answer, reason = REFUSED[case]
    client, waits = serve(answer)
    with client, pytest.raises(Refusal, match=reason):
        client.post("/x", {})
    assert not waits


def test_an_error_in_a_good_answer_is_said(serve: Serve) -> None:
    client, _ = serve(*[ONCE["an error behind a good status"][0]] * 2)
    with client, pytest.raises(ServerError, match="the answer is an error: out of memory"):
        client.post("/x", {})


def test_what_never_is_an_answer_is_told(serve: Serve) -> None:
    client, _ = serve(*[ONCE["bytes that are no gzip"][0]] * 2)
    with client, pytest.raises(ServerError, match=r"no answer after 2 attempts[\s\S]*DecodingError"):
        client.post("/x", {})
