"""CmalError and its few children: what a user can put right.

Every message has three lines: what failed and where, what was found, what to do. A child class says which part of the
program speaks; callers catch `CmalError`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

MOST_FAULTS_SHOWN = 20


class CmalError(Exception):
    """Something the user can put right.

    Args:
        what: what failed, and where (file and line); no full stop.
        found: the value or state that was found.
        remedy: what to do, at best a command that can be pasted.
    """

    def __init__(self, what: str, found: str, remedy: str):
        super().__init__(what, found, remedy)
        self.what, self.found, self.remedy = what, found, remedy

    def __str__(self) -> str:
        return f"{self.what}\n  {self.found}\n  {self.remedy}"


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


def in_one_line(error: BaseException, most: int = 200) -> str:
    """A library's error for the middle line of a message: its kind and first line, at most so many letters."""
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {textwrap.shorten(first, most, placeholder=' ...')}"


def list_faults(faults: Iterable[str]) -> str:
    """Many faults as the middle lines of one message: the first 20, one a line, then how many more there are."""
    faults = list(faults)
    lines = faults[:MOST_FAULTS_SHOWN]
    if len(faults) > MOST_FAULTS_SHOWN:
        lines.append(f"... and {len(faults) - MOST_FAULTS_SHOWN:,} more")
    return "\n  ".join(lines)
