from __future__ import annotations

import json
import subprocess
import sys

import pytest

REPORT = """
import ctypes, json, sys
import torch
from recbole_genrec.runtime.memory import keep_freed_memory

class Mallinfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
                "arena ordblks smblks hblks hblkhd "
                "usmblks fsmblks uordblks fordblks keepcost".split()]

mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Mallinfo
if sys.argv[1] == "keep":
    assert keep_freed_memory()
before = mallinfo()
block = torch.empty(16_000_000)
mapped = mallinfo().hblkhd - before.hblkhd
del block
print(json.dumps({"mapped": mapped, "arena": mallinfo().arena - before.arena}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's mallopt")
def test_freed_blocks_stay_in_the_arena():
    """Compare glibc's own account of a block of 64 MB with and without the setting.

    Without it, the block is mapped by itself; with it, the block is part of the arena and stays
    there when it is freed.
    """

    def account(mode):
        done = subprocess.run(
            [sys.executable, "-c", REPORT, mode], capture_output=True, text=True, check=True
        )
        return json.loads(done.stdout)

    size = 64_000_000
    fresh, kept = account("fresh"), account("keep")
    assert fresh["mapped"] >= size and fresh["arena"] == 0
    assert kept["mapped"] == 0 and kept["arena"] > 0.9 * size, (
        "part of the block may have been free"
    )
