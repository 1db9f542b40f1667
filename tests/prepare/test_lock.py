from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
from filelock import FileLock

from recbole_genrec.prepare.lock import one_at_a_time

posix = pytest.mark.skipif(os.name != "posix", reason="there are no such locks")
HOLD = """
import fcntl, sys
with open(sys.argv[1], "ab") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    print("held", flush=True)
    input()
"""


@posix
def test_waits_for_another_process_even_if_that_is_killed(tmp_path, caplog):
    path, entered = tmp_path / "new" / ".lock", threading.Event()
    with one_at_a_time(path):
        pass

    def enter():
        with one_at_a_time(path):
            entered.set()

    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder, caplog.at_level("INFO"):
        assert holder.stdout.readline() == b"held\n"
        thread = threading.Thread(target=enter)
        thread.start()
        assert not entered.wait(0.2)
        holder.kill()
        assert entered.wait(30)
        thread.join()
    assert caplog.messages == [f"Waiting for another process, which holds {path}"]


def test_the_lock_is_released_after_an_error(tmp_path):
    for _ in range(2):
        with pytest.raises(KeyError), one_at_a_time(tmp_path / ".lock"):
            raise KeyError


def test_without_a_lock_the_body_runs_after_a_warning(tmp_path, monkeypatch, caplog):
    def refuse(lock, **arguments):
        raise OSError(37, "No locks available")

    (tmp_path / "file").touch()
    done = []
    with one_at_a_time(tmp_path / "file" / ".lock"):
        done.append("where no file can be made")
    monkeypatch.setattr(FileLock, "acquire", refuse)
    with one_at_a_time(tmp_path / ".lock"):
        done.append("where no file can be locked")
    assert done == ["where no file can be made", "where no file can be locked"]
    assert ["cannot be locked" in message for message in caplog.messages] == [True, True]
    assert "No locks available" in caplog.messages[1]
