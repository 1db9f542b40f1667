from __future__ import annotations

import errno
import gzip
import hashlib
import logging
import socket
import time
from email.utils import formatdate
from pathlib import Path

import numpy as np
import pytest

from recbole_genrec.prepare import download
from recbole_genrec.prepare.catalog import RawFile
from recbole_genrec.prepare.download import fetch

# Incompressible, so that the file has several chunks of the size that `small_chunks` sets.
ROWS = np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8).tobytes()
WHOLE = gzip.compress(ROWS, mtime=0)
OTHER = gzip.compress(ROWS[::-1], mtime=0)
NAME = "reviews.json.gz"
PAGE = b"<!DOCTYPE html><html><body>Please log in</body></html>"


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(download, "_CHUNK", 500)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "raw" / "amazon-2014"


def raw_file(server, *paths: str, sha256: str | None = None) -> RawFile:
    return RawFile(NAME, tuple(server.url + path for path in paths or ("/a",)), sha256)


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def asked_ranges(server) -> list[str | None]:
    return [headers.get("range") for _, headers in server.requests]


def status_then(status: int, n_times: int, content: bytes = WHOLE, **headers: str):
    answered = []

    def answer(handler):
        answered.append(True)
        if len(answered) > n_times:
            handler.send_bytes(content)
        else:
            handler.send_bytes(b"busy", status, **headers)

    return answer


def test_a_file_is_fetched_as_it_is(server, folder, waits, caplog):
    server.files["/a"] = WHOLE
    with caplog.at_level(logging.INFO):
        path = fetch(raw_file(server), folder, False)
    assert path == folder / NAME and path.read_bytes() == WHOLE
    assert names(folder) == [NAME]
    assert asked_ranges(server) == [None] and waits == []
    assert f"from {server.url}/a" in caplog.text and "0.0 MB" in caplog.text


def test_a_file_that_is_there_needs_no_request(server, folder):
    folder.mkdir(parents=True)
    (folder / NAME).write_bytes(WHOLE)
    assert fetch(raw_file(server), folder, False) == folder / NAME
    assert (
        fetch(raw_file(server, sha256=hashlib.sha256(WHOLE).hexdigest().upper()), folder, False)
        == folder / NAME
    )
    assert server.requests == []


@pytest.mark.parametrize(
    ("content", "sha256", "said"),
    [(WHOLE, "0" * 64, "SHA-256"), (PAGE, None, "damaged"), (WHOLE[:-100], None, "damaged")],
)
def test_a_wrong_file_that_is_there_is_refused_and_kept(server, folder, content, sha256, said):
    folder.mkdir(parents=True)
    (folder / NAME).write_bytes(content)
    with pytest.raises(ValueError, match=f"(?s)not the file that it should be .*{said}.*remove it"):
        fetch(raw_file(server, sha256=sha256), folder, False)
    assert (folder / NAME).read_bytes() == content and server.requests == []


def test_the_next_address_after_a_404(server, folder, waits):
    server.files["/b"] = WHOLE
    assert fetch(raw_file(server, "/a", "/b"), folder, False).read_bytes() == WHOLE
    assert [path for path, _ in server.requests] == ["/a", "/b"] and waits == []


def test_a_503_is_tried_again_with_growing_waits(server, folder, waits):
    server.files["/a"] = status_then(503, 3)
    assert fetch(raw_file(server), folder, False).read_bytes() == WHOLE
    assert len(server.requests) == 4 and waits == [1.0, 5.0, 20.0]


def test_a_lasting_503_leads_to_the_next_address(server, folder):
    server.files.update({"/a": status_then(503, 99), "/b": WHOLE})
    assert fetch(raw_file(server, "/a", "/b"), folder, False).read_bytes() == WHOLE
    assert [path for path, _ in server.requests] == ["/a"] * 4 + ["/b"]


@pytest.mark.parametrize("date", [False, True])
def test_retry_after_is_honored(server, folder, waits, date):
    asked = formatdate(time.time() + 60, usegmt=True) if date else "60"
    server.files["/a"] = status_then(429, 1, Retry_After=asked)
    assert fetch(raw_file(server), folder, False).read_bytes() == WHOLE
    assert len(waits) == 1 and 50 < waits[0] <= 60


def test_a_retry_after_that_says_nothing_is_no_wait(server, folder, waits):
    server.files["/a"] = status_then(503, 1, Retry_After="soon")
    assert fetch(raw_file(server), folder, False).read_bytes() == WHOLE
    assert waits == [1.0]


def test_a_server_that_asks_for_too_long_a_wait_is_left(server, folder, waits):
    server.files.update({"/a": status_then(429, 99, Retry_After="3600"), "/b": WHOLE})
    assert fetch(raw_file(server, "/a", "/b"), folder, False).read_bytes() == WHOLE
    assert [path for path, _ in server.requests] == ["/a", "/b"] and waits == []


