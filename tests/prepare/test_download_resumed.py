"""A download that ends early goes on where it ended, if what the server has is still the same."""

from __future__ import annotations

import builtins
import errno
import gzip
import json
import os
import time
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


def cut_after(n_bytes: int, content: bytes = WHOLE, **headers: str):
    """The first answer promises the whole content and ends after n_bytes; the later ones keep the promise."""
    answered = []

    def answer(handler):
        answered.append(True)
        if len(answered) > 1:
            handler.send_bytes(content, **headers)
            return
        handler.send_response(200)
        sent = {"ETag": f'"{hash(content)}"', **headers}
        for name, value in {"Content-Length": str(len(content)), **sent}.items():
            if value:
                handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(content[:n_bytes])

    return answer


def test_a_cut_connection_goes_on_where_it_ended(server, folder, waits):
    server.files["/a"] = cut_after(2000)
    assert fetch(raw_file(server), folder, False).read_bytes() == WHOLE
    assert asked_ranges(server) == [None, "bytes=2000-"]
    assert server.requests[1][1]["if-range"] == f'"{hash(WHOLE)}"'
    assert waits == [1.0] and names(folder) == [NAME]


def test_the_next_call_goes_on_too(server, folder, monkeypatch):
    server.files["/a"] = cut_after(2000)
    monkeypatch.setattr(download, "WAITS", ())
    with pytest.raises(
        FileNotFoundError, match=f"the connection ended after 2000 of {len(WHOLE)} bytes"
    ):
        fetch(raw_file(server), folder, False)
    assert names(folder) == [f"{NAME}.part", f"{NAME}.part.json"]
    assert (folder / f"{NAME}.part").read_bytes() == WHOLE[:2000]
    assert fetch(raw_file(server), folder, False).read_bytes() == WHOLE
    assert asked_ranges(server) == [None, "bytes=2000-"]


def test_last_modified_stands_in_for_a_weak_tag(server, folder):
    date = "Wed, 21 Oct 2015 07:28:00 GMT"
    server.files["/a"] = cut_after(2000, **{"ETag": 'W/"weak"', "Last-Modified": date})
    fetch(raw_file(server), folder, False)
    assert server.requests[1][1]["if-range"] == date


def test_without_a_mark_of_the_version_it_starts_again(server, folder):
    server.files["/a"] = cut_after(2000, ETag="")
    assert fetch(raw_file(server), folder, False).read_bytes() == WHOLE
    assert asked_ranges(server) == [None, None]


def test_a_server_that_knows_no_ranges_sends_it_all_again(server, folder):
    first = cut_after(2000)

    def without_ranges(handler):
        del handler.headers["Range"]
        first(handler)

    server.files["/a"] = without_ranges
    assert fetch(raw_file(server), folder, False).read_bytes() == WHOLE
    assert asked_ranges(server)[0] is None and len(server.requests) == 2


def test_another_part_than_asked_is_not_appended(server, folder):
    first = cut_after(2000)

    def shifted(handler):
        if "Range" in handler.headers:
            handler.send_bytes(
                WHOLE[1990:], 206, Content_Range=f"bytes 1990-{len(WHOLE) - 1}/{len(WHOLE)}"
            )
        else:
            first(handler)

    server.files["/a"] = shifted
    # No compressed file: nothing in its bytes would show the mistake.
    assert fetch(RawFile("a.csv", (f"{server.url}/a",), None), folder, False).read_bytes() == WHOLE
    assert asked_ranges(server) == [None, "bytes=2000-", None]


def test_a_file_that_changed_in_between_starts_again(server, folder, monkeypatch):
    server.files["/a"] = cut_after(2000)
    monkeypatch.setattr(download, "WAITS", ())
    with pytest.raises(FileNotFoundError):
        fetch(raw_file(server), folder, False)
    server.files["/a"] = OTHER
    assert fetch(raw_file(server), folder, False).read_bytes() == OTHER
    assert asked_ranges(server) == [None, "bytes=2000-"]


def test_pieces_of_two_versions_are_found_out_and_fetched_again(server, folder):
    first = cut_after(2000, ETag='"same"')

    def careless(handler):
        if "Range" in handler.headers:
            del handler.headers["If-Range"]
            handler.send_bytes(OTHER, ETag='"same"')
        else:
            first(handler)

    server.files["/a"] = careless
    assert len(OTHER) == len(WHOLE)
    assert fetch(raw_file(server), folder, False).read_bytes() == WHOLE
    assert asked_ranges(server) == [None, "bytes=2000-", None]


def test_a_part_that_is_complete_needs_no_request(server, folder):
    folder.mkdir(parents=True)
    (folder / f"{NAME}.part").write_bytes(WHOLE)
    note = {"url": f"{server.url}/a", "version": '"1"', "total": len(WHOLE)}
    (folder / f"{NAME}.part.json").write_text(json.dumps(note))
    assert fetch(raw_file(server), folder, False).read_bytes() == WHOLE
    assert server.requests == [] and names(folder) == [NAME]


