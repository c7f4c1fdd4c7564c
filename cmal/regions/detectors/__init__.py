"""Detectors: images in, regions out, one interface; `build_detector` finds one by name.

Names: `nanodet`, `scenes`, `boxes:FILE`, `frcnn-vg`, `torchvision:NAME`, `hf:MODEL`. A detector's module is imported on
first use. It has one function `build([argument,] **options)`: `argument` is what stands after the colon, where the
name has one; `options` are those of `build_detector` that were given (not None).
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, Protocol

import numpy as np

from cmal.errors import CmalError
from cmal.regions.types import Regions

MODULES = {
    "nanodet": "cmal.regions.detectors.nanodet",
    "scenes": "cmal.scenes.detector",
    "boxes": "cmal.regions.detectors.boxes",
    "frcnn-vg": "cmal.regions.detectors.frcnn_vg",
    "torchvision": "cmal.regions.detectors.torchvision_models",
    "hf": "cmal.regions.detectors.huggingface",
}
FORMS = ("nanodet", "scenes", "boxes:FILE", "frcnn-vg", "torchvision:NAME", "hf:MODEL")


class Detector(Protocol):
    """One object detector.

    A detector may also have `settings` (a dict of plain values; a store that was begun with others is not continued),
    `max_regions` (for the size foretold) and the methods of `NamedDetector`.

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


class NamedDetector(Detector, Protocol):
    """A detector that must know which image it looks at, because it was given the boxes by image id."""

    def knows(self, image_id: str) -> bool:
        """Whether it has anything to say of this image; others are listed as failed."""
        ...

    def detect_named(self, image_ids: Sequence[str], images: Sequence[np.ndarray]) -> list[Regions]:
        """As `detect`, with the id of each image."""
        ...


def build_detector(
    name: str,
    *,
    weights: str | None = None,
    device: str | None = None,
    precision: str | None = None,
    max_regions: int | None = None,
    min_regions: int | None = None,
    min_confidence: float | None = None,
    features: str | None = None,
    **others: Any,
) -> Detector:
    """The detector called `name`, one of `FORMS`.

    Args:
        name: kind, and after a colon what it needs.
        weights: a file, a folder or a hub name in place of the detector's own.
        device: "cpu", "cuda:0", ...; None is the first GPU, or the CPU where there is none.
        precision: "auto", "fp32" or "bf16", where the detector offers a choice.
        max_regions, min_regions, min_confidence: which regions are kept; each detector has its own defaults.
        features: for `boxes:FILE`, what describes the boxes: "scenes", "timm:NAME" or another detector's name.
        others: passed on to detectors that take more.

    Raises:
        CmalError: no such detector, or an option that it does not take.
    """
    kind, _, argument = name.partition(":")
    if kind not in MODULES or bool(argument) != (f"{kind}:" in " ".join(FORMS)):
        close = get_close_matches(kind, MODULES, n=1)
        raise CmalError(
            f'cannot build the detector "{name}"',
            f"known: {', '.join(FORMS)}",
            f'did you mean "{close[0]}"?' if close else "choose one of these",
        )
    given = {
        "weights": weights,
        "precision": precision,
        "max_regions": max_regions,
        "min_regions": min_regions,
        "min_confidence": min_confidence,
        "features": features,
        **others,
    }
    options = {key: value for key, value in given.items() if value is not None}
    build = importlib.import_module(MODULES[kind]).build
    parameters = inspect.signature(build).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    takes_more = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    unknown = [] if takes_more else sorted(set(options) - set(known))
    if unknown:
        raise CmalError(
            f'cannot build the detector "{name}"',
            f"it does not take {', '.join(unknown)}",
            f"it takes {', '.join(known)}",
        )
    return build(*([argument] if argument else []), device=device, **options)
