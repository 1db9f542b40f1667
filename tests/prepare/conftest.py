"""A web server on the loopback address that serves what a test gives it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Union

import pytest

Answer = Union[bytes, Callable[[BaseHTTPRequestHandler], None]]


class LoopbackServer:
    """What the fixture `server` gives.

    Attributes:
        url: base address, such as http://127.0.0.1:40123, without a final slash.
        files: path (with its leading slash) -> the bytes to serve, or a function of the request
            handler that answers on its own. Bytes
            are served with Content-Length, an ETag that changes with the bytes, and by parts for
            `Range: bytes=N-` (416 from the end on,
            the whole file if `If-Range` names another ETag); a path that is not there is a 404.
        requests: (path, headers with names in lower case) of every request, in order.
    """

    def __init__(self, url: str):
        self.url = url
        self.files: dict[str, Answer] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        loopback = self.server.loopback
        loopback.requests.append(
            (self.path, {name.lower(): value for name, value in self.headers.items()})
        )
        answer = loopback.files.get(self.path)
        if answer is None:
            self.send_error(404)
        elif callable(answer):
            answer(self)
        else:
            self.send_bytes(answer)

    def send_bytes(self, content: bytes, status: int = 200, **headers: str) -> None:
        """Answer with a file; Range and If-Range of the request count, headers (underscores for dashes) are added."""
        tag = f'"{hash(content)}"'
        start = 0
        asked = self.headers.get("Range")
        if status == 200 and asked and self.headers.get("If-Range", tag) == tag:
            start = int(asked[len("bytes=") :].rstrip("-"))
            status = 206 if start < len(content) else 416
        self.send_response(status)
        if status == 416:
            headers["Content_Range"] = f"bytes */{len(content)}"
            content = b""
        elif status == 206:
            headers["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            content = content[start:]
        sent = {
            "Content-Length": str(len(content)),
            "ETag": tag,
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        for name, value in sent.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request, client_address):
        # A client that hangs up in the middle is what some tests are about.
        pass


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """The seconds that fetch() would have waited before further attempts; it waits none of them."""
    waited: list[float] = []
    monkeypatch.setattr("recbole_genrec.prepare.download.sleep", waited.append)
    return waited


@pytest.fixture
def server(monkeypatch):
    """A LoopbackServer; see its attributes. A function in `files` may call handler.send_bytes(content, status, **headers)."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    running = _Server(("127.0.0.1", 0), _Handler)
    running.loopback = LoopbackServer(f"http://127.0.0.1:{running.server_address[1]}")
    thread = threading.Thread(
        target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    )
    thread.start()
    yield running.loopback
    running.shutdown()
    running.server_close()
    thread.join()
