"""Shared by the detectors: from tensors to `Regions`, region limits, devices, and weight files.

Legend: R regions, F feature dimension, C classes, A attributes.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import nms

from cmal.errors import CheckpointError, CmalError, ShapeError, in_one_line, list_errors
from cmal.regions.types import NO_ATTRIBUTE, TOP_CLASSES, Regions

PRECISIONS = ("auto", "fp32", "bf16")
FIXED_REGIONS, MIN_REGIONS, MAX_REGIONS = 36, 10, 100


def make_regions(
    features: Tensor,
    boxes_xyxy_px: Tensor,
    class_probs: Tensor,
    attribute_probs: Tensor | None,
    image_wh_px: tuple[int, int],
    *,
    labels: Tensor | None = None,
    scores: Tensor | None = None,
    clip: bool = True,
) -> Regions:
    """Regions of one image as arrays, in the order of the rows.

    Args:
        features: (R, F). boxes_xyxy_px: (R, 4) in pixels of the raw image.
        class_probs: (R, C) without background; the most probable class of a row is its tag.
        attribute_probs: (R, A), or None if the detector has no attributes.
        image_wh_px: width and height of the raw image.
        labels, scores: (R,) class and confidence, if they are not the maximum of `class_probs`.
        clip: clip the boxes to the image; False for boxes that the caller passed in.
    """
    count, (width, height) = len(features), image_wh_px
    boxes = boxes_xyxy_px.float().cpu().numpy()
    if clip:
        boxes = boxes.clip(0, np.array([width, height, width, height], dtype=np.float32))
    ids = np.zeros((count, TOP_CLASSES), dtype=np.int64)
    probs = np.zeros((count, TOP_CLASSES), dtype=np.float32)
    shown = min(TOP_CLASSES, class_probs.shape[1])
    top = class_probs.float().topk(shown, dim=-1)
    ids[:, :shown], probs[:, :shown] = top.indices.cpu().numpy(), top.values.cpu().numpy()
    best = class_probs.float().max(dim=-1)
    labels = best.indices if labels is None else labels
    scores = best.values if scores is None else scores
    if attribute_probs is None:
        attribute_ids, attribute_conf = np.full(count, NO_ATTRIBUTE), np.zeros(count, dtype=np.float32)
    else:
        attribute = attribute_probs.float().max(dim=-1)
        attribute_ids, attribute_conf = attribute.indices.cpu().numpy(), attribute.values.cpu().numpy()
    return Regions(
        features=features.float().cpu().numpy(),
        boxes_xyxy_px=boxes.astype(np.float32),
        object_ids=labels.cpu().numpy(),
        object_conf=scores.float().cpu().numpy(),
        attribute_ids=attribute_ids,
        attribute_conf=attribute_conf,
        class_top_ids=ids,
        class_top_probs=probs,
        image_wh_px=(int(width), int(height)),
    )


def find_device(device: str | torch.device | None) -> torch.device:
    """The named device; None means the first GPU, or the CPU if there is none.

    Raises:
        CmalError: this machine has no such device.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        raise CmalError(
            f'cannot run a detector on the device "{device}"',
            f"torch says: {str(error).splitlines()[0]}",
            'use "cpu", or a device that this machine has',
        ) from error
    return found


