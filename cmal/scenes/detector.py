"""The `scenes` detector finds the things in generated pictures and names their kinds and colours.

Its weights ship with the package (`detector.safetensors`); `recipes/scenes_detector.yaml` trained them on a seed that no
data set uses. The region feature is the last hidden layer of the box head at the final box. Class names are the kinds of
things, attribute names their colours.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms

from cmal.errors import CheckpointError
from cmal.io.files import sha256_of
from cmal.regions.detectors.assembly import boxes_on, find_device, load_strictly, make_regions, read_state_file
from cmal.regions.types import Regions
from cmal.scenes.detector_network import SceneDetectorNet, size_of
from cmal.scenes.world import COLOURS, KINDS

WEIGHTS = Path(__file__).with_name("detector.safetensors")
LARGEST_SIDE_PX = 320  # larger pictures are scaled down: the network was trained on things of this size
STRIDE_PX = 16
CANDIDATE_IOUS = (0.5, 0.75)  # suppression at the first stage: within one kind, across kinds
FINAL_IOUS = (0.45, 0.6)  # at the second stage, whose kinds are more accurate


class ScenesDetector:
    """A `Detector` that returns the regions with `min_confidence` or more, at least `min_regions` and at most `max_regions`
    per image.

    Args:
        net: the network, its weights loaded.
        weights_sha256: hash of the weight file.
        device: device that the network runs on.
    """

    def __init__(
        self,
        net: SceneDetectorNet,
        weights_sha256: str,
        device: torch.device,
        max_regions: int = 24,
        min_regions: int = 4,
        min_confidence: float = 0.25,
    ):
        self.name, self.weights_sha256 = "scenes", weights_sha256
        self.class_names: tuple[str, ...] = KINDS
        self.attribute_names: tuple[str, ...] = COLOURS
        self.feature_size = net.feature.out_features
        self.max_regions, self.min_regions, self.min_confidence = max_regions, min_regions, min_confidence
        self.settings = dict(max_regions=max_regions, min_regions=min_regions, min_confidence=min_confidence)
        self.device = device
        self.net = net.eval().to(device).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def detect(self, images: Sequence[np.ndarray]) -> list[Regions]:
        """Regions of each image, most confident first; see `Detector`."""
        found: dict[int, Regions] = {}
        for rows, pixels, scales in self._batches(images):
            maps = self.net.maps(pixels)
            picked = [
                self._pick(boxes, probabilities, images[row].shape[:2], scale)
                for row, scale, (boxes, probabilities) in zip(rows, scales, self.net.detect(pixels, maps))
            ]
            boxes = [box for box, _ in picked]
            second_stage = self._read_at(maps, boxes, pixels)
            for row, scale, (box, first), (features, second, colours) in zip(rows, scales, picked, second_stage):
                kinds = (first + second) / 2  # the mean of both stages is more accurate than either
                kept = _distinct(box, kinds, *FINAL_IOUS)
                kept = kept[: self._count(kinds[kept], self.min_regions)]
                found[row] = make_regions(
                    features[kept], box[kept] / scale, kinds[kept], colours[kept], _wh(images[row])
                )
        return [found[row] for row in range(len(images))]

    @torch.inference_mode()
    def regions_at(self, images: Sequence[np.ndarray], boxes_xyxy_px: Sequence[np.ndarray]) -> list[Regions]:
        """Regions at given boxes. Kinds are renormalised without the background, since each box holds a thing."""
        found: dict[int, Regions] = {}
        for rows, pixels, scales in self._batches(images):
            boxes = [
                boxes_on(self.device, np.reshape(boxes_xyxy_px[row], (-1, 4))) * scale
                for row, scale in zip(rows, scales)
            ]
            read = self._read_at(self.net.maps(pixels), boxes, pixels)
            for row, scale, box, (features, kinds, colours) in zip(rows, scales, boxes, read):
                kinds = kinds / kinds.sum(1, keepdim=True).clamp(min=1e-9)
                found[row] = make_regions(features, box / scale, kinds, colours, _wh(images[row]), clip=False)
        return [found[row] for row in range(len(images))]

    def _batches(self, images: Sequence[np.ndarray]) -> Iterator[tuple[list[int], Tensor, list[float]]]:
        """Images grouped by size, in order of first occurrence: indices, pixels (N, 3, H, W), scales."""
        groups: dict[tuple[int, int], list[int]] = {}
        for row, image in enumerate(images):
            groups.setdefault(image.shape[:2], []).append(row)
        for rows in groups.values():
            pixels = np.stack([images[row] for row in rows])  # (N, H, W, 3)
            tensor = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2).float().div_(255)
            tensor, scale = _fitted(tensor)
            yield rows, tensor.contiguous(memory_format=torch.channels_last), [scale] * len(rows)

    def _pick(
        self, boxes: Tensor, probabilities: Tensor, size_hw: tuple[int, int], scale: float
    ) -> tuple[Tensor, Tensor]:
        """Boxes for the second stage with the probabilities of their kinds, after a first suppression.

        Up to twice `min_regions` are kept, since the second suppression removes more.
        """
        height, width = size_hw
        limits = torch.tensor([width, height, width, height], device=boxes.device) * scale
        boxes = boxes.minimum(limits)
        kinds = probabilities[:, :-1]
        is_box = ((boxes[:, 2:] - boxes[:, :2]) >= 2).all(dim=1)
        boxes, kinds = boxes[is_box], kinds[is_box]
        kept = _distinct(boxes, kinds, *CANDIDATE_IOUS)
        kept = kept[: self._count(kinds[kept], 2 * self.min_regions)]
        return boxes[kept], kinds[kept]

    def _count(self, kinds: Tensor, fewest: int) -> int:
        """Number of rows with `min_confidence`, but at least `fewest` and at most `max_regions`. kinds: (R, C)."""
        confident = int((kinds.max(dim=1).values >= self.min_confidence).sum())
        return min(max(confident, fewest), self.max_regions)

    def _read_at(
        self, maps: OrderedDict[str, Tensor], boxes: list[Tensor], pixels: Tensor
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Features (R, F), kinds (R, C) without the background, colours (R, A) of each image's boxes."""
        features = self.net.features_at(maps, boxes, size_of(pixels))
        kinds = self.net.kind(features).softmax(-1)[:, :-1]
        colours = self.net.colour(features).softmax(-1)
        counts = [len(box) for box in boxes]
        return list(zip(features.split(counts), kinds.split(counts), colours.split(counts)))


