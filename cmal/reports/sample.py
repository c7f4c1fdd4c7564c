"""Which items of many a page shows."""

from __future__ import annotations

from collections.abc import Sequence


def sample_items(is_wrong: Sequence[bool], count: int) -> list[int]:
    """Up to `count` indices in ascending order, half of them of wrong items if there are enough of these.

    The wrong and the right ones are each spread evenly over all items.
    """
    wrong = [index for index, one in enumerate(is_wrong) if one]
    right = [index for index, one in enumerate(is_wrong) if not one]
    of_wrong = min(len(wrong), max(count // 2, count - len(right)))
    return sorted(_evenly(wrong, of_wrong) + _evenly(right, count - of_wrong))


def _evenly(indices: list[int], count: int) -> list[int]:
    return indices if count >= len(indices) else [indices[i * len(indices) // count] for i in range(count)]