def autocast_for(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Context manager for the forward pass: bf16 on CUDA for "auto" and "bf16", else float32.

    The CPU always runs in float32: bf16 is many times slower on CPUs without hardware support.

    Raises:
        CmalError: unknown precision.
    """
    if precision not in PRECISIONS:
        raise CmalError(
            "cannot set the detector's precision", f'found "{precision}"', f"known precisions: {', '.join(PRECISIONS)}"
        )
    if device.type == "cuda" and precision != "fp32":
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return contextlib.nullcontext()


def read_state_file(path: Path) -> dict[str, Tensor]:
    """The state dict of a weight file, on the CPU. Code inside a file is never run.

    Reads `.safetensors` and torch files. A state dict under the key "model" or "state_dict" is unwrapped.

    Raises:
        CheckpointError: the file cannot be read or contains no state dict.
    """
    path = Path(path)
    state: Any
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"cannot read the weights {path}",
            in_one_line(error),
            "download the file again; files that would run code when opened are refused",
        ) from error
    except Exception as error:  # the exception class of safetensors has no public base
        raise CheckpointError(f"cannot read the weights {path}", str(error)[:200], "download the file again") from error
    for key in ("model", "state_dict"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(
            f"cannot read the weights {path}",
            "it contains no state dict (a mapping from names to tensors)",
            "give a state dict",
        )
    return {str(name): value for name, value in state.items()}


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], where: Path | str) -> None:
    """Loads `state` into `model`, which may be on the meta device; floats become float32.

    Raises:
        CheckpointError: lists every tensor that is missing, unknown or has a wrong shape.
    """
    if errors := list(_state_errors(model.state_dict(), state)):
        raise CheckpointError(
            f"cannot load the weights {where}", list_errors(errors), "give weights of exactly this detector"
        )
    values = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    model.load_state_dict(values, strict=True, assign=True)
    model.requires_grad_(False)


def _state_errors(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Iterator[str]:
    for name, value in expected.items():
        if name not in state:
            yield f"{name} is missing"
        elif state[name].shape != value.shape:
            yield f"{name} has shape {tuple(state[name].shape)}, not {tuple(value.shape)}"
    yield from (f"{name} is not a parameter of this detector" for name in state if name not in expected)


def choose_rows(
    boxes: Tensor,
    scores: Tensor,
    limits: RegionLimits,
    nms_iou: float,
) -> Tensor:
    """Rows (R,) of the detections that become regions, highest score first.

    Class-agnostic non-maximum suppression at `nms_iou`, then the rows above `limits.min_confidence`, but at least
    `limits.min_regions` (if the image has that many detections) and at most `limits.max_regions`.

    Args:
        boxes: (N, 4). scores: (N,).
    """
    kept = nms(boxes.float(), scores.float(), nms_iou)
    confident = int((scores[kept] > limits.min_confidence).sum())
    return kept[: min(max(confident, limits.min_regions), limits.max_regions)]


@dataclass(frozen=True)
class RegionLimits:
    """Regions kept per image: those above `min_confidence`, at least `min_regions` and at most `max_regions`."""

    min_regions: int
    max_regions: int
    min_confidence: float

    @classmethod
    def of(cls, max_regions: int | None, min_regions: int | None, min_confidence: float | None) -> RegionLimits:
        """Limits from a detector's options. Default: exactly 36 regions; with `min_confidence`, 10 to 100.

        Raises:
            CmalError: `max_regions` is below 1.
        """
        is_fixed = min_confidence is None
        most = (FIXED_REGIONS if is_fixed else MAX_REGIONS) if max_regions is None else max_regions
        if most < 1:
            raise CmalError("cannot keep regions", f"max_regions is {most}", "give at least 1")
        least = (most if is_fixed else MIN_REGIONS) if min_regions is None else min_regions
        return cls(min(least, most), most, min_confidence or 0.0)


def check_boxes(images: Sequence[np.ndarray], boxes: Sequence[np.ndarray]) -> None:
    """Checks the arguments of `regions_at`.

    Raises:
        ShapeError: the lists differ in length, or boxes are not (R, 4).
    """
    if len(images) != len(boxes):
        raise ShapeError(
            "cannot compute regions at boxes",
            f"{len(images)} images, {len(boxes)} lists of boxes",
            "give one list per image",
        )
    for row, shape in enumerate(np.shape(one) for one in boxes):
        if len(shape) != 2 or shape[1] != 4:
            raise ShapeError(
                "cannot compute regions at boxes", f"the boxes of image {row} have shape {shape}", "give (R, 4)"
            )


def boxes_on(device: torch.device, boxes: np.ndarray) -> Tensor:
    """Boxes as a (R, 4) float32 tensor on the device."""
    return torch.from_numpy(np.array(boxes, dtype=np.float32, order="C")).to(device)
