"""Halves of characters: JSON files hold lone surrogates, which stand for nothing and can be written nowhere."""

from __future__ import annotations

import re

_HALF = re.compile("[\ud800-\udfff]")


def has_half(text: str) -> bool:
    """Whether a text holds half of a character.

    Example: "caf\\u00e9" does not, "\\ud83d" alone does.
    """
    return not text.isascii() and _HALF.search(text) is not None


def without_halves(text: str) -> str:
    """The text with each half as "?", one for one."""
    return text.encode("utf-8", "replace").decode("utf-8")
