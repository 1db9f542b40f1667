from __future__ import annotations

import errno
import gzip
import hashlib
import logging
import socket
import time
from email.utils import formatdate
from pathlib import Path

import pytest

from recbole_genrec.errors import MissingFileError, UserError
from recbole_genrec.prepare.catalog import RawFile
from recbole_genrec.prepare.download import fetch

PAGE = b"<!DOCTYPE html><html><body>Please log in</body></html>"


def status_then(content: bytes, status: int, n_times: int, **headers: str):
    answered = []

    def answer(handler):
        answered.append(True)
        if len(answered) > n_times:
            handler.send_bytes(content)
        else:
            handler.send_bytes(b"busy", status, **headers)

    return answer


def test_a_file_is_fetched_as_it_is(server, archive, waits, caplog):
    server.files["/a"] = archive.whole
    with caplog.at_level(logging.INFO):
        path = archive.fetch()
    assert path == archive.folder / archive.name and path.read_bytes() == archive.whole
    assert archive.names() == [archive.name]
    assert archive.ranges() == [None] and waits == []
    assert f"from {server.url}/a" in caplog.text and "0.0 MB" in caplog.text


def test_a_file_that_is_there_needs_no_request(server, archive):
    archive.folder.mkdir(parents=True)
    (archive.folder / archive.name).write_bytes(archive.whole)
    assert archive.fetch() == archive.folder / archive.name
    digest = hashlib.sha256(archive.whole).hexdigest().upper()
    assert archive.fetch(sha256=digest) == archive.folder / archive.name
    assert server.requests == []


@pytest.mark.parametrize(
    ("change", "sha256", "said"),
    [
        (lambda whole: whole, "0" * 64, "SHA-256"),
        (lambda whole: PAGE, None, "damaged"),
        (lambda whole: whole[:-100], None, "damaged"),
    ],
)
def test_a_wrong_file_that_is_there_is_refused_and_kept(server, archive, change, sha256, said):
    content = change(archive.whole)
    archive.folder.mkdir(parents=True)
    (archive.folder / archive.name).write_bytes(content)
    with pytest.raises(UserError, match=f"(?s)not the file that it should be .*{said}.*remove it"):
        archive.fetch(sha256=sha256)
    assert (archive.folder / archive.name).read_bytes() == content and server.requests == []


def test_the_next_address_after_a_404(server, archive, waits):
    server.files["/b"] = archive.whole
    assert archive.fetch("/a", "/b").read_bytes() == archive.whole
    assert [path for path, _ in server.requests] == ["/a", "/b"] and waits == []


def test_a_503_is_tried_again_with_growing_waits(server, archive, waits):
    server.files["/a"] = status_then(archive.whole, 503, 3)
    assert archive.fetch().read_bytes() == archive.whole
    assert len(server.requests) == 4 and waits == [1.0, 5.0, 20.0]


def test_a_lasting_503_leads_to_the_next_address(server, archive):
    server.files.update({"/a": status_then(archive.whole, 503, 99), "/b": archive.whole})
    assert archive.fetch("/a", "/b").read_bytes() == archive.whole
    assert [path for path, _ in server.requests] == ["/a"] * 4 + ["/b"]


@pytest.mark.parametrize("date", [False, True])
def test_retry_after_is_honored(server, archive, waits, date):
    asked = formatdate(time.time() + 60, usegmt=True) if date else "60"
    server.files["/a"] = status_then(archive.whole, 429, 1, Retry_After=asked)
    assert archive.fetch().read_bytes() == archive.whole
    assert len(waits) == 1 and 50 < waits[0] <= 60


def test_a_malformed_retry_after_adds_no_wait(server, archive, waits):
    server.files["/a"] = status_then(archive.whole, 503, 1, Retry_After="soon")
    assert archive.fetch().read_bytes() == archive.whole
    assert waits == [1.0]


def test_a_server_that_asks_for_too_long_a_wait_is_left(server, archive, waits):
    server.files.update(
        {"/a": status_then(archive.whole, 429, 99, Retry_After="3600"), "/b": archive.whole}
    )
    assert archive.fetch("/a", "/b").read_bytes() == archive.whole
    assert [path for path, _ in server.requests] == ["/a", "/b"] and waits == []


