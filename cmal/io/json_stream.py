"""Big JSON files read piece by piece: the elements of top-level arrays, in memory that does not grow with the file.

The official annotation files are one JSON document each, up to 700 MB: an object whose keys hold long arrays
("images", "annotations"), or one long array. The document is walked with `json`'s own decoder over a moving window of
text, one element at a time. The whole document is always read to its end, so a cut-off file is noticed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cmal.errors import DataError

WINDOW_CHARS = 1 << 20
MAX_ELEMENT_CHARS = 1 << 28  # one element (a row, or a value that is no array) may be 256 million characters long
ERROR_MARGIN_CHARS = 32  # a decoding error nearer than this to the window's end may be the window's fault

_SPACE = re.compile(r"[ \t\r\n]*")
_AFTER_ELEMENT = re.compile(r"[ \t\r\n]*([,\]])")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def parse_json(text: str | bytes) -> Any:
    """One small JSON text; strict, so NaN and Infinity are refused.

    Raises:
        ValueError: not JSON (or nested too deeply, or not UTF-8); the text says what and where.
    """
    try:
        return DECODER.decode(text.decode("utf-8-sig") if isinstance(text, bytes) else text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def iterate_array(path: Path, key: str = "") -> Iterator[Any]:
    """The elements of one array of a JSON file, in order.

    Args:
        path: the file; UTF-8.
        key: the top-level key that holds the array; "" where the whole document is the array.

    Raises:
        DataError: the file cannot be read, is not JSON, or has no such array.
    """
    seen = False
    for name, element in _iterate_checked(Path(path)):
        if name == key:
            if element is ARRAY_STARTS:
                seen = True
            elif not seen:
                raise _not_usable(path, f'"{key}" is not a list')
            else:
                yield element
    if not seen:
        found = f'there is no list "{key}" in it' if key else "it is not a list"
        raise _not_usable(path, found)


def iterate_arrays(path: Path) -> Iterator[tuple[str, Any]]:
    """(key, element) for every element of every top-level array, in the file's order; other values are passed over."""
    inside = None
    for name, element in _iterate_checked(Path(path)):
        if element is ARRAY_STARTS:
            inside = name
        elif name == inside:
            yield name, element


ARRAY_STARTS = object()  # announces an array, so that an empty one is noticed too


def _iterate_checked(path: Path) -> Iterator[tuple[str, Any]]:
    """(key, element or value) of a document; (key, ARRAY_STARTS) before an array's elements. Errors become DataErrors."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from _Document(file).walk()
    except OSError as error:
        raise DataError(f"cannot read {path}", f"the system says: {error.strerror}", "check the path") from error
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise _not_usable(path, f"it is not JSON: {reason}") from error


def _not_usable(path: Path, found: str) -> DataError:
    return DataError(f"cannot use {path}", found, "download or make the file again")


class _Document:
    """A window over the text of one JSON document; `text[place:]` is what has not been read yet."""

    def __init__(self, file: Any):
        self.file, self.text, self.place, self.passed, self.ended = file, "", 0, 0, False

    def walk(self) -> Iterator[tuple[str, Any]]:
        opening = self._next_char()
        if opening == "[":
            self.place += 1
            yield "", ARRAY_STARTS
            yield from (("", element) for element in self._elements())
        elif opening == "{":
            self.place += 1
            yield from self._members()
        else:
            raise ValueError(f"it should begin with [ or {{, found {opening!r}" if opening else "the file is empty")
        if self._next_char():
            raise ValueError(f"there is more text after its end, at character {self.passed + self.place:,}")

    def _members(self) -> Iterator[tuple[str, Any]]:
        if self._next_char() == "}":
            self.place += 1
            return
        while True:
            if self._next_char() != '"':
                raise self._unexpected("a key in quotes")
            key = self._value()
            self._take(":")
            if self._next_char() == "[":
                self.place += 1
                yield key, ARRAY_STARTS
                for element in self._elements():
                    yield key, element
            else:
                yield key, self._value()
            if self._take(",}") == "}":
                return

    def _elements(self) -> Iterator[Any]:
        """Elements up to and with the closing bracket. An element counts once its comma or bracket is seen, so that a
        number cut by the window's end is not taken for whole."""
        if self._next_char() == "]":
            self.place += 1
            return
        while True:
            self._next_char()
            value, end = self._decode()
            while not (after := _AFTER_ELEMENT.match(self.text, end)):
                next_char = _SPACE.match(self.text, end).end()  # a number may be cut within: "0." of "0.5"
                if next_char + ERROR_MARGIN_CHARS < len(self.text) or not self._read_more():
                    self.place = end
                    raise self._unexpected('"," or "]"')
                value, end = self._decode()
            self.place = after.end()
            yield value
            if after[1] == "]":
                return

    def _value(self) -> Any:
        """A value that is followed by something; it is decoded whole."""
        self._next_char()
        value, end = self._decode()
        while end + ERROR_MARGIN_CHARS > len(self.text) and self._read_more():
            value, end = self._decode()
        self.place = end
        return value

    def _decode(self) -> tuple[Any, int]:
        while True:
            try:
                return DECODER.raw_decode(self.text, self.place)
            except json.JSONDecodeError as error:
                near_end = error.pos + ERROR_MARGIN_CHARS > len(self.text)
                may_be_cut = near_end or error.msg.startswith("Unterminated string")
                if not (may_be_cut and self._read_more()):
                    raise ValueError(f"{error.msg} at character {self.passed + error.pos:,}") from None

    def _next_char(self) -> str:
        while True:
            self.place = _SPACE.match(self.text, self.place).end()
            if self.place < len(self.text):
                return self.text[self.place]
            if not self._read_more():
                return ""

    def _take(self, expected: str) -> str:
        char = self._next_char()
        if not char or char not in expected:
            raise self._unexpected(" or ".join(f'"{c}"' for c in expected))
        self.place += 1
        return char

    def _read_more(self) -> bool:
        """Drops what was read and at least doubles what was not; False at the file's end."""
        if self.ended:
            return False
        unread = self.text[self.place :]
        if len(unread) > MAX_ELEMENT_CHARS:
            raise ValueError(f"one element is longer than {MAX_ELEMENT_CHARS:,} characters")
        more = self.file.read(max(WINDOW_CHARS, len(unread)))
        self.ended = not more
        if more:  # else every place in the text stays what it is
            self.passed, self.text, self.place = self.passed + self.place, unread + more, 0
        return bool(more)

    def _unexpected(self, expected: str) -> ValueError:
        char = self._next_char()
        found = repr(char) if char else "the file's end"
        return ValueError(f"expected {expected} at character {self.passed + self.place:,}, found {found}")
