"""`frcnn-vg`: Faster R-CNN ResNet-101-C4 on Visual Genome, the source of most published region features.

1,600 object classes, 400 attributes, feature dimension 2,048. Pure torch and torchvision; loads the public weights
`unc-nlp/frcnn-vg-finetuned`, from the hub by name or from a folder or file. The feature of a region is pooled at its
*proposal*; its box is the refined one. The network is in `frcnn_vg_model.py`, box arithmetic in `frcnn_vg_boxes.py`,
preprocessing in `frcnn_vg_input.py`.

Usual settings: 36 regions per image (LXMERT), or 10 to 100 with class confidence above 0.2 (bottom-up attention, UNITER).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cmal.errors import CheckpointError, DataError, in_one_line
from cmal.io.files import sha256_of
from cmal.regions.detectors.assembly import (
    RegionLimits,
    autocast_for,
    boxes_on,
    check_boxes,
    find_device,
    load_strictly,
    make_regions,
    read_state_file,
)
from cmal.regions.detectors.frcnn_vg_boxes import choose_regions, select_proposals
from cmal.regions.detectors.frcnn_vg_input import LONGEST_EDGE_PX, SHORTEST_EDGE_PX, NetworkInput, make_input
from cmal.regions.detectors.frcnn_vg_model import FrcnnVg
from cmal.regions.detectors.vg_names import VOCABULARIES, read_names
from cmal.regions.types import Regions

NAME = "frcnn-vg"
HUB_NAME = "unc-nlp/frcnn-vg-finetuned"
WEIGHT_FILES = ("pytorch_model.bin", "model.safetensors")
NMS_IOUS = (0.5, 0.6, 0.7, 0.8, 0.9)  # the first is used, unless it leaves fewer than the minimum number of regions


class FrcnnVgDetector:
    """A `Detector` that wraps the network.

    Args:
        model: the network; moved to `device` and set to evaluation mode.
        class_names, attribute_names: in the order of the ids.
        weights_sha256: hash of the weight file; "" if there is none.
        device: None means the first GPU, or the CPU if there is none.
        max_regions, min_regions, min_confidence: without `min_confidence`, `max_regions` (default 36) regions per image, or
            fewer if there are fewer proposals. With it, the regions above it, but at least `min_regions` (default 10) and
            at most `max_regions` (default 100).
        precision: "auto" and "bf16" mean bf16 on CUDA and float32 elsewhere; "fp32" means float32 everywhere.
        shortest_edge_px, longest_edge_px: edges of the network's input.
        nms_ious: thresholds of the class-agnostic suppression, tried in turn until at least the minimum remains.
    """

    def __init__(
        self,
        model: FrcnnVg,
        class_names: Sequence[str],
        attribute_names: Sequence[str],
        *,
        weights_sha256: str = "",
        device: str | torch.device | None = None,
        max_regions: int | None = None,
        min_regions: int | None = None,
        min_confidence: float | None = None,
        precision: str = "auto",
        shortest_edge_px: int = SHORTEST_EDGE_PX,
        longest_edge_px: int = LONGEST_EDGE_PX,
        nms_ious: Sequence[float] = NMS_IOUS,
    ):
        self.name = NAME
        self.weights_sha256 = weights_sha256
        self.feature_size = model.feature_size
        self.class_names, self.attribute_names = tuple(class_names), tuple(attribute_names)
        self.device = find_device(device)
        self.model = model.to(self.device).eval()
        self.limits = RegionLimits.of(max_regions, min_regions, min_confidence)
        self.max_regions = self.limits.max_regions
        self.settings = {
            "nms_ious": list(nms_ious),
            "edges_px": [shortest_edge_px, longest_edge_px],
            "precision": precision,
            **asdict(self.limits),
        }
        self.precision, self.nms_ious = precision, tuple(nms_ious)
        self.shortest_edge_px, self.longest_edge_px = shortest_edge_px, longest_edge_px
        autocast_for(self.device, precision)  # raises for an unknown name now rather than at the first image

    @torch.inference_mode()
    def detect(self, images: Sequence[np.ndarray]) -> list[Regions]:
        """Regions of each image, the most confident first.

        Images of different sizes are padded to the largest of the batch, which slightly changes features near the right and
        lower edges. Features are therefore reproducible only with the same batches.

        Args:
            images: (H, W, 3) uint8 RGB each, upright.
        """
        if not images:
            return []
        batch = self._make_input(images)
        found = []
        with autocast_for(self.device, self.precision):
            feature_maps = self.model.backbone(batch.images)
            anchors, logits, deltas = self.model.proposal_generator(feature_maps)
            for row in range(len(images)):
                proposals = select_proposals(anchors, logits[row], deltas[row], batch.sizes_hw[row])
                found.append(self._regions_of(feature_maps[row : row + 1], proposals, batch, row))
        return found

    @torch.inference_mode()
    def regions_at(self, images: Sequence[np.ndarray], boxes_xyxy_px: Sequence[np.ndarray]) -> list[Regions]:
        """Regions at the given boxes: one region per box, in the order of the boxes.

        Args:
            images: as in `detect`. boxes_xyxy_px: (R, 4) in pixels of each raw image; returned unchanged.

        Raises:
            ShapeError: the two lists differ in length, or boxes are not (R, 4).
        """
        check_boxes(images, boxes_xyxy_px)
        if not images:
            return []
        batch = self._make_input(images)
        found = []
        with autocast_for(self.device, self.precision):
            feature_maps = self.model.backbone(batch.images)
            for row, given in enumerate(boxes_xyxy_px):
                raw = boxes_on(self.device, given)
                features, class_probs, _, attributes = self._predict_at(
                    feature_maps[row : row + 1], raw / _scale_of(batch, row, raw)
                )
                size = batch.raw_sizes_wh[row]
                found.append(make_regions(features, raw, class_probs, attributes, size, clip=False))
        return found

    def _make_input(self, images: Sequence[np.ndarray]) -> NetworkInput:
        return make_input(images, self.device, shortest=self.shortest_edge_px, longest=self.longest_edge_px)

    def _predict_at(self, feature_map: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Features (P, F), class probabilities (P, C), deltas (P, C, 4) and attribute probabilities (P, A) at boxes."""
        features = self.model.roi_heads.features(feature_map, boxes)
        return features, *self.model.roi_heads.box_predictor(features)

    def _regions_of(self, feature_map: Tensor, proposals: Tensor, batch: NetworkInput, row: int) -> Regions:
        features, class_probs, deltas, attributes = self._predict_at(feature_map, proposals)
        kept, boxes = choose_regions(
            proposals,
            class_probs,
            deltas,
            batch.sizes_hw[row],
            min_detections=self.limits.min_regions,
            max_detections=self.limits.max_regions,
            min_confidence=self.limits.min_confidence,
            nms_ious=self.nms_ious,
        )
        raw_boxes = boxes * _scale_of(batch, row, boxes)
        return make_regions(features[kept], raw_boxes, class_probs[kept], attributes[kept], batch.raw_sizes_wh[row])


