"""What NanoDet sees of a picture: scaled so that its longer side has 416 pixels, at the top left of a black square.

Legend: N images, S = 416.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

INPUT_PX = 416
MEAN_BGR, STD_BGR = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)


def scaled_size(width: int, height: int) -> tuple[int, int, float]:
    """Width and height in the square, at least one pixel each, and the scale from picture to square.

    Example: 640 x 480 becomes 416 x 312 at 0.65.
    """
    scale = INPUT_PX / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale)), scale


def letterbox(images: Sequence[np.ndarray]) -> tuple[Tensor, list[float]]:
    """Squares (N, S, S, 3) uint8 RGB, and each picture's scale. images: (H, W, 3) uint8 RGB of any sizes."""
    squares = np.zeros((len(images), INPUT_PX, INPUT_PX, 3), np.uint8)
    scales = []
    for square, image in zip(squares, images):
        width, height, scale = scaled_size(image.shape[1], image.shape[0])
        resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        square[:height, :width] = np.asarray(resized)
        scales.append(scale)
    return torch.from_numpy(squares), scales


def normalise(squares: Tensor) -> Tensor:
    """(N, S, S, 3) uint8 RGB to (N, 3, S, S) float32 BGR as the network was trained; laid out channels last."""
    mean, std = (torch.tensor(values, device=squares.device).repeat(INPUT_PX) for values in (MEAN_BGR, STD_BGR))
    rows = squares.flip(3).flatten(2).float()  # (N, S, 3S): subtracts seven times as fast as (N, S, S, 3)
    return rows.sub_(mean).div_(std).unflatten(2, (INPUT_PX, 3)).permute(0, 3, 1, 2)
