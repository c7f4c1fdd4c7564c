"""CmalError and its few children: what a user can put right.

Every message has three lines: what failed and where, what was found, what to do. A child class says which part of the
program speaks; callers catch `CmalError`.
"""

from __future__ import annotations

import errno
import os
import re
import textwrap
from collections.abc import Iterable

MAX_ERRORS_SHOWN = 20
LONGEST_LINE = 1000  # characters of a message's line

_STEERING = re.compile(  # controls but the line's end, overrides of direction, line parters, halves of characters
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufff9-\ufffb\ud800-\udfff]"
)


class CmalError(Exception):
    """Something the user can put right.

    What a file of a stranger put into the message cannot steer a terminal or flood it: see `printable` and `cut_lines`.

    Args:
        what: what failed, and where (file and line); no full stop.
        found: the value or state that was found.
        hint: what to do, at best a command that can be pasted.
    """

    def __init__(self, what: str, found: str, hint: str):
        self.what, self.found, self.hint = (cut_lines(printable(part)) for part in (what, found, hint))
        super().__init__(self.what, self.found, self.hint)

    def __str__(self) -> str:
        return f"{self.what}\n  {self.found}\n  {self.hint}"


class RecipeError(CmalError):
    """A recipe or an override that cannot be used."""


class DataError(CmalError):
    """An input file or record that cannot be used."""


class StoreError(CmalError):
    """A region store that is missing, damaged or of the wrong kind."""


class ImageError(CmalError):
    """An image file that cannot be read."""


class CheckpointError(CmalError):
    """A checkpoint or run folder that is missing, damaged or of the wrong kind."""


class ShapeError(CmalError):
    """Arrays given to a public function disagree in shape."""


def as_user_error(error: BaseException) -> CmalError | None:
    """What the system did to us, as a message: no room, no permission, a file that vanished, memory, a helper that died.

    Returns:
        None where it is none of these: a fault of our own.
    """
    if isinstance(error, CmalError):
        return error
    lost = isinstance(error, ConnectionError) and not isinstance(error, BrokenPipeError)  # batches come through sockets
    if isinstance(error, OSError) and error.errno is not None and error.errno != errno.EPIPE and not lost:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return CmalError(
            f"cannot write {error.filename or 'all of it'}" if is_full else f"cannot use {error.filename or 'a file'}",
            f"the system says: {system_word(error)}",
            _HINTS.get(error.errno, "look after it, then run the same command again: what is finished is kept"),
        )
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error))):
        return CmalError(
            "cannot go on: there is not enough memory",
            in_one_line(error),
            "use smaller batches or fewer workers, then run the same command again: what is finished is kept",
        )
    if lost or (isinstance(error, RuntimeError) and _NO_WORKER.search(str(error))):
        return CmalError(
            "cannot go on: a worker process ended early",
            in_one_line(error),
            "if the system ended it for want of memory, use fewer workers; run the same command again to go on",
        )
    return None


_NO_MEMORY = re.compile(r"out of memory|n.t allocate memory|not allocate memory|bad_alloc|start new thread", re.I)
_NO_WORKER = re.compile(r"DataLoader worker|process pool was terminated abruptly")
_HDF5_ERRNO = re.compile(r"errno = (\d+)")
_HINTS = {
    errno.ENOSPC: "free some space or choose another place, then run the same command again",
    errno.EDQUOT: "free some space or choose another place, then run the same command again",
    errno.EACCES: "ask for the right to use it, or choose another place",
    errno.EPERM: "ask for the right to use it, or choose another place",
    errno.EROFS: "choose another place: this disk can only be read",
    errno.ENOENT: "it was there before: put it back, then run the same command again",
    errno.ENOMEM: "use smaller batches or fewer workers, then run the same command again",
    errno.EMFILE: "allow more open files (ulimit -n), then run the same command again",
}


def system_word(error: OSError) -> str:
    """What the system said, in one line. HDF5 tells it in two, with much around it: "... errno = 28, error message = ...".

    Example: OSError(28, "No space left on device") gives "No space left on device".
    """
    number = _HDF5_ERRNO.search(str(error))
    words = os.strerror(int(number[1])) if number else error.strerror or str(error)
    return textwrap.shorten(words, 200, placeholder=" ...")


def in_one_line(error: BaseException, most: int = 200) -> str:
    """A library's error for the middle line of a message: its kind and first line, at most so many letters."""
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {textwrap.shorten(first, most, placeholder=' ...')}"


def printable(text: str) -> str:
    """The text with every character that could steer a terminal spelled out; line ends stay.

    Example: "a\x1b[2Jb" becomes the eight characters a \\ x 1 b [ 2 J and b.
    """
    return _STEERING.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def cut_lines(text: str) -> str:
    """Lines beyond 1,000 characters end with how many more there were."""
    if len(text) <= LONGEST_LINE:
        return text
    lines = text.split("\n")
    return "\n".join(
        line
        if len(line) <= LONGEST_LINE
        else f"{line[:LONGEST_LINE]}... ({len(line) - LONGEST_LINE:,} more characters)"
        for line in lines
    )


def shown(value: object, most: int = 60) -> str:
    """A value of a foreign file for a message: its repr, short; containers of some size by their kind alone."""
    is_container = isinstance(value, dict | list | tuple | set | frozenset)
    if is_container and (len(value) >= 20 or any(isinstance(part, dict | list | tuple) for part in value)):
        return f"a {type(value).__name__}"
    try:
        text = repr(value[:most]) if isinstance(value, str | bytes) else repr(value)
    except ValueError:  # a whole number of thousands of digits
        return f"a {type(value).__name__} of many digits"
    return short(text, most)


def short(text: str, most: int = 60) -> str:
    """The text, or its beginning with "..." where it is longer."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def list_errors(errors: Iterable[str]) -> str:
    """Many faults as the middle lines of one message: the first 20, one a line, then how many more there are."""
    errors = list(errors)
    lines = errors[:MAX_ERRORS_SHOWN]
    if len(errors) > MAX_ERRORS_SHOWN:
        lines.append(f"... and {len(errors) - MAX_ERRORS_SHOWN:,} more")
    return "\n  ".join(lines)
