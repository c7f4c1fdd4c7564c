"""`boxes:FILE`: the boxes of a COCO instances file, described by a backbone or by another detector.

For the ground-truth-box protocol, or where no detector is to be had. Each annotation is one region, in the file's order;
its class is the file's category, with confidence 1. Attributes are those of the describing detector, if it names any.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from cmal.errors import CmalError
from cmal.io.files import sha256_of
from cmal.regions.detectors import build_detector
from cmal.regions.detectors.given_boxes import GivenBoxes, read_given_boxes
from cmal.regions.detectors.timm_features import TimmFeatures
from cmal.regions.types import NO_ATTRIBUTE, TOP_CLASSES, Regions


class Describer(Protocol):
    """What `boxes:FILE` asks of the detector or backbone that looks at its boxes."""

    name: str
    weights_sha256: str
    feature_size: int
    attribute_names: tuple[str, ...]


class BoxesDetector:
    """See `NamedDetector`.

    Args:
        given: boxes and classes by image id.
        describer: a `Detector`, or a `TimmFeatures`.
        path: the file the boxes came from; its hash is a setting of the store.
    """

    def __init__(self, given: GivenBoxes, describer: Any, path: Path):
        self.given, self.describer = given, describer
        self.name = f"boxes:{path.name} by {describer.name}"
        self.weights_sha256 = describer.weights_sha256
        self.feature_size = describer.feature_size
        self.class_names = given.class_names
        self.attribute_names = tuple(describer.attribute_names)
        self.max_regions = max((len(boxes) for boxes, _, _ in given.of_image.values()), default=0)
        self.settings = {"boxes_sha256": sha256_of(path)}

    def knows(self, image_id: str) -> bool:
        """Whether the file has this image; it may have no box there."""
        return image_id in self.given.of_image

    def detect_named(self, image_ids: Sequence[str], images: Sequence[np.ndarray]) -> list[Regions]:
        """The file's boxes of each image, described."""
        boxes = [self._boxes(image_id, image) for image_id, image in zip(image_ids, images, strict=True)]
        kinds = [self.given.of_image[image_id][1] for image_id in image_ids]
        return [_named(one, kind) for one, kind in zip(self.describe(images, boxes), kinds)]

    def detect(self, images: Sequence[np.ndarray]) -> list[Regions]:
        """Raises CmalError: boxes that come from a file can only be found by image id."""
        raise CmalError(
            "cannot detect by boxes from a file", "the images have no ids here", "call detect_named(image_ids, images)"
        )

    def describe(self, images: Sequence[np.ndarray], boxes_xyxy_px: Sequence[np.ndarray]) -> list[Regions]:
        """Regions at any boxes; no classes where the describer is a bare backbone."""
        if not isinstance(self.describer, TimmFeatures):
            return self.describer.describe(images, boxes_xyxy_px)
        features = self.describer.features(images, boxes_xyxy_px)
        return [_bare(*one) for one in zip(features, boxes_xyxy_px, images)]

    def _boxes(self, image_id: str, image: np.ndarray) -> np.ndarray:
        """The file's boxes in this image's own pixels: scaled where the picture was resized, cut to the picture."""
        boxes, _, (width, height) = self.given.of_image[image_id]
        real_height, real_width = image.shape[:2]
        scale = np.array([real_width / (width or real_width), real_height / (height or real_height)] * 2)
        limits = np.array([real_width, real_height] * 2)
        return np.clip(boxes * scale, 0, limits).astype(np.float32)


def _named(one: Regions, kinds: np.ndarray) -> Regions:
    """The same regions with the file's classes, sure of them."""
    count = len(kinds)
    top_ids, top_probs = np.zeros((count, TOP_CLASSES), np.int64), np.zeros((count, TOP_CLASSES), np.float32)
    top_ids[:, 0], top_probs[:, 0] = kinds, 1.0
    return Regions(
        one.features,
        one.boxes_xyxy_px,
        kinds.astype(np.int64),
        np.ones(count, np.float32),
        one.attribute_ids,
        one.attribute_conf,
        top_ids,
        top_probs,
        one.image_wh_px,
    )


def _bare(features: np.ndarray, boxes: np.ndarray, image: np.ndarray) -> Regions:
    count = len(features)
    return Regions(
        features,
        np.asarray(boxes, np.float32).reshape(-1, 4),
        np.zeros(count, np.int64),
        np.zeros(count, np.float32),
        np.full(count, NO_ATTRIBUTE),
        np.zeros(count, np.float32),
        np.zeros((count, TOP_CLASSES), np.int64),
        np.zeros((count, TOP_CLASSES), np.float32),
        (image.shape[1], image.shape[0]),
    )


def build(
    file: str,
    *,
    features: str | None = None,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
    dataset: str | None = None,
) -> BoxesDetector:
    """Boxes of a COCO instances file, described by `features`.

    Args:
        file: the instances json.
        features: "timm:NAME" or a detector's name; None is "scenes" where all categories are things of the scenes.
        weights: of the describer.
        dataset: whose images these are, for their ids; None is guessed from the file's place.

    Raises:
        DataError: the file cannot be read.
        CmalError: no `features` given and the categories are not those of scenes; or the describer cannot be built.
    """
    path = Path(file)
    given = read_given_boxes(path, dataset)
    if features is None and not set(given.class_names) <= set(build_detector("scenes").class_names):
        raise CmalError(
            f"cannot describe the boxes of {path}",
            f"nothing says by what, and its categories ({', '.join(given.class_names[:4])}, ...) are not those of scenes",
            "give --features timm:NAME or a detector's name, e.g. --features timm:resnet50",
        )
    features = features or "scenes"
    if features.startswith("boxes:"):
        raise CmalError("cannot describe boxes by boxes", f"--features {features}", "give timm:NAME or a detector")
    if features.startswith("timm:"):
        return BoxesDetector(given, TimmFeatures(features.removeprefix("timm:"), weights, device), path)
    describer = build_detector(features, weights=None if weights is None else str(weights), device=device)
    return BoxesDetector(given, describer, path)
