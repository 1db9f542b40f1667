"""A lock so that two runs that miss the same data set do not write into the same download."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, which is created; wait while another process holds it.

    The system releases the lock when its process ends, however it ends. If the file cannot be
    created or locked, the body runs without a lock after a warning.
    """
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        logger.info("Waiting for another process, which holds %s", path)
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        logger.warning(
            "%s cannot be locked (%s): do not prepare the same data set in two processes at once",
            path,
            error,
        )
    try:
        yield
    finally:
        lock.release()
