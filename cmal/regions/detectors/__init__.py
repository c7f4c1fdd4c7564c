"""Detectors: images in, regions out, one interface; `build_detector` finds one by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from cmal.regions.types import Regions


class Detector(Protocol):
    """One object detector.

    Attributes:
        name: as the user gave it, e.g. "scenes"; written into the store.
        weights_sha256: of the weights in use; "" where there are none.
        feature_size: F.
        class_names, attribute_names: what object_ids and attribute_ids index.
    """

    name: str
    weights_sha256: str
    feature_size: int
    class_names: tuple[str, ...]
    attribute_names: tuple[str, ...]

    def detect(self, images: Sequence[np.ndarray]) -> list[Regions]:
        """Regions of each image. images: (H, W, 3) uint8 RGB, upright, sizes may differ."""
        ...

    def describe(self, images: Sequence[np.ndarray], boxes_xyxy_px: Sequence[np.ndarray]) -> list[Regions]:
        """Regions at the given boxes, one an input box and in their order; boxes: (R, 4) pixels of each image."""
        ...
