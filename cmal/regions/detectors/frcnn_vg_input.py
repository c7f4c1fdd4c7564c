"""Preprocessing of the Visual Genome Faster R-CNN: resized, mean-subtracted BGR images, padded to one size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

PIXEL_MEAN_BGR = (102.9801, 115.9465, 122.7717)
SHORTEST_EDGE_PX = 600
LONGEST_EDGE_PX = 1000


@dataclass(frozen=True)
class NetworkInput:
    """A padded batch.

    Attributes:
        images: (B, 3, H, W) float32, BGR minus its mean; padded with 0 on the right and below.
        sizes_hw: resized (height, width) of each image, px, without padding.
        scales_xy: (x, y) factors from pixels of the network's input to pixels of the raw image.
        raw_sizes_wh: (width, height) of each raw image, px.
    """

    images: Tensor
    sizes_hw: tuple[tuple[int, int], ...]
    scales_xy: tuple[tuple[float, float], ...]
    raw_sizes_wh: tuple[tuple[int, int], ...]


def resized_size(height: int, width: int, shortest: int, longest: int) -> tuple[int, int]:
    """(height, width) with the shorter edge at `shortest` px, or the longer at `longest` px if it would exceed that.

    Sizes are rounded down after adding 0.5, and at least 1.
    Example: 480×640 is 600×800; 375×1000 is 375×1000 (limited by the longest edge).
    """
    scale = shortest / min(height, width)
    new_height, new_width = (shortest, scale * width) if height < width else (scale * height, shortest)
    if max(new_height, new_width) > longest:
        scale = longest / max(new_height, new_width)
        new_height, new_width = new_height * scale, new_width * scale
    return max(int(new_height + 0.5), 1), max(int(new_width + 0.5), 1)


def make_input(
    images: Sequence[np.ndarray],
    device: torch.device,
    *,
    shortest: int = SHORTEST_EDGE_PX,
    longest: int = LONGEST_EDGE_PX,
) -> NetworkInput:
    """A batch of images: resized (bilinear, corners not aligned), as BGR minus its mean, padded.

    Args:
        images: (H, W, 3) uint8 RGB each.
    """
    mean = torch.tensor(PIXEL_MEAN_BGR, device=device).view(3, 1, 1)
    resized, scales, raw_sizes = [], [], []
    for image in images:
        raw_height, raw_width = image.shape[:2]
        pixels = torch.from_numpy(np.ascontiguousarray(image)).to(device).permute(2, 0, 1).flip(0).float()
        height, width = resized_size(raw_height, raw_width, shortest, longest)
        pixels = F.interpolate(pixels[None], (height, width), mode="bilinear", align_corners=False)[0]
        resized.append(pixels - mean)
        scales.append((raw_width / width, raw_height / height))
        raw_sizes.append((raw_width, raw_height))
    sizes = tuple((pixels.shape[1], pixels.shape[2]) for pixels in resized)
    batch = torch.zeros(len(resized), 3, max(h for h, _ in sizes), max(w for _, w in sizes), device=device)
    for row, pixels in zip(batch, resized):
        row[:, : pixels.shape[1], : pixels.shape[2]] = pixels
    return NetworkInput(batch, sizes, tuple(scales), tuple(raw_sizes))
