"""The files of a named data set are fetched once for all processes, or by hand."""

from __future__ import annotations

import gzip
import json
import threading
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from recbole_genrec.errors import MissingFileError
from recbole_genrec.prepare import named
from recbole_genrec.prepare.named import prepare


def served():
    rows = [f"u{user},i{item},4.0,{item}\n" for user in range(5) for item in range(5)]
    return {
        "/amazon-2023/Musical_Instruments.csv.gz": gzip.compress(
            "".join(["user_id,parent_asin,rating,timestamp\n", *rows]).encode()
        ),
        "/amazon-2023/meta_Musical_Instruments.jsonl.gz": gzip.compress(
            json.dumps({"parent_asin": "i1", "title": "One"}).encode()
        ),
    }


def test_two_processes_that_want_one_data_set_fetch_it_once(server, tmp_path):
    server.files.update(served())
    content, waiting = server.files["/amazon-2023/Musical_Instruments.csv.gz"], threading.Event()

    def slow(handler):
        waiting.wait(5)
        handler.send_bytes(content)

    server.files["/amazon-2023/Musical_Instruments.csv.gz"] = slow
    with ThreadPoolExecutor() as pool:
        calls = [
            pool.submit(prepare, "amazon-instruments", tmp_path, server.url, False)
            for _ in range(2)
        ]
        _, unfinished = wait(calls, timeout=0.3)
        assert len(unfinished) == 2
        waiting.set()
        assert [call.result() for call in calls] == [tmp_path / "amazon-instruments"] * 2
    assert sorted(path for path, _ in server.requests) == sorted(server.files)


def test_one_message_names_all_files_that_are_to_be_fetched_by_hand(server, tmp_path, monkeypatch):
    find, at = named.find_dump, "/amazon-2023/Musical_Instruments.csv.gz"

    def only_the_server(name, mirror):
        dump = find(name, mirror)
        return dump._replace(
            **{
                kind: getattr(dump, kind)._replace(urls=getattr(dump, kind).urls[:1])
                for kind in ("reviews", "metadata")
            }
        )

    monkeypatch.setattr(named, "find_dump", only_the_server)
    with pytest.raises(MissingFileError) as both:
        prepare("amazon-instruments", tmp_path, server.url, False)
    meta = "meta_Musical_Instruments.jsonl.gz"
    beside = f"; {meta} is needed beside it, from {server.url}/amazon-2023/{meta}"
    raw = tmp_path / ".raw" / "amazon-instruments"
    assert str(raw / "Musical_Instruments.csv.gz") in str(both.value) and str(both.value).endswith(
        beside
    )
    assert [path for path, _ in server.requests] == [at]
    (raw / "meta_Musical_Instruments.jsonl.gz").write_bytes(
        served()["/amazon-2023/meta_Musical_Instruments.jsonl.gz"]
    )
    with pytest.raises(MissingFileError) as one:
        prepare("amazon-instruments", tmp_path, server.url, False)
    assert "meta_" not in str(one.value)
