"""What describes NanoDet's regions: its own trunk, or a timm backbone that looks at the same square.

Legend: N images, S side of the network's square, R regions of an image, F feature size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torchvision.ops import roi_align

from cmal.errors import CmalError
from cmal.regions.detectors.nanodet_network import CSP_STAGES
from cmal.regions.detectors.timm_features import TimmFeatures

POOL = 4  # cells a side of which the largest value is kept
TRUNK_LEVELS = 2  # the last ones, at strides 16 and 32


class RegionFeatures(Protocol):
    """Describes boxes in the network's squares.

    Attributes:
        name: stands in the store.
        weights_sha256: of weights besides the detector's; "" where there are none.
        feature_size: F.
    """

    name: str
    weights_sha256: str
    feature_size: int

    def __call__(self, squares: Tensor, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """(sum of R, F) float32.

        Args:
            squares: (N, S, S, 3) uint8 RGB.
            maps: NanoDet's trunk maps of them, finest first.
            boxes: an image: (R, 4) xyxy in pixels of the square.
        """
        ...


class TrunkFeatures:
    """The largest value of each channel of NanoDet's own trunk under the box, at strides 16 and 32."""

    name, weights_sha256 = "trunk", ""
    feature_size = sum(2 * channels for channels, _, _ in CSP_STAGES[-TRUNK_LEVELS:])

    def __call__(self, squares: Tensor, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        return _pooled(maps[-TRUNK_LEVELS:], squares.shape[1], boxes)


class TimmRegionFeatures:
    """The largest value of each channel under the box, from the last two levels of a timm backbone.

    Args:
        backbone: built with its weights; it sees the whole square, S pixels wide.
    """

    def __init__(self, backbone: TimmFeatures):
        self.backbone = backbone
        self.name, self.weights_sha256, self.feature_size = (
            backbone.name,
            backbone.weights_sha256,
            backbone.feature_size,
        )

    def __call__(self, squares: Tensor, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        levels = self.backbone.levels(squares.permute(0, 3, 1, 2).float().div_(255))
        return _pooled(levels, squares.shape[1], boxes)


def _pooled(levels: Sequence[Tensor], side_px: int, boxes: Sequence[Tensor]) -> Tensor:
    """Largest value of each channel of levels (N, C, h, w) in a grid of `POOL` x `POOL` cells over each box."""
    pooled = [
        roi_align(level, list(boxes), POOL, level.shape[-1] / side_px, sampling_ratio=2, aligned=True).amax(dim=(2, 3))
        for level in levels
    ]
    return torch.cat(pooled, dim=1)


def build_region_features(
    name: str | None, weights: str | None, device: torch.device | str | None
) -> TrunkFeatures | TimmRegionFeatures:
    """The features called `name`: None or "trunk", or "timm:NAME" with timm's own weights or those of a state file.

    Raises:
        CmalError: another name, or weights for the trunk; timm knows no such model.
        CheckpointError: the weights cannot be had, or are another model's.
    """
    kind, _, model = (name or TrunkFeatures.name).partition(":")
    if kind == "timm" and model:
        return TimmRegionFeatures(TimmFeatures(model, weights, device))
    if name not in (None, TrunkFeatures.name) or weights is not None:
        raise CmalError(
            "cannot build the features of nanodet's regions",
            f'the features are "{name or TrunkFeatures.name}"'
            + ("" if weights is None else f" with weights {weights}"),
            "give timm:NAME, or leave them out for the detector's own",
        )
    return TrunkFeatures()
