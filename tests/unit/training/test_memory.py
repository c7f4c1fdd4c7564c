"""Freed memory stays with the process between steps."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import gc, torch
from pathlib import Path
from cmal.training.memory import keep_freed_memory

def megabytes():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) // 1024

keep_freed_memory()
torch.ones(10)
empty = megabytes()
blocks = [torch.ones(250_000) for _ in range(200)]  # 1 MB each
full = megabytes()
del blocks
gc.collect()
kept = megabytes()
print(full - empty, kept - empty)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc and /proc")
def test_freed_memory_is_kept():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    full, kept = map(int, done.stdout.split())
    assert full >= 185 and kept >= 185, "the next step finds its memory cleared already"
