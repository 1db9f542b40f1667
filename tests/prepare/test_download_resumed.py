"""A download that ends early continues there if the server still has the same file."""

from __future__ import annotations

import builtins
import errno
import json
import os
import time

import pytest

from recbole_genrec.errors import MissingFileError, UserError
from recbole_genrec.prepare import download
from recbole_genrec.prepare.catalog import RawFile
from recbole_genrec.prepare.download import fetch


def cut_after(content: bytes, n_bytes: int, **headers: str):
    """Promise the whole content and end the first answer after n_bytes; complete the later ones."""
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


def test_a_cut_connection_continues_where_it_ended(server, archive, waits):
    server.files["/a"] = cut_after(archive.whole, 2000)
    assert archive.fetch().read_bytes() == archive.whole
    assert archive.ranges() == [None, "bytes=2000-"]
    assert server.requests[1][1]["if-range"] == f'"{hash(archive.whole)}"'
    assert waits == [1.0] and archive.names() == [archive.name]


def test_the_next_call_continues_too(server, archive, monkeypatch):
    server.files["/a"] = cut_after(archive.whole, 2000)
    monkeypatch.setattr(download, "WAITS", ())
    with pytest.raises(
        MissingFileError, match=f"the connection ended after 2000 of {len(archive.whole)} bytes"
    ):
        archive.fetch()
    assert archive.names() == [f"{archive.name}.part", f"{archive.name}.part.json"]
    assert (archive.folder / f"{archive.name}.part").read_bytes() == archive.whole[:2000]
    assert archive.fetch().read_bytes() == archive.whole
    assert archive.ranges() == [None, "bytes=2000-"]


def test_last_modified_stands_in_for_a_weak_tag(server, archive):
    date = "Wed, 21 Oct 2015 07:28:00 GMT"
    server.files["/a"] = cut_after(
        archive.whole, 2000, **{"ETag": 'W/"weak"', "Last-Modified": date}
    )
    archive.fetch()
    assert server.requests[1][1]["if-range"] == date


def test_without_a_version_it_starts_again(server, archive):
    server.files["/a"] = cut_after(archive.whole, 2000, ETag="")
    assert archive.fetch().read_bytes() == archive.whole
    assert archive.ranges() == [None, None]


def test_a_server_that_knows_no_ranges_sends_it_all_again(server, archive):
    first = cut_after(archive.whole, 2000)

    def without_ranges(handler):
        del handler.headers["Range"]
        first(handler)

    server.files["/a"] = without_ranges
    assert archive.fetch().read_bytes() == archive.whole
    assert archive.ranges()[0] is None and len(server.requests) == 2


def test_another_part_than_asked_is_not_appended(server, archive):
    first = cut_after(archive.whole, 2000)
    shifted_range = f"bytes 1990-{len(archive.whole) - 1}/{len(archive.whole)}"

    def shifted(handler):
        if "Range" in handler.headers:
            handler.send_bytes(archive.whole[1990:], 206, Content_Range=shifted_range)
        else:
            first(handler)

    server.files["/a"] = shifted
    # Without compression nothing in the bytes would show the mistake.
    file = RawFile("a.csv", (f"{server.url}/a",), None)
    assert fetch(file, archive.folder, False).read_bytes() == archive.whole
    assert archive.ranges() == [None, "bytes=2000-", None]


def test_a_file_that_changed_in_between_starts_again(server, archive, monkeypatch):
    server.files["/a"] = cut_after(archive.whole, 2000)
    monkeypatch.setattr(download, "WAITS", ())
    with pytest.raises(MissingFileError):
        archive.fetch()
    server.files["/a"] = archive.other
    assert archive.fetch().read_bytes() == archive.other
    assert archive.ranges() == [None, "bytes=2000-"]


def test_pieces_of_two_versions_are_detected_and_fetched_again(server, archive):
    first = cut_after(archive.whole, 2000, ETag='"same"')

    def careless(handler):
        if "Range" in handler.headers:
            del handler.headers["If-Range"]
            handler.send_bytes(archive.other, ETag='"same"')
        else:
            first(handler)

    server.files["/a"] = careless
    assert len(archive.other) == len(archive.whole)
    assert archive.fetch().read_bytes() == archive.whole
    assert archive.ranges() == [None, "bytes=2000-", None]


def write_part(archive, server, content, **note):
    """Leave a part and its note in the folder, as an earlier call would."""
    note = {"url": f"{server.url}/a", "version": f'"{hash(archive.whole)}"', **note}
    archive.folder.mkdir(parents=True)
    (archive.folder / f"{archive.name}.part").write_bytes(content)
    (archive.folder / f"{archive.name}.part.json").write_text(json.dumps(note))


