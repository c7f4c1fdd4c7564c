"""Windows: boxes of a regular grid over the picture, so that words for scenes have regions that no detector names.

"1x1" is the whole picture, "3x2" three columns and two rows; several grids are joined by commas.
"""

from __future__ import annotations

import re

import numpy as np

from cmal.errors import CmalError

MAX_WINDOWS = 100
_GRID = re.compile(r"([1-9]\d?)x([1-9]\d?)")


def parse_windows(text: str) -> np.ndarray:
    """Boxes (W, 4) xyxy in units of the picture's width and height, grid after grid, row after row; "" gives none.

    Raises:
        CmalError: not grids of this form, or more than `MAX_WINDOWS` windows.
    """
    grids = [_GRID.fullmatch(part.strip()) for part in text.split(",")] if text.strip() else []
    sizes = [(int(grid[1]), int(grid[2])) for grid in grids if grid]
    if len(sizes) != len(grids) or sum(columns * rows for columns, rows in sizes) > MAX_WINDOWS:
        raise CmalError(
            "cannot lay windows over the pictures",
            f'the grids are "{text}"',
            f"give columns x rows joined by commas, e.g. 1x1,2x2; at most {MAX_WINDOWS} windows in all",
        )
    boxes = [
        (x / columns, y / rows, (x + 1) / columns, (y + 1) / rows)
        for columns, rows in sizes
        for y in range(rows)
        for x in range(columns)
    ]
    return np.array(boxes, dtype=np.float32).reshape(-1, 4)
