"""A web server on the loopback address, and a compressed file to download from it."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from recbole_genrec.prepare.catalog import RawFile
from recbole_genrec.prepare.download import fetch

Answer = bytes | Callable[[BaseHTTPRequestHandler], None]


class LoopbackServer:
    """The value of the fixture `server`.

    Attributes:
        url: base address, such as http://127.0.0.1:40123, without a final slash.
        files: path (with its leading slash) -> the bytes to serve, or a function of the request
            handler that answers by itself. Bytes are served with Content-Length, an ETag that
            changes with the bytes, and by parts for `Range: bytes=N-` (416 from the end on, the
            whole file if `If-Range` names another ETag); an unknown path is a 404.
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
        """Answer with a file as Range and If-Range ask; headers have underscores for dashes."""
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
        # Some tests hang up in the middle.
        pass


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """Collect the seconds that fetch() would wait before further attempts, without waiting."""
    waited: list[float] = []
    monkeypatch.setattr("recbole_genrec.prepare.download.sleep", waited.append)
    return waited


@pytest.fixture
def server(monkeypatch):
    """Run a LoopbackServer.

    A function in `files` may call handler.send_bytes(content, status, **headers).
    """
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


class Archive:
    """The value of the fixture `archive`: a compressed file, and calls of fetch() for it.

    Attributes:
        name: file name.
        whole: gzip bytes, several chunks long.
        other: gzip bytes of the same length with another content.
        folder: target of fetch().
    """

    name = "reviews.json.gz"

    def __init__(self, server: LoopbackServer, folder: Path):
        self.server, self.folder = server, folder
        # Random bytes do not compress, so the file has several chunks.
        rows = np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8).tobytes()
        self.whole, self.other = (gzip.compress(part, mtime=0) for part in (rows, rows[::-1]))

    def fetch(
        self,
        *paths: str,
        sha256: str | None = None,
        folder: Path | None = None,
        show_progress: bool = False,
    ) -> Path:
        """Fetch the file from these paths of the server, by default /a."""
        urls = tuple(self.server.url + path for path in paths or ("/a",))
        return fetch(RawFile(self.name, urls, sha256), folder or self.folder, show_progress)

    def names(self) -> list[str]:
        """Return the names of the files in the folder."""
        return sorted(file.name for file in self.folder.iterdir())

    def ranges(self) -> list[str | None]:
        """Return the Range header of every request."""
        return [headers.get("range") for _, headers in self.server.requests]


@pytest.fixture
def archive(server, tmp_path, monkeypatch):
    """Make an Archive that is fetched in chunks of 500 bytes."""
    monkeypatch.setattr("recbole_genrec.prepare.download._CHUNK", 500)
    return Archive(server, tmp_path / "raw" / "amazon-2014")