def build(
    *,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
    max_regions: int | None = None,
    min_regions: int | None = None,
    min_confidence: float | None = None,
    precision: str = "auto",
) -> FrcnnVgDetector:
    """A `frcnn-vg` detector with weights.

    Args:
        weights: a folder with `pytorch_model.bin` (or `model.safetensors`), such a file, or a name on the hub; None
            means the public weights. The folder's `config.yaml` is not read: its values are fixed for these weights.
            `objects_vocab.txt` and `attributes_vocab.txt` beside the weights replace the names that ship with the package.
        device, max_regions, min_regions, min_confidence, precision: see `FrcnnVgDetector`.

    Raises:
        CheckpointError: weights not found, unreadable, or other than the expected 640 tensors.
    """
    path = find_weights(weights)
    with torch.device("meta"):
        model = FrcnnVg()
    load_strictly(model, read_state_file(path), path)
    return FrcnnVgDetector(
        model,
        _names(path.parent, "objects", model.roi_heads.box_predictor.cls_score.out_features - 1),
        _names(path.parent, "attributes", model.roi_heads.box_predictor.attr_score.out_features - 1),
        weights_sha256=sha256_of(path),
        device=device,
        max_regions=max_regions,
        min_regions=min_regions,
        min_confidence=min_confidence,
        precision=precision,
    )


def find_weights(weights: str | Path | None) -> Path:
    """The weight file for a file, a folder, or a name on the hub (downloaded once into the hub's cache).

    Raises:
        CheckpointError: not found, or no network.
    """
    path = Path(weights) if weights is not None else Path(HUB_NAME)
    if path.is_file():
        return path
    if path.is_dir():
        found = [path / name for name in WEIGHT_FILES if (path / name).is_file()]
        if not found:
            raise CheckpointError(
                f"cannot find the weights of {NAME}", f"{path} has none of {', '.join(WEIGHT_FILES)}", _HINT
            )
        return found[0]
    if path.is_absolute() or len(path.parts) != 2 or str(path).startswith("."):
        raise CheckpointError(f"cannot find the weights of {NAME}", f"there is no file or folder {path}", _HINT)
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(path.as_posix(), WEIGHT_FILES[0]))
    except Exception as error:  # errors of several libraries; each means that the download failed
        raise CheckpointError(
            f'cannot get the weights "{path.as_posix()}" of {NAME} from the hub',
            in_one_line(error),
            _HINT,
        ) from error


_HINT = f"download pytorch_model.bin of {HUB_NAME} on a machine with network and give its folder: --weights DIR"


def _names(folder: Path, kind: str, count: int) -> tuple[str, ...]:
    own = folder / f"{kind}_vocab.txt"
    path = own if own.is_file() else VOCABULARIES[kind]
    names = read_names(path)
    if len(names) != count:
        raise DataError(
            f"cannot use the {kind} names {path}",
            f"it has {len(names):,} names; the weights have {count:,} {kind}",
            "give one name per line, in the order of the ids, or remove the file",
        )
    return names


def _scale_of(batch: NetworkInput, row: int, like: Tensor) -> Tensor:
    x, y = batch.scales_xy[row]
    return like.new_tensor([x, y, x, y])
