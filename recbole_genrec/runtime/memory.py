"""How the process of a run treats memory."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # the parameters' numbers in glibc's malloc.h


def keep_freed_memory() -> bool:
    """Let the C library reuse large blocks instead of giving them back to the kernel after every operation.

    torch allocates every intermediate result anew; on a CPU the page faults of fresh memory cost
    about a fifth of a small
    model's training step. This concerns the whole process and lasts, so a run asks for it and an
    import does not.

    Returns:
        Whether the C library has this setting; glibc on Linux does.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and bool(
        mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    )
