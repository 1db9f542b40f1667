from __future__ import annotations

import subprocess
import sys

import pytest

COUNT_FAULTS = """
import resource, sys
from recbole_genrec.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
import torch

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

torch.empty(16_000_000).fill_(1.0)
before = faults()
for _ in range(20):
    torch.empty(16_000_000).fill_(1.0)
print(faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's mallopt")
def test_kept_memory_is_not_faulted_in_again():
    """A block of 64 MB is mapped anew each time, unless freed memory is kept."""

    def faults(mode):
        return int(subprocess.run([sys.executable, "-c", COUNT_FAULTS, mode], capture_output=True, text=True, check=True).stdout)

    assert faults("keep") < faults("fresh") / 5
