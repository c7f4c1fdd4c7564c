"""`torchvision:NAME`: any detection model of torchvision, e.g. `torchvision:fasterrcnn_resnet50_fpn_v2`.

The source of the features is part of the detector's name in the store:

- R-CNN models (Faster, Mask, Keypoint): `features=box_head`, the output of the box head (dimension 1,024) at the *refined*
  box, and the box predictor's class probabilities at that box;
- other models (RetinaNet, FCOS, SSD): `features=roi_align`, the mean of a 7×7 RoIAlign from the backbone's maps (from all
  maps if they have the same number of channels, else from the finest). These models cannot classify a given box, so
  `class_top_ids` contains only the tag.

Weights: a state file, a folder with one, or the name of torchvision's own weights ("DEFAULT", "COCO_V1", ...).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.ops import MultiScaleRoIAlign, box_iou

from cmal.errors import CheckpointError, CmalError, DataError
from cmal.io.files import sha256_of
from cmal.regions.detectors.assembly import (
    RegionLimits,
    autocast_for,
    boxes_on,
    check_boxes,
    choose_rows,
    find_device,
    load_strictly,
    make_regions,
    read_state_file,
)
from cmal.regions.types import Regions

LOWEST_SCORE = 0.01  # detections below it are discarded inside the model
MAX_DETECTIONS = 300
NMS_IOU = 0.7  # class-agnostic: one object detected as two classes becomes one region
POOL_SIZE = 7
SAME_BOX_IOU = 0.5
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
CLASS_LAYERS = (  # their number of rows is a multiple of the number of classes, background included
    "box_predictor.cls_score.weight",
    "cls_logits.weight",
    "classification_head.module_list.0.weight",
    "classification_head.module_list.0.1.weight",
)
WITHOUT_NORM_EPS = ("_coco-258fb6c6", "_coco-bf2d0c1e", "_coco-fc266e95", "_coco-eeacb38b")  # torchvision's COCO_V1


@dataclass(frozen=True)
class _Look:
    """One forward pass: detections in raw pixels, backbone maps, and the sizes of the resized images."""

    detections: list[dict[str, Tensor]]
    maps: dict[str, Tensor]
    sizes_hw: list[tuple[int, int]]


class TorchvisionDetector:
    """A `Detector` that wraps a detection model of torchvision.

    Args:
        model: as torchvision builds it; moved to `device` and set to evaluation mode.
        name: its name in torchvision.
        class_names: names of the labels 1, 2, ..., without the background.
        weights_sha256: hash of the weight file; "" if there is none.
        device, max_regions, min_regions, min_confidence, precision: as for `FrcnnVgDetector`.
    """

    attribute_names: tuple[str, ...] = ()

    def __init__(
        self,
        model: nn.Module,
        name: str,
        class_names: Sequence[str],
        *,
        weights_sha256: str = "",
        device: str | torch.device | None = None,
        max_regions: int | None = None,
        min_regions: int | None = None,
        min_confidence: float | None = None,
        precision: str = "auto",
    ):
        self.device = find_device(device)
        self.model: Any = model.to(self.device).eval().requires_grad_(False)  # its parts have no common types
        self.heads: Any = getattr(model, "roi_heads", None)
        self.name = f"torchvision:{name} features={'roi_align' if self.heads is None else 'box_head'}"
        self.weights_sha256, self.class_names = weights_sha256, tuple(class_names)
        self.limits = RegionLimits.of(max_regions, min_regions, min_confidence)
        self.max_regions = self.limits.max_regions
        self.settings = {"precision": precision, **asdict(self.limits)}
        self.precision = precision
        chooser: Any = self.model if self.heads is None else self.heads
        chooser.score_thresh, chooser.detections_per_img = LOWEST_SCORE, max(MAX_DETECTIONS, self.limits.max_regions)
        if self.heads is None:
            chooser.topk_candidates = max(getattr(chooser, "topk_candidates", 0), MAX_DETECTIONS)
            self.feature_size = self._channels_of_maps()
        else:
            _drop_other_heads(self.heads)
            self.feature_size = self.heads.box_predictor.cls_score.in_features

    @torch.inference_mode()
    def detect(self, images: Sequence[np.ndarray]) -> list[Regions]:
        """Regions of each image, the most confident first. images: (H, W, 3) uint8 RGB each, upright."""
        if not images:
            return []
        with autocast_for(self.device, self.precision):
            look = self._look(images)
            return [self._regions_of(look, row, image.shape[:2]) for row, image in enumerate(images)]

    @torch.inference_mode()
    def regions_at(self, images: Sequence[np.ndarray], boxes_xyxy_px: Sequence[np.ndarray]) -> list[Regions]:
        """Regions at the given boxes: one region per box, in the order of the boxes.

        R-CNN models classify each box. With other models, a box gets the class of the detection that overlaps it most, or
        class 0 with confidence 0 if no IoU reaches 0.5.

        Raises:
            ShapeError: the two lists differ in length, or boxes are not (R, 4).
        """
        check_boxes(images, boxes_xyxy_px)
        if not images:
            return []
        found = []
        with autocast_for(self.device, self.precision):
            look = self._look(images)
            for row, (image, given) in enumerate(zip(images, boxes_xyxy_px)):
                raw = boxes_on(self.device, given)
                features = self._features(look, row, image.shape[:2], raw)
                is_rcnn = self.heads is not None
                probs = self._classify(features) if is_rcnn else self._class_of_nearest(look.detections[row], raw)
                found.append(make_regions(features, raw, probs, None, image.shape[1::-1], clip=False))
        return found

    def _regions_of(self, look: _Look, row: int, raw_hw: tuple[int, int]) -> Regions:
        found = look.detections[row]
        kept = choose_rows(found["boxes"], found["scores"], self.limits, NMS_IOU)
        boxes, labels, scores = found["boxes"][kept], found["labels"][kept] - 1, found["scores"][kept]
        features = self._features(look, row, raw_hw, boxes)
        probs = self._one_class(labels, scores) if self.heads is None else self._classify(features)
        return make_regions(features, boxes, probs, None, raw_hw[::-1], labels=labels, scores=scores)

    def _look(self, images: Sequence[np.ndarray]) -> _Look:
        seen: dict[str, Any] = {}
        hooks = [
            self.model.transform.register_forward_hook(lambda _m, _i, out: seen.update(sizes=out[0].image_sizes)),
            self.model.backbone.register_forward_hook(lambda _m, _i, out: seen.update(maps=out)),
        ]
        try:
            tensors = [torch.from_numpy(np.array(image)).to(self.device) for image in images]
            detections = self.model([image.permute(2, 0, 1).float() / 255 for image in tensors])
        finally:
            for hook in hooks:
                hook.remove()
        maps = seen["maps"]
        for found in detections:  # some heads have an output for label 0, the background
            is_class = found["labels"] > 0
            found.update({key: found[key][is_class] for key in ("boxes", "labels", "scores")})
        return _Look(detections, {"0": maps} if isinstance(maps, Tensor) else dict(maps), list(seen["sizes"]))

    def _features(self, look: _Look, row: int, raw_hw: tuple[int, int], boxes: Tensor) -> Tensor:
        """(R, F) at boxes (R, 4) in raw pixels."""
        height, width = look.sizes_hw[row]
        y, x = height / raw_hw[0], width / raw_hw[1]
        resized = boxes.float() * boxes.new_tensor([x, y, x, y], dtype=torch.float32)
        maps = {name: values[row : row + 1].float() for name, values in look.maps.items()}
        if self.heads is not None:
            return self.heads.box_head(self.heads.box_roi_pool(maps, [resized], [(height, width)]))
        if len({values.shape[1] for values in maps.values()}) > 1:
            maps = dict([next(iter(maps.items()))])
        pool = MultiScaleRoIAlign(list(maps), output_size=POOL_SIZE, sampling_ratio=2)
        return pool(maps, [resized], [(height, width)]).mean(dim=(2, 3))

    def _classify(self, features: Tensor) -> Tensor:
        """(R, F) -> (R, C) class probabilities without background."""
        return self.heads.box_predictor(features)[0].float().softmax(dim=-1)[:, 1:]

    def _one_class(self, labels: Tensor, scores: Tensor) -> Tensor:
        """(R, C) with the score at the label and 0 elsewhere."""
        probs = torch.zeros(len(labels), len(self.class_names), device=scores.device)
        probs[torch.arange(len(labels), device=labels.device), labels] = scores.float()
        return probs

    def _class_of_nearest(self, found: Mapping[str, Tensor], boxes: Tensor) -> Tensor:
        if not len(found["boxes"]) or not len(boxes):
            return torch.zeros(len(boxes), len(self.class_names), device=boxes.device)
        iou, nearest = box_iou(boxes.float(), found["boxes"].float()).max(dim=1)
        scores = torch.where(iou >= SAME_BOX_IOU, found["scores"][nearest].float(), torch.zeros_like(iou))
        return self._one_class(found["labels"][nearest] - 1, scores)

    @torch.inference_mode()
    def _channels_of_maps(self) -> int:
        maps = self.model.backbone(torch.zeros(1, 3, 320, 320, device=self.device))
        return (maps if isinstance(maps, Tensor) else next(iter(maps.values()))).shape[1]


def build(
    model: str,
    *,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
    max_regions: int | None = None,
    min_regions: int | None = None,
    min_confidence: float | None = None,
    precision: str = "auto",
) -> TorchvisionDetector:
    """A detector of torchvision, with weights.

    Args:
        model: torchvision's name, e.g. "retinanet_resnet50_fpn".
        weights: a state file or a folder with one; or the name of torchvision's weights ("DEFAULT", "COCO_V1"), which are
            downloaded; None means "DEFAULT". `class_names.txt` beside a state file (one class per line, without background)
            names its classes; default: the 90 COCO classes.
        device, max_regions, min_regions, min_confidence, precision: see `TorchvisionDetector`.

    Raises:
        CmalError: no such model.
        CheckpointError: weights not found, unreadable, or of another model.
        DataError: the number of class names differs from that of the weights.
    """
    known = models.list_models(module=models.detection)
    if model not in known:
        raise CmalError(
            f'cannot build the detector "torchvision:{model}"',
            "torchvision has no detection model of that name",
            f"known models: {', '.join(known)}",
        )
    build_with = partial(
        TorchvisionDetector,
        name=model,
        device=device,
        max_regions=max_regions,
        min_regions=min_regions,
        min_confidence=min_confidence,
        precision=precision,
    )
    enum = models.get_model_weights(model)
    names = tuple(enum.DEFAULT.meta["categories"][1:])
    source = "DEFAULT" if weights is None else str(weights)
    if source in enum.__members__:  # contains the alias DEFAULT
        network, digest = _download(model, enum[source])
        return build_with(network, class_names=names, weights_sha256=digest)
    path = _find_file(Path(source), model, enum)
    state = read_state_file(path)
    network, classes = _build_for(model, state, path, len(names) + 1)
    own_names = path.with_name("class_names.txt")
    if own_names.is_file():
        names = tuple(line.strip() for line in own_names.read_text(encoding="utf-8").splitlines() if line.strip())
    if len(names) != classes:
        raise DataError(
            f"cannot name the classes of {path}",
            f"the weights have {classes} classes; there are {len(names)} names"
            + ("" if own_names.is_file() else " (COCO's)"),
            f"write them into {own_names}, one per line, without background",
        )
    return build_with(network, class_names=names, weights_sha256=sha256_of(path))


def _build_for(model: str, state: Mapping[str, Tensor], path: Path, usual: int) -> tuple[nn.Module, int]:
    """The model with the tensors and the number of classes of the state dict; and that number, without background.

    Args:
        usual: number of classes of torchvision's weights, with background.
    """
    network, classes = models.get_model(model, weights=None, weights_backbone=None, num_classes=usual), usual
    for name, value in network.state_dict().items():
        if name.endswith(CLASS_LAYERS) and name in state and len(state[name]) != len(value):
            classes = usual * len(state[name]) // len(value)
            network = models.get_model(model, weights=None, weights_backbone=None, num_classes=max(classes, 1))
            break
    counters = {n: v for n, v in network.state_dict().items() if n.endswith("num_batches_tracked")}
    is_frozen = counters and not any(name.endswith("num_batches_tracked") for name in state)
    load_strictly(network, {**counters, **state} if is_frozen else state, path)
    if path.stem.endswith(WITHOUT_NORM_EPS):
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 0.0
    return network, classes - 1


def _drop_other_heads(heads: nn.Module) -> None:
    """Removes the heads for masks and keypoints, so that they are not computed."""
    for kind in ("mask", "keypoint"):
        for part in ("roi_pool", "head", "predictor"):
            if hasattr(heads, f"{kind}_{part}"):
                setattr(heads, f"{kind}_{part}", None)


def _find_file(given: Path, model: str, enum: type[models.WeightsEnum]) -> Path:
    if given.is_dir():
        found = sorted(path for path in given.iterdir() if path.suffix in WEIGHT_SUFFIXES)
        if len(found) == 1:
            return found[0]
        seen = f"{given} has {len(found)} files that end in {', '.join(WEIGHT_SUFFIXES)}"
    elif given.is_file():
        return given
    else:
        seen = f'"{given}" is neither a file, a folder, nor one of torchvision\'s: {", ".join(enum.__members__)}'
    raise CheckpointError(f"cannot find the weights of torchvision:{model}", seen, "give the weight file itself")


def _download(model: str, weights: models.WeightsEnum) -> tuple[nn.Module, str]:
    try:
        network = models.get_model(model, weights=weights, weights_backbone=None)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"cannot get the weights {weights} of torchvision:{model}",
            f"{type(error).__name__}: {error}",
            f"download {weights.url} on a machine with network and give it: --weights FILE",
        ) from error
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    return network, sha256_of(cached) if cached.is_file() else ""
