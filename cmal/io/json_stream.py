"""Big JSON files read piece by piece: the elements of top-level arrays, in memory that does not grow with the file.

The official annotation files are one JSON document each, up to 700 MB: an object whose keys hold long arrays ("images",
"annotations"), or one long array. `json`'s own decoder reads one element at a time from a moving window of text. The
document is always read to its end, so a cut-off file is noticed.

Not ijson: its C parser (yajl) silently replaces a lone surrogate ("\\ud83d") by "?", stops at an integer beyond 64 bits,
and gives no position. Here these are errors of one row, reported with its number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from cmal.errors import DataError

WINDOW_CHARS = 1 << 20
MAX_ELEMENT_CHARS = 1 << 28  # longest element of an array, or other value
MARGIN_CHARS = 32  # what is decoded or found wrong this near to the window's end may be cut: "0." of "0.5"

_SPACE = re.compile(r"[ \t\r\n]*")
_SURROGATE = re.compile("[\ud800-\udfff]")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def parse_json(text: str | bytes) -> Any:
    """The value of one small JSON text; strict, so NaN and Infinity are refused.

    Raises:
        ValueError: not JSON (or nested too deeply, or not UTF-8); the text says what and where.
    """
    try:
        return DECODER.decode(text.decode("utf-8-sig") if isinstance(text, bytes) else text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def has_surrogate(text: str) -> bool:
    """Whether a text holds a lone surrogate, which JSON may contain and UTF-8 cannot encode.

    Example: "caf\\u00e9" does not, "\\ud83d" alone does.
    """
    return not text.isascii() and _SURROGATE.search(text) is not None


def replace_surrogates(text: str) -> str:
    """The text with "?" for each lone surrogate."""
    return text.encode("utf-8", "replace").decode("utf-8")


def iterate_array(path: Path, key: str = "") -> Iterator[Any]:
    """The elements of one array of a JSON file, in order.

    Args:
        path: the file; UTF-8.
        key: the top-level key that holds the array; "" where the document itself is the array.

    Raises:
        DataError: the file cannot be read, is not JSON, or has no such array.
    """
    has_array = False
    for name, element in _read(Path(path)):
        if name == key:
            if element is _ARRAY_STARTS:
                has_array = True
            elif not has_array:
                raise _unusable(path, f'"{key}" is not a list')
            else:
                yield element
    if not has_array:
        raise _unusable(path, f'there is no list "{key}" in it' if key else "it is not a list")


def iterate_arrays(path: Path) -> Iterator[tuple[str, Any]]:
    """(key, element) for every element of every top-level array, in the file's order. Other values are left out.

    Raises:
        DataError: the file cannot be read or is not JSON.
    """
    array = None
    for key, element in _read(Path(path)):
        if element is _ARRAY_STARTS:
            array = key
        elif key == array:
            yield key, element


_ARRAY_STARTS = object()  # announces an array, so that an empty one is noticed too


def _read(path: Path) -> Iterator[tuple[str, Any]]:
    """(key, value) of a document, (key, element) of its arrays after (key, _ARRAY_STARTS). Errors become DataErrors."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from _document(_Window(file))
    except OSError as error:
        raise DataError(f"cannot read {path}", f"the system says: {error.strerror}", "check the path") from error
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise _unusable(path, f"it is not JSON: {reason}") from error


def _unusable(path: Path, found: str) -> DataError:
    return DataError(f"cannot use {path}", found, "download or make the file again")


def _document(window: _Window) -> Iterator[tuple[str, Any]]:
    if window.peek() == "[":
        yield from _array(window, "")
    else:
        window.take("{")
        delimiter = window.take("}") if window.peek() == "}" else ","
        while delimiter == ",":
            if window.peek() != '"':
                raise window.unexpected('"')
            key = window.value()
            window.take(":")
            if window.peek() == "[":
                yield from _array(window, key)
            else:
                yield key, window.value()
            delimiter = window.take(",}")
    if window.peek():
        raise window.unexpected("")


def _array(window: _Window, key: str) -> Iterator[tuple[str, Any]]:
    window.take("[")
    yield key, _ARRAY_STARTS
    delimiter = window.take("]") if window.peek() == "]" else ","
    while delimiter == ",":
        yield key, window.value()
        delimiter = window.take(",]")


class _Window:
    """A window over the text of a document; `text[position:]` has not been read yet, `passed` characters were dropped."""

    def __init__(self, file: TextIO):
        self.file, self.text, self.position, self.passed = file, "", 0, 0

    def peek(self) -> str:
        """The next character that is no space; "" at the file's end."""
        while True:
            self.position = _SPACE.match(self.text, self.position).end()  # type: ignore[union-attr]  # always matches
            if self.position < len(self.text) or not self._read_more():
                return self.text[self.position : self.position + 1]

    def take(self, expected: str) -> str:
        """The next character that is no space, which is one of `expected`."""
        char = self.peek()
        if not char or char not in expected:
            raise self.unexpected(expected)
        self.position += 1
        return char

    def value(self) -> Any:
        """The next value, decoded."""
        self.peek()
        while True:
            try:
                value, end = DECODER.raw_decode(self.text, self.position)
            except json.JSONDecodeError as error:
                may_be_cut = error.pos + MARGIN_CHARS > len(self.text) or error.msg.startswith("Unterminated string")
                if not (may_be_cut and self._read_more()):
                    raise ValueError(f"{error.msg} at character {self.passed + error.pos:,}") from None
            else:
                if end + MARGIN_CHARS <= len(self.text) or not self._read_more():
                    self.position = end
                    return value

    def unexpected(self, expected: str) -> ValueError:
        names = " or ".join(f'"{char}"' for char in expected) or "the file's end"
        found = repr(self.peek()) if self.peek() else "the file's end"
        return ValueError(f"expected {names} at character {self.passed + self.position:,}, found {found}")

    def _read_more(self) -> bool:
        """Drops what was read and at least doubles what was not; False at the file's end."""
        unread = self.text[self.position :]
        if len(unread) > MAX_ELEMENT_CHARS:
            raise ValueError(f"one element is longer than {MAX_ELEMENT_CHARS:,} characters")
        more = self.file.read(max(WINDOW_CHARS, len(unread)))
        if more:  # else positions in the text stay valid
            self.passed, self.text, self.position = self.passed + self.position, unread + more, 0
        return bool(more)
