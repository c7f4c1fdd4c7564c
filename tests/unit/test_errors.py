"""What the system does to us becomes a message; our own faults stay what they are."""

from __future__ import annotations

import errno

import pytest

from cmal.errors import CmalError, DataError, as_user_error, system_word


@pytest.mark.parametrize(
    ("error", "what", "hint"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a.json"), "cannot write a.json", "free some space"),
        (OSError(errno.ENOSPC, "No space left on device"), "cannot write all of it", "free some space"),
        (PermissionError(errno.EACCES, "Permission denied", "b"), "cannot use b", "get permission"),
        (OSError(errno.EROFS, "Read-only file system", "c"), "cannot use c", "read-only"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "d"), "cannot use d", "put it back"),
        (OSError(errno.EIO, "Input/output error"), "cannot use a file", "run the same command again"),
        (MemoryError(), "not enough memory", "fewer workers"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            "not enough memory",
            "smaller",
        ),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "not enough memory", "smaller batches"),
        (RuntimeError("can't start new thread"), "not enough memory", "fewer workers"),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
            "a worker process ended early",
            "fewer",
        ),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "a worker process ended early", "fewer"),
    ],
)
def test_what_the_system_does_is_told_in_three_lines(error, what, hint):
    message = as_user_error(error)
    assert what in message.what and hint in message.hint and len(str(message).splitlines()) == 3


def test_a_message_stays_itself_and_a_fault_of_our_own_is_none():
    own = DataError("what", "found", "hint")
    assert as_user_error(own) is own and isinstance(own, CmalError)
    for fault in (ValueError("x"), RuntimeError("shapes"), KeyError("a"), BrokenPipeError(errno.EPIPE, "Broken pipe")):
        assert as_user_error(fault) is None


def test_the_systems_word_is_one_line_whoever_tells_it():
    hdf5 = OSError(
        "Unable to synchronously create file (file write failed: time = Fri Nov 27 06:26:55 2026\n, filename = 'a.tmp', "
        "file descriptor = 8, errno = 28, error message = 'No space left on device', buf = 0x561205f44b18)"
    )
    with_number = OSError(errno.ENOSPC, str(hdf5))
    for error in (OSError(errno.ENOSPC, "No space left on device"), hdf5, with_number):
        assert system_word(error) == "No space left on device"
    assert system_word(OSError("a\nb")) == "a b"