@pytest.mark.parametrize(
    ("page", "headers"),
    [
        (b"\n " + PAGE, {}),
        (PAGE.lower()[15:], {}),
        (b"Please log in", {"Content_Type": "text/html; charset=utf-8"}),
    ],
)
def test_a_page_instead_of_data_leads_to_the_next_address(server, archive, page, headers):
    server.files.update(
        {"/a": lambda handler: handler.send_bytes(page, **headers), "/b": archive.whole}
    )
    assert archive.fetch("/a", "/b").read_bytes() == archive.whole
    with pytest.raises(MissingFileError, match="HTML page"):
        archive.fetch("/a", folder=archive.folder / "else")
    assert list((archive.folder / "else").iterdir()) == []


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda whole: whole[:-9], "damaged"),
        (lambda whole: whole[:-8] + bytes(8), "damaged"),
        (lambda whole: whole[:2000] + bytes(9) + whole[2009:], "damaged"),
        (lambda whole: gzip.decompress(whole), "gzip"),
    ],
)
def test_damaged_gzip_is_detected(server, archive, damage, said):
    server.files.update({"/a": damage(archive.whole), "/b": archive.whole})
    with pytest.raises(MissingFileError, match=said):
        archive.fetch("/a")
    assert archive.names() == [] and len(server.requests) == 1
    assert archive.fetch("/a", "/b").read_bytes() == archive.whole


def test_a_wrong_checksum_is_detected(server, archive):
    server.files.update({"/a": archive.other, "/b": archive.whole})
    digest = hashlib.sha256(archive.whole).hexdigest()
    found = hashlib.sha256(archive.other).hexdigest()
    with pytest.raises(MissingFileError, match=f"{found}, not {digest}"):
        archive.fetch("/a", sha256=digest)
    assert archive.names() == []
    assert archive.fetch("/a", "/b", sha256=digest).read_bytes() == archive.whole


def test_a_length_that_is_too_large_is_detected(server, archive):
    length = str(len(archive.whole) + 10)
    server.files.update(
        {
            "/a": lambda handler: handler.send_bytes(archive.whole, Content_Length=length),
            "/b": archive.whole,
        }
    )
    assert archive.fetch("/a", "/b").read_bytes() == archive.whole
    assert [path for path, _ in server.requests] == ["/a"] * 4 + ["/b"]


def test_a_file_without_a_length_is_fetched(server, archive):
    def until_closed(handler):
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(archive.whole)

    server.files["/a"] = until_closed
    assert archive.fetch().read_bytes() == archive.whole


def test_a_plain_file_is_no_gzip_file(server, archive):
    server.files["/a"] = b"user_id,parent_asin\n"
    file = RawFile("a.csv", (f"{server.url}/a",), None)
    assert fetch(file, archive.folder, False).read_bytes() == b"user_id,parent_asin\n"


def test_a_connection_without_an_answer_is_tried_again(server, archive):
    answered = []

    def hang_up(handler):
        answered.append(True)
        if len(answered) > 1:
            handler.send_bytes(archive.whole)

    server.files["/a"] = hang_up
    assert archive.fetch().read_bytes() == archive.whole
    assert len(server.requests) == 2


def test_without_a_network_the_message_says_what_to_do(archive, waits):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/reviews.json.gz"
        with pytest.raises(MissingFileError) as caught:
            urls = (address, "unknown://host/file", "http://[broken/file")
            fetch(RawFile(archive.name, urls, None), archive.folder, False)
    message = str(caught.value)
    for part in (
        address,
        "Connection refused",
        "unknown://host/file",
        "by hand",
        str(archive.folder / archive.name),
        "RECBOLE_GENREC_MIRROR",
    ):
        assert part in message
    assert "\n" not in message and waits == []
    assert archive.names() == []


def test_a_folder_may_be_the_mirror(archive, tmp_path, waits):
    mirror = tmp_path / "my dumps"
    mirror.mkdir()
    paths = (tmp_path / "nothing", mirror, mirror / archive.name)
    file = RawFile(archive.name, tuple(path.as_uri() for path in paths), None)
    (mirror / archive.name).write_bytes(archive.whole)
    assert fetch(file, archive.folder, False).read_bytes() == archive.whole
    assert waits == []


def test_an_unwritable_folder_is_said_before_any_request(server, archive, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written .*choose another folder"):
        archive.fetch(folder=tmp_path / "file" / "raw")

    def deny(path, *arguments, **others):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "touch", deny)
    with pytest.raises(
        UserError, match=r"cannot be written .Permission denied.: .*make .*the folder writable"
    ):
        archive.fetch()
    assert server.requests == []


@pytest.mark.parametrize("show_progress", [False, True])
def test_the_progress_bar_can_be_switched_off(server, archive, show_progress, capsys):
    server.files["/a"] = archive.whole
    archive.fetch(show_progress=show_progress)
    captured = capsys.readouterr()
    assert captured.out == "" and (archive.name in captured.err) == show_progress