@pytest.mark.parametrize(
    ("page", "headers"),
    [
        (b"\n " + PAGE, {}),
        (PAGE.lower()[15:], {}),
        (b"Please log in", {"Content_Type": "text/html; charset=utf-8"}),
    ],
)
def test_a_page_instead_of_data_leads_to_the_next_address(server, folder, page, headers):
    server.files.update({"/a": lambda handler: handler.send_bytes(page, **headers), "/b": WHOLE})
    assert fetch(raw_file(server, "/a", "/b"), folder, False).read_bytes() == WHOLE
    with pytest.raises(FileNotFoundError, match="HTML page"):
        fetch(raw_file(server, "/a"), folder / "else", False)
    assert names(folder / "else") == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (WHOLE[:-9], "damaged"),
        (WHOLE[:-8] + bytes(8), "damaged"),
        (WHOLE[:2000] + bytes(9) + WHOLE[2009:], "damaged"),
        (ROWS, "gzip"),
    ],
)
def test_damaged_gzip_is_found_out(server, folder, content, said):
    server.files.update({"/a": content, "/b": WHOLE})
    with pytest.raises(FileNotFoundError, match=said):
        fetch(raw_file(server, "/a"), folder, False)
    assert names(folder) == [] and len(server.requests) == 1
    assert fetch(raw_file(server, "/a", "/b"), folder, False).read_bytes() == WHOLE


def test_a_wrong_checksum_is_found_out(server, folder):
    server.files.update({"/a": OTHER, "/b": WHOLE})
    digest = hashlib.sha256(WHOLE).hexdigest()
    with pytest.raises(
        FileNotFoundError, match=f"{hashlib.sha256(OTHER).hexdigest()}, not {digest}"
    ):
        fetch(raw_file(server, "/a", sha256=digest), folder, False)
    assert names(folder) == []
    assert fetch(raw_file(server, "/a", "/b", sha256=digest), folder, False).read_bytes() == WHOLE


def test_a_length_that_is_too_large_is_found_out(server, folder, waits):
    server.files.update(
        {
            "/a": lambda handler: handler.send_bytes(WHOLE, Content_Length=str(len(WHOLE) + 10)),
            "/b": WHOLE,
        }
    )
    assert fetch(raw_file(server, "/a", "/b"), folder, False).read_bytes() == WHOLE
    assert [path for path, _ in server.requests] == ["/a"] * 4 + ["/b"]


def test_a_file_without_a_length_is_fetched(server, folder):
    def until_closed(handler):
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(WHOLE)

    server.files["/a"] = until_closed
    assert fetch(raw_file(server), folder, False).read_bytes() == WHOLE


def test_a_plain_file_is_no_gzip_file(server, folder):
    server.files["/a"] = b"user_id,parent_asin\n"
    assert (
        fetch(RawFile("a.csv", (f"{server.url}/a",), None), folder, False).read_bytes()
        == b"user_id,parent_asin\n"
    )


def test_a_connection_without_an_answer_is_tried_again(server, folder):
    answered = []

    def hang_up(handler):
        answered.append(True)
        if len(answered) > 1:
            handler.send_bytes(WHOLE)

    server.files["/a"] = hang_up
    assert fetch(raw_file(server), folder, False).read_bytes() == WHOLE
    assert len(server.requests) == 2


def test_without_a_network_the_message_says_what_to_do(folder, waits):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/reviews.json.gz"
        with pytest.raises(FileNotFoundError) as caught:
            fetch(
                RawFile(NAME, (address, "unknown://host/file", "http://[broken/file"), None),
                folder,
                False,
            )
    message = str(caught.value)
    for part in (
        address,
        "Connection refused",
        "unknown://host/file",
        "by hand",
        str(folder / NAME),
        "RECBOLE_GENREC_MIRROR",
    ):
        assert part in message
    assert "\n" not in message and waits == []
    assert names(folder) == []


def test_a_folder_may_be_the_mirror(folder, tmp_path, waits):
    mirror = tmp_path / "my dumps"
    mirror.mkdir()
    file = RawFile(
        NAME, ((tmp_path / "nothing").as_uri(), mirror.as_uri(), (mirror / NAME).as_uri()), None
    )
    (mirror / NAME).write_bytes(WHOLE)
    assert fetch(file, folder, False).read_bytes() == WHOLE
    assert waits == []


def test_an_unwritable_folder_is_said_before_any_request(server, folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written .*choose another folder"):
        fetch(raw_file(server), tmp_path / "file" / "raw", False)

    def deny(path, *arguments, **others):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "touch", deny)
    with pytest.raises(
        ValueError, match="cannot be written .Permission denied.: .*make .*the folder writable"
    ):
        fetch(raw_file(server), folder, False)
    assert server.requests == []


@pytest.mark.parametrize("show_progress", [False, True])
def test_the_progress_bar_can_be_switched_off(server, folder, show_progress, capsys):
    server.files["/a"] = WHOLE
    fetch(raw_file(server), folder, show_progress)
    captured = capsys.readouterr()
    assert captured.out == "" and (NAME in captured.err) == show_progress