def test_a_part_that_is_too_long_is_not_continued(server, folder):
    folder.mkdir(parents=True)
    (folder / f"{NAME}.part").write_bytes(WHOLE + b"more")
    note = {"url": f"{server.url}/a", "version": f'"{hash(WHOLE)}"', "total": len(WHOLE)}
    (folder / f"{NAME}.part.json").write_text(json.dumps(note))
    server.files["/a"] = WHOLE
    assert fetch(raw_file(server), folder, False).read_bytes() == WHOLE
    assert asked_ranges(server) == [None]


@pytest.mark.parametrize(
    "note",
    ["{broken", "[]", "{}", '{"url": "http://127.0.0.1:1/else", "version": "1", "total": 9999}'],
)
def test_a_part_of_unknown_origin_is_not_continued(server, folder, note):
    folder.mkdir(parents=True)
    (folder / f"{NAME}.part").write_bytes(OTHER[:1000])
    (folder / f"{NAME}.part.json").write_text(note)
    server.files["/a"] = WHOLE
    assert fetch(raw_file(server), folder, False).read_bytes() == WHOLE
    assert asked_ranges(server) == [None]


def test_a_range_beyond_the_end_starts_again(server, folder):
    folder.mkdir(parents=True)
    (folder / f"{NAME}.part").write_bytes(bytes(len(WHOLE)))
    tag = f'"{hash(WHOLE)}"'
    (folder / f"{NAME}.part.json").write_text(
        json.dumps({"url": f"{server.url}/a", "version": tag, "total": len(WHOLE) + 1})
    )
    server.files["/a"] = WHOLE
    assert fetch(raw_file(server), folder, False).read_bytes() == WHOLE
    assert asked_ranges(server) == [f"bytes={len(WHOLE)}-", None]


def test_progress_starts_the_row_of_waits_again(server, folder, waits):
    """Six cuts, each a little further on: more than the attempts without progress that are allowed."""

    def slow(handler):
        start = int(handler.headers.get("Range", "bytes=0-")[6:-1])
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(WHOLE) - start))
        handler.send_header("Content-Range", f"bytes {start}-{len(WHOLE) - 1}/{len(WHOLE)}")
        handler.send_header("ETag", '"1"')
        handler.end_headers()
        handler.wfile.write(WHOLE[start : start + 750])

    server.files["/a"] = slow
    assert fetch(raw_file(server), folder, False).read_bytes() == WHOLE
    assert len(server.requests) == -(-len(WHOLE) // 750) and set(waits) == {1.0}


def test_a_server_that_falls_silent_is_tried_again(server, folder, waits, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    answered = []

    def silent(handler):
        answered.append(True)
        if len(answered) > 2:
            handler.send_bytes(WHOLE)
        elif len(answered) == 2:
            time.sleep(0.6)
        else:
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(WHOLE)))
            handler.send_header("ETag", f'"{hash(WHOLE)}"')
            handler.end_headers()
            handler.wfile.write(WHOLE[:2000])
            handler.wfile.flush()
            time.sleep(0.6)

    server.files["/a"] = silent
    assert fetch(raw_file(server), folder, False).read_bytes() == WHOLE
    assert len(server.requests) == 3 and waits == [1.0, 5.0]
    assert asked_ranges(server)[1:] == ["bytes=2000-"] * 2


def disk_that_fills(monkeypatch, after: int):
    """A disk with room for `after` bytes of the .part file."""
    real_open = builtins.open

    def small_open(path, mode="r", *arguments, **others):
        stream = real_open(path, mode, *arguments, **others)
        if "a" not in mode:
            return stream
        real_write = stream.write

        class Small:
            def write(self, content):
                if stream.tell() + len(content) > after:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return real_write(content)

            def __enter__(self):
                return self

            def __exit__(self, *error):
                stream.close()

        return Small()

    monkeypatch.setattr(download, "open", small_open, raising=False)


def test_a_full_disk_is_said_in_a_sentence_and_the_rest_comes_later(server, folder, monkeypatch):
    server.files.update({"/a": WHOLE, "/b": WHOLE})
    with monkeypatch.context() as patch:
        disk_that_fills(patch, 1000)
        with pytest.raises(
            ValueError, match=f"{NAME} cannot be written .No space left on device.: make room"
        ) as caught:
            fetch(raw_file(server, "/a", "/b"), folder, False)
    assert "\n" not in str(caught.value)
    assert names(folder) == [f"{NAME}.part", f"{NAME}.part.json"]
    assert fetch(raw_file(server), folder, False).read_bytes() == WHOLE
    assert asked_ranges(server) == [None, "bytes=1000-"]


def test_an_interrupt_keeps_what_has_arrived(server, folder, monkeypatch):
    server.files["/a"] = WHOLE
    read, n_reads = download._read, []

    def interrupted(response):
        n_reads.append(True)
        if len(n_reads) == 4:
            raise KeyboardInterrupt
        return read(response)

    with monkeypatch.context() as patch:
        patch.setattr(download, "_read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch(raw_file(server), folder, False)
    assert names(folder) == [f"{NAME}.part", f"{NAME}.part.json"]
    assert fetch(raw_file(server), folder, False).read_bytes() == WHOLE
    assert asked_ranges(server) == [None, "bytes=1500-"]
