"""A child process that reads untrusted files: its items arrive, its death is a message."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from cmal.errors import DataError
from cmal.io.isolated import iterate_isolated, run_isolated

FILE = Path("some.file")


def test_items_arrive_in_order_and_errors_after_them():
    def read():
        yield from (1, np.arange(3), None)
        raise DataError("what", "found", "hint")

    items = iterate_isolated(FILE, read)
    assert next(items) == 1 and next(items).tolist() == [0, 1, 2] and next(items) is None
    with pytest.raises(DataError, match="what"):
        next(items)


def test_the_child_is_another_process_without_files_of_its_parent(tmp_path):
    with (tmp_path / "held").open("w") as held:
        number = held.fileno()

        def look():
            try:
                os.fstat(number)
            except OSError:
                return os.getpid(), "closed"

        process, state = run_isolated(FILE, look)
    assert process != os.getpid() and state == "closed"


def spin() -> None:
    while True:
        pass


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), r"crashed \(SIGSEGV\): the file is damaged"),
        (lambda: bytearray(3 << 30), "more than 2 GB of memory"),
        (spin, "more than 1 s of processor time"),
    ],
)
def test_a_child_that_dies_is_a_message(harm, message):
    with pytest.raises(DataError, match=message):
        run_isolated(FILE, harm, seconds=1)


def test_reading_may_stop_early():
    items = iterate_isolated(FILE, lambda: iter(range(10**9)))
    assert next(items) == 0
    items.close()