def _distinct(boxes: Tensor, kinds: Tensor, same_kind_iou: float, any_kind_iou: float) -> Tensor:
    """Rows of boxes (R, 4) that survive suppression within each kind (R, C), then across kinds, most confident first."""
    confidence, kind = kinds.max(dim=1)
    kept = batched_nms(boxes, confidence, kind, same_kind_iou)
    return kept[nms(boxes[kept], confidence[kept], any_kind_iou)]


def _wh(image: np.ndarray) -> tuple[int, int]:
    return image.shape[1], image.shape[0]


def _fitted(pixels: Tensor) -> tuple[Tensor, float]:
    """Pictures scaled down to `LARGEST_SIDE_PX` and padded to the network's stride, and the scale."""
    height, width = pixels.shape[-2:]
    scale = min(1.0, LARGEST_SIDE_PX / max(height, width))
    if scale < 1:
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        pixels = torch.nn.functional.interpolate(pixels, size, mode="bilinear", antialias=True)
    right, below = (
        max(2 * STRIDE_PX, -(-side // STRIDE_PX) * STRIDE_PX) - side for side in reversed(pixels.shape[-2:])
    )
    return torch.nn.functional.pad(pixels, (0, right, 0, below), value=0.5), scale


def build(
    *,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
    max_regions: int = 24,
    min_regions: int = 4,
    min_confidence: float = 0.25,
) -> ScenesDetector:
    """The detector with the shipped weights, or with those of a file that `train_scenes_detector` wrote.

    Raises:
        CheckpointError: no such file, or not weights of this network.
    """
    path = Path(weights) if weights is not None else WEIGHTS
    if not path.is_file():
        raise CheckpointError(
            "cannot build the scenes detector",
            f"there is no file {path}",
            "train it: bash recipes/train_scenes_detector.sh",
        )
    net = SceneDetectorNet(len(KINDS), len(COLOURS))
    load_strictly(net, read_state_file(path), path)
    return ScenesDetector(net, sha256_of(path), find_device(device), max_regions, min_regions, min_confidence)
