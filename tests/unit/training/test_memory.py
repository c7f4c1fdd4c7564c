"""Freed memory stays with the process between steps, and goes back when it is asked to."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import gc, torch
from pathlib import Path
from cmal.training.memory import give_back_freed_memory, keep_freed_memory

def megabytes():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) // 1024

keep_freed_memory()
torch.ones(10)
empty = megabytes()
blocks = [torch.ones(250_000) for _ in range(200)]  # 1 MB each
pins = [torch.ones(2_000) for _ in range(2)]
full = megabytes()
del blocks
gc.collect()
kept = megabytes()
give_back_freed_memory()
print(full - empty, kept - empty, megabytes() - empty, int(pins[0].sum()))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc and /proc")
def test_freed_memory_is_kept_until_it_is_given_back():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    full, kept, left, pinned = map(int, done.stdout.split())
    assert full >= 185 and kept >= 185, "the next step finds its memory cleared already"
    assert left < 20 and pinned == 2_000, "what is in use stays as it is"