def test_a_part_that_is_complete_needs_no_request(server, archive):
    write_part(archive, server, archive.whole, total=len(archive.whole))
    assert archive.fetch().read_bytes() == archive.whole
    assert server.requests == [] and archive.names() == [archive.name]


def test_a_part_that_is_too_long_is_not_continued(server, archive):
    write_part(archive, server, archive.whole + b"more", total=len(archive.whole))
    server.files["/a"] = archive.whole
    assert archive.fetch().read_bytes() == archive.whole
    assert archive.ranges() == [None]


@pytest.mark.parametrize(
    "note",
    ["{broken", "[]", "{}", '{"url": "http://127.0.0.1:1/else", "version": "1", "total": 9999}'],
)
def test_a_part_of_unknown_origin_is_not_continued(server, archive, note):
    write_part(archive, server, archive.other[:1000])
    (archive.folder / f"{archive.name}.part.json").write_text(note)
    server.files["/a"] = archive.whole
    assert archive.fetch().read_bytes() == archive.whole
    assert archive.ranges() == [None]


def test_a_range_beyond_the_end_starts_again(server, archive):
    write_part(archive, server, bytes(len(archive.whole)), total=len(archive.whole) + 1)
    server.files["/a"] = archive.whole
    assert archive.fetch().read_bytes() == archive.whole
    assert archive.ranges() == [f"bytes={len(archive.whole)}-", None]


def test_progress_restarts_the_waits(server, archive, waits):
    """Six cuts, each a little further on, are more than the attempts allowed without progress."""
    n_bytes = len(archive.whole)

    def slow(handler):
        start = int(handler.headers.get("Range", "bytes=0-")[6:-1])
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(n_bytes - start))
        handler.send_header("Content-Range", f"bytes {start}-{n_bytes - 1}/{n_bytes}")
        handler.send_header("ETag", '"1"')
        handler.end_headers()
        handler.wfile.write(archive.whole[start : start + 750])

    server.files["/a"] = slow
    assert archive.fetch().read_bytes() == archive.whole
    assert len(server.requests) == -(-n_bytes // 750) and set(waits) == {1.0}


def test_a_server_that_falls_silent_is_tried_again(server, archive, waits, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    answered = []

    def silent(handler):
        answered.append(True)
        if len(answered) > 2:
            handler.send_bytes(archive.whole)
        elif len(answered) == 2:
            time.sleep(0.6)
        else:
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(archive.whole)))
            handler.send_header("ETag", f'"{hash(archive.whole)}"')
            handler.end_headers()
            handler.wfile.write(archive.whole[:2000])
            handler.wfile.flush()
            time.sleep(0.6)

    server.files["/a"] = silent
    assert archive.fetch().read_bytes() == archive.whole
    assert len(server.requests) == 3 and waits == [1.0, 5.0]
    assert archive.ranges()[1:] == ["bytes=2000-"] * 2


def disk_that_fills(monkeypatch, after: int):
    """Give the disk room for `after` bytes of the .part file."""
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


def test_a_full_disk_is_one_sentence_and_the_rest_comes_later(server, archive, monkeypatch):
    server.files.update({"/a": archive.whole, "/b": archive.whole})
    with monkeypatch.context() as patch:
        disk_that_fills(patch, 1000)
        words = f"{archive.name} cannot be written .No space left on device.: make room"
        with pytest.raises(UserError, match=words) as caught:
            archive.fetch("/a", "/b")
    assert "\n" not in str(caught.value)
    assert archive.names() == [f"{archive.name}.part", f"{archive.name}.part.json"]
    assert archive.fetch().read_bytes() == archive.whole
    assert archive.ranges() == [None, "bytes=1000-"]


def test_an_interrupt_keeps_what_has_arrived(server, archive, monkeypatch):
    server.files["/a"] = archive.whole
    read, n_reads = download._read, []

    def interrupted(response):
        n_reads.append(True)
        if len(n_reads) == 4:
            raise KeyboardInterrupt
        return read(response)

    with monkeypatch.context() as patch:
        patch.setattr(download, "_read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            archive.fetch()
    assert archive.names() == [f"{archive.name}.part", f"{archive.name}.part.json"]
    assert archive.fetch().read_bytes() == archive.whole
    assert archive.ranges() == [None, "bytes=1500-"]
