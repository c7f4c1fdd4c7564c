"""`nanodet`: the detector for photographs that ships with the package. 80 COCO classes, and windows without a tag.

Network: NanoDet-g 416 by RangiLyu (Apache-2.0), see `nanodet_network.py`; its weights stand beside this file with their
licence, `recipes/convert_nanodet.py` made them. It scores each class by itself. A store keeps distributions, thus a row
of `class_top_probs` is the ten highest scores over the sum of all 80 where that is above 1. A window has object id
`NO_OBJECT`, confidence 0 and an empty distribution. Legend: N images, P cells, C classes, R regions, F feature size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_iou

from cmal.errors import CheckpointError, CmalError
from cmal.io.files import sha256_of
from cmal.regions.detectors.assembly import (
    boxes_on,
    check_boxes,
    find_device,
    load_strictly,
    make_regions,
    read_state_file,
)
from cmal.regions.detectors.nanodet_features import RegionFeatures, build_region_features
from cmal.regions.detectors.nanodet_input import INPUT_PX, letterbox, normalise
from cmal.regions.detectors.nanodet_names import COCO_CLASSES
from cmal.regions.detectors.nanodet_network import NanoDet
from cmal.regions.detectors.windows import parse_windows
from cmal.regions.types import NO_OBJECT, Regions

WEIGHTS = Path(__file__).with_name("nanodet.safetensors")
NMS_IOU = 0.6  # of one class
CANDIDATES = 1000  # cells of an image that reach the suppression, best first
CPU_IMAGES = 4  # a forward on the CPU: more are slower, and take memory
SAME_BOX_IOU = 0.5  # `regions_at`: from here on a given box has the class of the detection that overlaps it
WINDOWS = "1x1,1x2,1x3"  # halves and thirds, one above the other, meet more scenes than quarters do
MAX_REGIONS, MIN_CONFIDENCE = 36, 0.25


class NanodetDetector:
    """See `Detector`. Regions: detections, most confident first, then the windows.

    Args:
        net: the network, its weights loaded.
        weights_sha256: of the file they came from.
        features: what describes the regions.
        device: where it runs.
        windows: see `parse_windows`.
        max_regions: of an image, windows included.
        min_regions: detections of an image, confident or not.
        min_confidence: of the other detections.
    """

    attribute_names: tuple[str, ...] = ()
    class_names = COCO_CLASSES
    enough_px = 2 * INPUT_PX  # so that the last step, to the network's input, still smooths

    def __init__(
        self,
        net: NanoDet,
        weights_sha256: str,
        features: RegionFeatures,
        device: torch.device,
        *,
        windows: str = WINDOWS,
        max_regions: int = MAX_REGIONS,
        min_regions: int = 0,
        min_confidence: float = MIN_CONFIDENCE,
    ):
        self.name = f"nanodet features={features.name}"
        self.weights_sha256 = weights_sha256
        self.features, self.feature_size = features, features.feature_size
        self.windows = parse_windows(windows)
        self.max_regions, self.min_regions, self.min_confidence = max_regions, min_regions, min_confidence
        self.settings: dict[str, Any] = {
            "windows": windows,
            "max_regions": max_regions,
            "min_regions": min_regions,
            "min_confidence": min_confidence,
            "features_sha256": features.weights_sha256,
        }
        self.device = device
        self.net = net.eval().to(device).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def detect(self, images: Sequence[np.ndarray]) -> list[Regions]:
        """Regions of each image; see `Detector`."""
        return [one for chunk in self._chunks(images) for one in self._detect(images[chunk])]

    def _detect(self, images: Sequence[np.ndarray]) -> list[Regions]:
        look = self._look(images)
        boxes, scores = [], []
        for image, (box, score) in zip(images, look.found):
            count = self._count(score)
            windows = boxes_on(self.device, self.windows * np.tile(image.shape[1::-1], 2))
            boxes.append(torch.cat((box[:count], windows)))
            scores.append(torch.cat((score[:count], score.new_zeros(len(windows), len(COCO_CLASSES)))))
        return self._as_regions(look, images, boxes, scores, clip=True)

    @torch.inference_mode()
    def regions_at(self, images: Sequence[np.ndarray], boxes_xyxy_px: Sequence[np.ndarray]) -> list[Regions]:
        """Regions at the given boxes, in their order.

        A box has the classes of the detection that overlaps it most, and `NO_OBJECT` where none does by an IoU of 0.5.

        Raises:
            ShapeError: the two lists differ in length, or boxes are not (R, 4).
        """
        check_boxes(images, boxes_xyxy_px)
        return [one for chunk in self._chunks(images) for one in self._regions_at(images[chunk], boxes_xyxy_px[chunk])]

    def _regions_at(self, images: Sequence[np.ndarray], boxes_xyxy_px: Sequence[np.ndarray]) -> list[Regions]:
        look = self._look(images)
        boxes = [boxes_on(self.device, box) for box in boxes_xyxy_px]
        scores = [_scores_of_nearest(box, *found) for box, found in zip(boxes, look.found)]
        return self._as_regions(look, images, boxes, scores, clip=False)

    def _chunks(self, images: Sequence[np.ndarray]) -> list[slice]:
        size = CPU_IMAGES if self.device.type == "cpu" else max(1, len(images))
        return [slice(first, first + size) for first in range(0, len(images), size)]

    def _look(self, images: Sequence[np.ndarray]) -> _Look:
        squares, scales = letterbox(images)
        squares = squares.to(self.device)
        scores, boxes, maps = self.net(normalise(squares))
        found = []
        lowest = 0.0 if self.min_regions else self.min_confidence
        for image, scale, box, score in zip(images, scales, boxes, scores):
            limits = torch.tensor(image.shape[1::-1], dtype=torch.float32, device=self.device).repeat(2)
            box, score = find_objects(box, score, lowest)
            found.append(((box / scale).clamp(min=0).minimum(limits), score))
        return _Look(found, maps, squares, scales)

    def _count(self, scores: Tensor) -> int:
        """How many of the detections with scores (R, C), best first, become regions."""
        confident = int((scores >= self.min_confidence).any(dim=1).sum())
        return min(max(confident, self.min_regions), self.max_regions - len(self.windows))

    def _as_regions(
        self, look: _Look, images: Sequence[np.ndarray], boxes: list[Tensor], scores: list[Tensor], clip: bool
    ) -> list[Regions]:
        """Regions of each image at boxes (R, 4) in its own pixels, with scores (R, C): 0 throughout for no object."""
        in_squares = [box * scale for box, scale in zip(boxes, look.scales)]
        features = self.features(look.squares, look.maps, in_squares).split([len(box) for box in boxes])
        regions = []
        for image, feature, box, score in zip(images, features, boxes, scores):
            best = score.max(dim=1)
            labels = best.indices.masked_fill(best.values == 0, NO_OBJECT)
            shares = score / score.sum(dim=1, keepdim=True).clamp(min=1)
            wh = (image.shape[1], image.shape[0])
            one = make_regions(feature, box, shares, None, wh, labels=labels, scores=best.values, clip=clip)
            regions.append(replace(one, class_top_ids=np.where(one.class_top_probs > 0, one.class_top_ids, 0)))
        return regions


@dataclass(frozen=True)
class _Look:
    """One forward pass over a batch.

    Attributes:
        found: an image: boxes (R, 4) in its own pixels and scores (R, C) of its detections, best first.
        maps: of the trunk, see `NanoDet`.
        squares: (N, S, S, 3) what the network saw. scales: from picture to square.
    """

    found: list[tuple[Tensor, Tensor]]
    maps: list[Tensor]
    squares: Tensor
    scales: list[float]


def find_objects(boxes: Tensor, scores: Tensor, min_score: float) -> tuple[Tensor, Tensor]:
    """Boxes (R, 4) and scores (R, C) of one image's detections, best first.

    A cell has the one class that it scores highest, at least `min_score`. The best `CANDIDATES` cells stay; of two of one
    class that overlap by more than `NMS_IOU`, the better.

    Args:
        boxes: (P, 4). scores: (P, C).
    """
    best, rows = scores.amax(dim=1).topk(min(CANDIDATES, len(scores)))
    rows = rows[best >= min_score]
    best, classes = scores[rows].max(dim=1)
    rows = rows[batched_nms(boxes[rows], best, classes, NMS_IOU)]
    return boxes[rows], scores[rows]


def _scores_of_nearest(boxes: Tensor, found: Tensor, scores: Tensor) -> Tensor:
    """(R, C) scores of the detection in `found` (Q, 4) that overlaps each box most; zeros below `SAME_BOX_IOU`."""
    if not len(found):
        return scores.new_zeros(len(boxes), scores.shape[1])
    overlap, nearest = box_iou(boxes, found).max(dim=1)
    return scores[nearest] * (overlap >= SAME_BOX_IOU)[:, None]


def build(
    *,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
    features: str | None = None,
    feature_weights: str | None = None,
    windows: str = WINDOWS,
    max_regions: int = MAX_REGIONS,
    min_regions: int = 0,
    min_confidence: float = MIN_CONFIDENCE,
) -> NanodetDetector:
    """NanoDet with the weights that ship with the package, or those of a file of the same form.

    Args:
        weights: a safetensors file from `recipes/convert_nanodet.py`.
        features: None for the detector's own, or "timm:NAME"; feature_weights: a state file of that backbone.
        device, windows, max_regions, min_regions, min_confidence: see `NanodetDetector`.

    Raises:
        CheckpointError: no such file, or not weights of this network.
        CmalError: no such features, windows that are no grids, or more windows than regions.
    """
    path = Path(weights) if weights is not None else WEIGHTS
    if not path.is_file():
        raise CheckpointError(
            "cannot build the nanodet detector",
            f"there is no file {path}",
            "leave --weights out for those of the package, or make the file with recipes/convert_nanodet.py",
        )
    if len(parse_windows(windows)) > max_regions:
        raise CmalError(
            "cannot build the nanodet detector",
            f'the windows "{windows}" are {len(parse_windows(windows))} regions; at most {max_regions} are kept',
            "ask for fewer windows, or more regions",
        )
    with torch.device("meta"):
        net = NanoDet()
    load_strictly(net, read_state_file(path), path)
    found_device = find_device(device)
    return NanodetDetector(
        net,
        sha256_of(path),
        build_region_features(features, feature_weights, found_device),
        found_device,
        windows=windows,
        max_regions=max_regions,
        min_regions=min_regions,
        min_confidence=min_confidence,
    )
