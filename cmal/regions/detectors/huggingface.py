"""`hf:MODEL`: any `AutoModelForObjectDetection` of transformers, from the hub or a local folder (DETR, YOLOS, RT-DETR, ...).

The source of the features is part of the detector's name in the store:

- `features=decoder` (default): the last hidden state of the query that found the object, dimension D;
- `features=backbone`: the mean of a 7×7 RoIAlign at the box, on the backbone's last map.

Class probabilities: if the model has one output more than classes, a softmax without its last entry ("no object"); else
independent sigmoids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import box_convert, box_iou, roi_align

from cmal.errors import CheckpointError, CmalError, in_one_line
from cmal.io.files import sha256_of
from cmal.regions.detectors.assembly import (
    RegionLimits,
    autocast_for,
    boxes_on,
    check_boxes,
    choose_rows,
    find_device,
    make_regions,
)
from cmal.regions.types import Regions

FEATURE_KINDS = ("decoder", "backbone")
NMS_IOU = 0.7
POOL_SIZE = 7
WEIGHT_PATTERNS = ("*.safetensors", "*.bin")


@dataclass(frozen=True)
class _Look:
    """One image after a forward pass. Q queries.

    Attributes:
        probs: (Q, C) class probabilities. boxes: (Q, 4) in raw pixels. states: (Q, D).
        feature_map: (1, D', h, w) of the backbone, or None. unit_of_map_xy: share of the map that the image covers (the
            rest is padding).
        raw_wh: width and height of the raw image.
    """

    probs: Tensor
    boxes: Tensor
    states: Tensor
    feature_map: Tensor | None
    unit_of_map_xy: tuple[float, float]
    raw_wh: tuple[int, int]


class HuggingFaceDetector:
    """A `Detector` that wraps an object detector of transformers.

    Args:
        model: as transformers loads it; moved to `device` and set to evaluation mode.
        processor: its image processor.
        name: the text after "hf:".
        features: "decoder" or "backbone", see the module docstring.
        weights_sha256: hash of the weight files; "" if there are none.
        device, max_regions, min_regions, min_confidence, precision: as for `FrcnnVgDetector`. A model
            with fewer queries than `max_regions` returns fewer regions.

    Raises:
        CmalError: unknown kind of features, or a model without a backbone.
    """

    attribute_names: tuple[str, ...] = ()

    def __init__(
        self,
        model: nn.Module,
        processor: Any,
        name: str,
        *,
        features: str = "decoder",
        weights_sha256: str = "",
        device: str | torch.device | None = None,
        max_regions: int | None = None,
        min_regions: int | None = None,
        min_confidence: float | None = None,
        precision: str = "auto",
    ):
        if features not in FEATURE_KINDS:
            raise CmalError(
                f"cannot build the detector hf:{name}",
                f'features is "{features}"',
                f"known kinds of features: {', '.join(FEATURE_KINDS)}",
            )
        self.name = f"hf:{name} features={features}"
        self.weights_sha256, self.features = weights_sha256, features
        self.device, self.precision = find_device(device), precision
        self.model, self.processor = model.to(self.device).eval().requires_grad_(False), processor
        config: Any = model.config
        self.class_names = tuple(str(config.id2label.get(number, number)) for number in range(config.num_labels))
        self.limits = RegionLimits.of(max_regions, min_regions, min_confidence)
        self.max_regions = self.limits.max_regions
        self.settings = {"precision": precision, **asdict(self.limits)}
        self.backbone = _find_backbone(model, name) if features == "backbone" else None
        probe = self._features(
            look := self._look([np.zeros((64, 64, 3), np.uint8)])[0], look.boxes[:1], torch.tensor([0])
        )
        self.feature_size = probe.shape[1]

    @torch.inference_mode()
    def detect(self, images: Sequence[np.ndarray]) -> list[Regions]:
        """Regions of each image, the most confident first. images: (H, W, 3) uint8 RGB each, upright."""
        found = []
        for look in self._look(images):
            kept = choose_rows(look.boxes, look.probs.max(dim=-1).values, self.limits, NMS_IOU)
            boxes = look.boxes[kept]
            found.append(make_regions(self._features(look, boxes, kept), boxes, look.probs[kept], None, look.raw_wh))
        return found

    @torch.inference_mode()
    def regions_at(self, images: Sequence[np.ndarray], boxes_xyxy_px: Sequence[np.ndarray]) -> list[Regions]:
        """Regions at the given boxes: one region per box, in the order of the boxes.

        A query decoder takes no boxes as input. Each box gets the class (and, for `features=decoder`, the state) of the
        query whose box overlaps it most.

        Raises:
            ShapeError: the two lists differ in length, or boxes are not (R, 4).
        """
        check_boxes(images, boxes_xyxy_px)
        found = []
        for look, given in zip(self._look(images), boxes_xyxy_px):
            boxes = boxes_on(self.device, given)
            nearest = box_iou(boxes, look.boxes).argmax(dim=1) if len(boxes) else boxes.new_zeros(0, dtype=torch.long)
            features = self._features(look, boxes, nearest)
            found.append(make_regions(features, boxes, look.probs[nearest], None, look.raw_wh, clip=False))
        return found

    def _features(self, look: _Look, boxes: Tensor, queries: Tensor) -> Tensor:
        """(R, F) for boxes (R, 4) in raw pixels that the queries (R,) found."""
        if look.feature_map is None:
            return look.states[queries]
        height, width = look.feature_map.shape[-2:]
        x, y = look.unit_of_map_xy[0] * width / look.raw_wh[0], look.unit_of_map_xy[1] * height / look.raw_wh[1]
        on_map = boxes.float() * boxes.new_tensor([x, y, x, y])
        pooled = roi_align(look.feature_map, [on_map], POOL_SIZE, sampling_ratio=2, aligned=True)
        return pooled.mean(dim=(2, 3))

    @torch.inference_mode()
    def _look(self, images: Sequence[np.ndarray]) -> list[_Look]:
        if not images:
            return []
        maps: list[Tensor] = []
        hook = None
        if self.backbone is not None:
            hook = self.backbone.register_forward_hook(lambda _m, _i, out: maps.append(list(_maps_in(out))[-1].float()))
        inputs = self.processor(
            images=[np.array(image) for image in images], input_data_format="channels_last", return_tensors="pt"
        ).to(self.device)
        try:
            with autocast_for(self.device, self.precision):
                output = self.model(**{key: inputs[key] for key in ("pixel_values", "pixel_mask") if key in inputs})
        finally:
            if hook is not None:
                hook.remove()
        looks = []
        for row, image in enumerate(images):
            height, width = image.shape[:2]
            boxes = box_convert(output.pred_boxes[row].float(), "cxcywh", "xyxy")
            boxes = (boxes * boxes.new_tensor([width, height, width, height])).clamp(min=0)
            boxes = torch.minimum(boxes, boxes.new_tensor([width, height, width, height]))
            states = output.last_hidden_state[row, -len(boxes) :].float()  # YOLOS: patches come before the queries
            looks.append(
                _Look(
                    probs=self._probabilities(output.logits[row].float()),
                    boxes=boxes,
                    states=states,
                    feature_map=maps[0][row : row + 1] if maps else None,
                    unit_of_map_xy=_share_of_image(inputs.get("pixel_mask"), row),
                    raw_wh=(width, height),
                )
            )
        return looks

    def _probabilities(self, logits: Tensor) -> Tensor:
        """(Q, C or C+1) -> (Q, C)."""
        if logits.shape[-1] == len(self.class_names) + 1:
            return logits.softmax(dim=-1)[:, :-1]
        return logits.sigmoid()


def build(
    model: str,
    *,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
    max_regions: int | None = None,
    min_regions: int | None = None,
    min_confidence: float | None = None,
    precision: str = "auto",
    features: str = "decoder",
) -> HuggingFaceDetector:
    """An object detector of transformers, with weights.

    Args:
        model: a folder written by `save_pretrained`, or a name on the hub, e.g. "facebook/detr-resnet-50".
        weights: a folder that is loaded instead of `model`; `model` is then only the name.
        device, max_regions, min_regions, min_confidence, precision, features: see `HuggingFaceDetector`.

    Raises:
        CheckpointError: not found, not an object detector, or no network. Code in a model's repository is never run.
    """
    folder = _find_folder(str(weights) if weights is not None else model)
    from transformers import AutoImageProcessor, AutoModelForObjectDetection

    try:
        network, notes = AutoModelForObjectDetection.from_pretrained(
            folder, trust_remote_code=False, dtype=torch.float32, output_loading_info=True
        )
        processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds; each means that this folder cannot be loaded
        raise CheckpointError(
            f"cannot load the object detector hf:{model}",
            in_one_line(error),
            "give a folder with config.json, preprocessor_config.json and weights, as save_pretrained writes them",
        ) from error
    if missing := sorted(notes["missing_keys"]):
        raise CheckpointError(
            f"cannot load the object detector hf:{model}",
            f"its weights lack {len(missing)} tensors, the first is {missing[0]}",
            "give the weights of an object detector, not of its backbone alone",
        )
    return HuggingFaceDetector(
        network,
        processor,
        model,
        weights_sha256=_digest_of(folder),
        device=device,
        max_regions=max_regions,
        min_regions=min_regions,
        min_confidence=min_confidence,
        precision=precision,
        features=features,
    )


def _find_folder(given: str) -> Path:
    if Path(given).is_dir():
        return Path(given)
    if Path(given).is_absolute() or given.startswith(".") or given.count("/") > 1:
        raise CheckpointError(
            f"cannot find the object detector hf:{given}", "there is no such folder", "check the path"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(given, allow_patterns=["*.json", *WEIGHT_PATTERNS]))
    except Exception as error:  # errors of several libraries; each means that the download failed
        raise CheckpointError(
            f'cannot get the object detector "{given}" from the hub',
            in_one_line(error),
            "download it on a machine with network and name its folder: hf:FOLDER",
        ) from error


def _digest_of(folder: Path) -> str:
    """SHA-256 of the only weight file, or of the hashes of all of them in the order of their names."""
    files = sorted(path for pattern in WEIGHT_PATTERNS for path in folder.glob(pattern))
    digests = [sha256_of(path) for path in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _find_backbone(model: nn.Module, name: str) -> nn.Module:
    for path, module in model.named_modules():
        if path.split(".")[-1] == "backbone":
            return module
    raise CmalError(
        f"cannot take backbone features from hf:{name}",
        f"{type(model).__name__} has no part called backbone",
        "use the decoder's states: features=decoder",
    )


def _maps_in(value: Any) -> Iterator[Tensor]:
    """The floating (B, D, h, w) tensors inside a backbone's output, in order; position embeddings come after the maps."""
    if isinstance(value, Tensor):
        if value.ndim == 4 and value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _maps_in(part)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        parts = value[:1] if isinstance(value, tuple) and value and isinstance(value[0], list) else value
        for part in parts:
            yield from _maps_in(part)


def _share_of_image(pixel_mask: Tensor | None, row: int) -> tuple[float, float]:
    """Share of the padded input that the image covers, along x and y."""
    if pixel_mask is None:
        return 1.0, 1.0
    mask = pixel_mask[row].bool()
    return float(mask.any(dim=0).float().mean()), float(mask.any(dim=1).float().mean())
