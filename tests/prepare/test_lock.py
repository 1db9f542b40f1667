from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from recbole_genrec.prepare import lock
from recbole_genrec.prepare.lock import one_at_a_time

posix = pytest.mark.skipif(os.name != "posix", reason="there are no such locks")
HOLD = "import fcntl, sys; f = open(sys.argv[1], 'ab'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); input()"


@posix
def test_another_process_is_waited_for_also_if_it_is_killed(tmp_path, caplog):
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


@posix
def test_the_lock_is_given_back_after_an_error(tmp_path):
    for _ in range(2):
        with pytest.raises(KeyError), one_at_a_time(tmp_path / ".lock"):
            raise KeyError


def test_without_locks_the_work_is_done_all_the_same(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    done = []
    with one_at_a_time(tmp_path / "file" / ".lock"):
        done.append("where no file can be made")

    class Refusing:
        LOCK_EX = LOCK_NB = 0

        @staticmethod
        def flock(file, how):
            raise OSError(37, "No locks available")

    for module in (Refusing, None):
        monkeypatch.setattr(lock, "fcntl", module)
        with one_at_a_time(tmp_path / ".lock"):
            done.append(module)
    assert done == ["where no file can be made", Refusing, None]
    assert len(caplog.messages) == 1 and "No locks available" in caplog.messages[0]
