"""CmalError and its subclasses: errors that a user can fix.

Every message has three lines: what failed and where, what was found, what to do. The subclass names the kind of input;
callers catch `CmalError`.
"""

from __future__ import annotations

import errno
import os
import re
import textwrap
from collections.abc import Iterable

MAX_ERRORS_SHOWN = 20
LONGEST_LINE = 1000  # characters in one line of a message

_STEERING = re.compile(  # control characters except \n, direction overrides, line separators, lone surrogates
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufff9-\ufffb\ud800-\udfff]"
)


class CmalError(Exception):
    """An error that the user can fix.

    Text from untrusted files in the message cannot control or flood a terminal: see `printable` and `cut_lines`.

    Args:
        what: what failed, and where (file and line); no full stop.
        found: the value or state that was found.
        hint: what to do, if possible as a command to paste.
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
    """Turn an operating-system error into a CmalError: disk full, no permission, missing file, out of memory, dead worker.

    Returns:
        The CmalError; None for every other exception, which is a bug.
    """
    if isinstance(error, CmalError):
        return error
    lost = isinstance(error, ConnectionError) and not isinstance(error, BrokenPipeError)  # batches come through sockets
    if isinstance(error, OSError) and error.errno is not None and error.errno != errno.EPIPE and not lost:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return CmalError(
            f"cannot write {error.filename or 'all of it'}" if is_full else f"cannot use {error.filename or 'a file'}",
            f"the system says: {system_word(error)}",
            _HINTS.get(error.errno, "check it, then run the same command again: finished work is kept"),
        )
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error))):
        return CmalError(
            "cannot continue: there is not enough memory",
            in_one_line(error),
            "use smaller batches or fewer workers, then run the same command again: finished work is kept",
        )
    if lost or (isinstance(error, RuntimeError) and _NO_WORKER.search(str(error))):
        return CmalError(
            "cannot continue: a worker process ended early",
            in_one_line(error),
            "if the system killed it for lack of memory, use fewer workers; run the same command again to resume",
        )
    return None


_NO_MEMORY = re.compile(r"out of memory|n.t allocate memory|not allocate memory|bad_alloc|start new thread", re.I)
_NO_WORKER = re.compile(r"DataLoader worker|process pool was terminated abruptly")
_HDF5_ERRNO = re.compile(r"errno = (\d+)")
_HINTS = {
    errno.ENOSPC: "free some space or choose another folder, then run the same command again",
    errno.EDQUOT: "free some space or choose another folder, then run the same command again",
    errno.EACCES: "get permission to use it, or choose another folder",
    errno.EPERM: "get permission to use it, or choose another folder",
    errno.EROFS: "choose another folder: this disk is read-only",
    errno.ENOENT: "it was there before: put it back, then run the same command again",
    errno.ENOMEM: "use smaller batches or fewer workers, then run the same command again",
    errno.EMFILE: "allow more open files (ulimit -n), then run the same command again",
}


def system_word(error: OSError) -> str:
    """The system's reason for an error, in one line of at most 200 characters.

    HDF5 hides the reason in a long text: "... errno = 28, error message = ...".

    Example: OSError(28, "No space left on device") gives "No space left on device".
    """
    number = _HDF5_ERRNO.search(str(error))
    words = os.strerror(int(number[1])) if number else error.strerror or str(error)
    return textwrap.shorten(words, 200, placeholder=" ...")


def in_one_line(error: BaseException, most: int = 200) -> str:
    """An exception for the middle line of a message: its type and first line, cut to `most` characters."""
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {textwrap.shorten(first, most, placeholder=' ...')}"


def printable(text: str) -> str:
    """The text with every character that a terminal would obey escaped; line ends stay.

    Example: "a\x1b[2Jb" becomes the eight characters a \\ x 1 b [ 2 J and b.
    """
    return _STEERING.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def cut_lines(text: str) -> str:
    """The text with lines cut after 1,000 characters, and the number of characters cut."""
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
    """A value from a file, for a message: its repr cut to `most` characters; of large containers only the type."""
    if isinstance(value, dict | list | tuple | set | frozenset) and (
        len(value) >= 20 or any(isinstance(part, dict | list | tuple) for part in value)
    ):
        return f"a {type(value).__name__}"
    try:
        text = repr(value[:most]) if isinstance(value, str | bytes) else repr(value)
    except ValueError:  # an integer of thousands of digits
        return f"a {type(value).__name__} of many digits"
    return short(text, most)


def short(text: str, most: int = 60) -> str:
    """The text, or its beginning with "..." where it is longer."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def list_errors(errors: Iterable[str]) -> str:
    """Many errors as the middle lines of one message: the first 20, one per line, then the number of further ones."""
    errors = list(errors)
    lines = errors[:MAX_ERRORS_SHOWN]
    if len(errors) > MAX_ERRORS_SHOWN:
        lines.append(f"... and {len(errors) - MAX_ERRORS_SHOWN:,} more")
    return "\n  ".join(lines)
