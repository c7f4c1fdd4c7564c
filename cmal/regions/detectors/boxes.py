"""`boxes:FILE`: the boxes of a COCO instances file, with features of a timm backbone or of another detector.

Used for the ground-truth-box protocol, or if no detector is available. Each annotation becomes one region, in the order of
the file, with the annotation's category as its class and confidence 1. Attributes come from the other detector, if it has
any.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from cmal.errors import CmalError
from cmal.io.files import sha256_of
from cmal.regions.detectors import Detector, build_detector
from cmal.regions.detectors.given_boxes import GivenBoxes, read_given_boxes
from cmal.regions.detectors.timm_features import TimmFeatures
from cmal.regions.types import NO_ATTRIBUTE, TOP_CLASSES, Regions


class BoxesDetector:
    """A `NamedDetector` whose boxes and classes come from a file.

    Args:
        annotated: boxes and classes by image id.
        source: computes the features.
        path: the file of the boxes; its hash is a setting of the store.
    """

    def __init__(self, annotated: GivenBoxes, source: Detector | TimmFeatures, path: Path):
        self.annotated, self.source = annotated, source
        self.name = f"boxes:{path.name} by {source.name}"
        self.weights_sha256 = source.weights_sha256
        self.feature_size = source.feature_size
        self.class_names = annotated.class_names
        self.attribute_names = tuple(source.attribute_names)
        self.max_regions = max((len(boxes) for boxes, _, _ in annotated.of_image.values()), default=0)
        self.settings = {"boxes_sha256": sha256_of(path)}

    def knows(self, image_id: str) -> bool:
        """Whether the file lists this image, with or without boxes."""
        return image_id in self.annotated.of_image

    def detect_named(self, image_ids: Sequence[str], images: Sequence[np.ndarray]) -> list[Regions]:
        """Regions at the boxes that the file has for each image."""
        boxes = [self._boxes(image_id, image) for image_id, image in zip(image_ids, images, strict=True)]
        kinds = [self.annotated.of_image[image_id][1] for image_id in image_ids]
        return [_named(one, kind) for one, kind in zip(self.regions_at(images, boxes), kinds)]

    def detect(self, images: Sequence[np.ndarray]) -> list[Regions]:
        """Raises CmalError, because the boxes are looked up by image id; call `detect_named`."""
        raise CmalError(
            "cannot look up boxes in a file", "`detect` receives no image ids", "call detect_named(image_ids, images)"
        )

    def regions_at(self, images: Sequence[np.ndarray], boxes_xyxy_px: Sequence[np.ndarray]) -> list[Regions]:
        """Regions at any boxes, without classes if the features come from a timm backbone."""
        if not isinstance(self.source, TimmFeatures):
            return self.source.regions_at(images, boxes_xyxy_px)
        features = self.source.features(images, boxes_xyxy_px)
        return [_bare(*one) for one in zip(features, boxes_xyxy_px, images)]

    def _boxes(self, image_id: str, image: np.ndarray) -> np.ndarray:
        """The file's boxes in pixels of this image: scaled if the image was resized, clipped to the image."""
        boxes, _, (width, height) = self.annotated.of_image[image_id]
        real_height, real_width = image.shape[:2]
        scale = np.array([real_width / (width or real_width), real_height / (height or real_height)] * 2)
        limits = np.array([real_width, real_height] * 2)
        return np.clip(boxes * scale, 0, limits).astype(np.float32)


def _named(one: Regions, kinds: np.ndarray) -> Regions:
    """Copy of the regions with the file's classes at confidence 1."""
    count = len(kinds)
    top_ids, top_probs = np.zeros((count, TOP_CLASSES), np.int64), np.zeros((count, TOP_CLASSES), np.float32)
    top_ids[:, 0], top_probs[:, 0] = kinds, 1.0
    return dataclasses.replace(
        one,
        object_ids=kinds.astype(np.int64),
        object_conf=np.ones(count, np.float32),
        class_top_ids=top_ids,
        class_top_probs=top_probs,
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
    """The boxes of a COCO instances file, with features of `features`.

    Args:
        file: the instances json.
        features: "timm:NAME" or a detector's name. None means "scenes", if all categories are kinds of the scenes.
        weights: weights of the feature source.
        dataset: data set of the images, for their ids; None: guessed from the path.

    Raises:
        DataError: the file cannot be read.
        CmalError: no `features`, and the categories are not kinds of the scenes; or the source cannot be built.
    """
    path = Path(file)
    annotated = read_given_boxes(path, dataset)
    if features is None and not set(annotated.class_names) <= set(build_detector("scenes").class_names):
        raise CmalError(
            f"cannot compute features at the boxes of {path}",
            f"no --features, and its categories ({', '.join(annotated.class_names[:4])}, ...) are not those of scenes",
            "give --features timm:NAME or a detector's name, e.g. --features timm:resnet50",
        )
    features = features or "scenes"
    if features.startswith("boxes:"):
        raise CmalError(
            "cannot take features from boxes:FILE", f"--features {features}", "give timm:NAME or a detector"
        )
    if features.startswith("timm:"):
        return BoxesDetector(annotated, TimmFeatures(features.removeprefix("timm:"), weights, device), path)
    source = build_detector(features, weights=None if weights is None else str(weights), device=device)
    return BoxesDetector(annotated, source, path)
