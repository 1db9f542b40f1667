"""One process at a time: two runs that miss the same data set would write into the same download."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

logger = logging.getLogger(__name__)


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Hold the lock of the file `path`, which is made; wait while another process holds it.

    The system gives the lock back when a process ends, however it ends. There is none on Windows,
    on disks that know no locks and where
    the file cannot be made: what is done inside has to stay right without.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "ab")
    except OSError:
        yield  # what is done inside says what is wrong with the folder
        return
    with file:
        _wait_for(file, path)
        yield


def _wait_for(file, path: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        logger.info("Waiting for another process, which holds %s", path)
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        logger.warning(
            "%s cannot be locked (%s): do not prepare the same data set in two processes at once",
            path,
            error,
        )
