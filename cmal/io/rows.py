"""Rows of official files: invalid rows are collected with their numbers, rows left out on purpose are counted.

A reader passes `parse_rows` a function that turns one raw row into a value. The function raises `ValueError` for an
invalid row and `LeaveOut` for a row that is left out on purpose.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from cmal.errors import DataError, list_errors, shown
from cmal.io.json_stream import has_surrogate, parse_json

T = TypeVar("T")
MAX_ERRORS_KEPT = 1000
MAX_ID = 1 << 62

_CONTROLS = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)], " ")


class LeaveOut(Exception):
    """A row is left out on purpose; the text is the reason, as the manifest gives it."""


class RowErrors:
    """The errors of one file, raised together.

    Args:
        path: the file.
        what: what its rows should have been, for the message.
    """

    def __init__(self, path: Path, what: str):
        self.path, self.what, self.count = path, what, 0
        self._kept: list[str] = []

    def add(self, row: str, reason: object) -> None:
        """Notes an error of a row, which the message calls `row` ("line 7")."""
        self.count += 1
        if self.count <= MAX_ERRORS_KEPT:
            self._kept.append(f"{row}: {reason}")

    def raise_if_any(self) -> None:
        """Raises DataError with the first 20 errors and their rows, then the number of further ones."""
        if self.count:
            lines = list_errors([*self._kept, *[""] * (self.count - len(self._kept))])
            raise DataError(
                f"cannot use {self.count:,} rows of {self.path} as {self.what}",
                lines,
                "download the file again, or fix or delete these rows",
            )


def parse_rows(
    path: Path, what: str, rows: Iterable[Any], parse: Callable[[Any], T], dropped: Counter[str], row_name: str = "row"
) -> Iterator[T]:
    """`parse(row)` of every row that is neither invalid nor left out.

    Args:
        path: named in the message.
        what: what the rows should be, named in the message.
        rows: raw rows in the file's order.
        parse: raises ValueError (or DataError) for an invalid row and LeaveOut for a row that is left out.
        dropped: counts what was left out, by reason.
        row_name: how the message calls a row ("line", "annotations row"); counted from 1.

    Raises:
        DataError: after the last row, if some were invalid.
    """
    errors = RowErrors(path, what)
    for number, row in enumerate(rows, start=1):
        try:
            value = parse(row)
        except LeaveOut as reason:
            dropped[str(reason)] += 1
        except DataError as error:
            errors.add(f"{row_name} {number:,}", f"{error.found}; {error.hint}")
        except ValueError as error:
            errors.add(f"{row_name} {number:,}", error)
        else:
            yield value
    errors.raise_if_any()


def iterate_lines(path: Path) -> Iterator[bytes]:
    """The lines of a text file as bytes without their ends. Raises DataError where it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            for line in file:
                yield line.rstrip(b"\r\n")
    except OSError as error:
        raise DataError(f"cannot read {path}", f"the system says: {error.strerror}", "check the path") from error


def json_line(line: bytes) -> dict:
    """One line of a JSON-lines file. Raises ValueError (not a JSON object) and LeaveOut (blank)."""
    if not line.strip():
        raise LeaveOut("blank lines")
    return as_object(parse_json(line))


def text_line(line: bytes) -> str:
    """One line as text. Raises ValueError (not UTF-8) and LeaveOut (blank)."""
    if not line.strip():
        raise LeaveOut("blank lines")
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error.reason} at byte {error.start}") from None


def as_object(row: Any) -> dict:
    if not isinstance(row, dict):
        raise ValueError(f"should be an object, found {shown(row)}")
    return row


def get(row: dict, *names: str) -> Any:
    """The value of the first of these keys that the row has. Raises ValueError where it has none."""
    for name in names:
        if name in row:
            return row[name]
    raise ValueError(f'key "{names[0]}" is missing')


def get_id(row: dict, *names: str) -> int:
    """An integer from 0 to 2^62 - 1."""
    value = get(row, *names)
    if type(value) is not int or not 0 <= value < MAX_ID:
        raise ValueError(f'"{names[0]}" should be a whole number, found {shown(value)}')
    return value


def get_text(row: dict, *names: str) -> str:
    """A text, with every run of spaces, line ends and control characters made one space; it may be empty."""
    return clean_text(get(row, *names), names[0])


def get_name(row: dict, *names: str) -> str:
    """A text, or the integer that some releases write instead."""
    value = get(row, *names)
    return get_text({names[0]: str(value) if type(value) is int and abs(value) < MAX_ID else value}, names[0])


def get_list(row: dict, *names: str) -> list:
    value = get(row, *names)
    if not isinstance(value, list):
        raise ValueError(f'"{names[0]}" should be a list, found {shown(value)}')
    return value


def clean_text(value: Any, name: str = "text") -> str:
    """See `get_text`. Raises ValueError for what is no text, or not valid Unicode."""
    if not isinstance(value, str):
        raise ValueError(f'"{name}" should be a text, found {shown(value)}')
    if value.isascii() and value.isprintable():
        return " ".join(value.split())
    if has_surrogate(value):
        raise ValueError(f'"{name}" holds half a character (a lone surrogate)')
    return " ".join(value.translate(_CONTROLS).split())


def get_box(row: dict, name: str = "bbox") -> tuple[float, float, float, float]:
    """A box [x, y, w, h] in pixels: four finite numbers below 1e9, width and height not negative."""
    value = get(row, name)
    if not isinstance(value, list | tuple) or len(value) != 4 or not all(_is_coordinate(x) for x in value):
        raise ValueError(f'"{name}" should be [x, y, width, height], found {shown(value)}')
    if min(value[2:]) < 0:
        raise ValueError(f'"{name}" has a negative width or height: {shown(value)}')
    x, y, width, height = map(float, value)
    return x, y, width, height


def _is_coordinate(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e9  # False for NaN too


class UniqueIds:
    """Repeated ids: an identical row is left out (LeaveOut), a different row of the same id is an error (ValueError)."""

    def __init__(self) -> None:
        self._content: dict[int | str, int] = {}

    def check(self, id: int | str, *content: str) -> None:
        digest = hash(content)
        known = self._content.setdefault(id, digest)
        if known is not digest:  # not the object just stored: the id was there
            if known == digest:
                raise LeaveOut("rows that repeat another row")
            raise ValueError(f"id {id} appears twice, with different content")
