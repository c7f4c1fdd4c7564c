"""Boxes: corner and COCO form, overlap (IoU), generalised overlap. The one place for box arithmetic.

Boxes are xyxy in pixels, continuous coordinates: x2 - x1 is the width. All arithmetic is float64.
Legend: N, M boxes.
"""

from __future__ import annotations

import numpy as np

from cmal.errors import ShapeError


def xywh_to_xyxy(boxes_xywh: np.ndarray) -> np.ndarray:
    """(..., 4) COCO boxes [x, y, width, height] as [x1, y1, x2, y2] = [x, y, x + width, y + height], float64."""
    boxes = as_boxes(boxes_xywh)
    return np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], axis=-1)


def iou_matrix(a_xyxy: np.ndarray, b_xyxy: np.ndarray, plus_one: bool = False) -> np.ndarray:
    """Intersection over union of every box of a with every box of b.

    Args:
        a_xyxy: (N, 4). b_xyxy: (M, 4). Inverted boxes (x2 < x1) are empty.
        plus_one: count widths and heights one pixel larger, as Caffe's detectors did.

    Returns:
        (N, M) float64 in [0, 1]; 0 where the union is empty.
    """
    return pairwise_iou(as_boxes(a_xyxy)[:, None], as_boxes(b_xyxy)[None], plus_one)


def generalised_iou(a_xyxy: np.ndarray, b_xyxy: np.ndarray) -> np.ndarray:
    """IoU minus the share of the smallest enclosing box that neither box covers: (N, 4), (M, 4) -> (N, M) in (-1, 1].

    Source: Rezatofighi et al., Generalized Intersection over Union, CVPR 2019.
    Example: [0, 0, 1, 1] and [2, 0, 3, 1]: IoU 0, the hull has area 3, a third of it uncovered: -1/3.
    """
    return pairwise_generalised_iou(as_boxes(a_xyxy)[:, None], as_boxes(b_xyxy)[None])


def pairwise_iou(a: np.ndarray, b: np.ndarray, plus_one: bool) -> np.ndarray:
    """IoU of boxes row by row: a and b (..., 4) are broadcast against each other; returns (...)."""
    shared, union = _shared_and_union(a, b, 1.0 if plus_one else 0.0)
    return _ratio(shared, union)


def pairwise_generalised_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Generalised IoU row by row: a and b (..., 4) are broadcast against each other; returns (...)."""
    shared, union = _shared_and_union(a, b, 0.0)
    sides = np.maximum(a[..., 2:], b[..., 2:]) - np.minimum(a[..., :2], b[..., :2])
    hull = _area(sides)
    # shared / union - (hull - union) / hull over one denominator: on whole pixels exactly 0.5 then comes out as exactly 0.5
    value = _ratio(shared * hull - (hull - union) * union, union * hull)
    return np.where((union <= 0) & (hull > 0), -1.0, value)


def _shared_and_union(a: np.ndarray, b: np.ndarray, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Areas of intersection and union; a and b (..., 4) broadcast against each other."""
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]) + margin
    shared = _area(sides)
    union = _area(a[..., 2:] - a[..., :2] + margin) + _area(b[..., 2:] - b[..., :2] + margin) - shared
    return shared, union


def _area(sides: np.ndarray) -> np.ndarray:
    sides = np.maximum(sides, 0.0)
    return sides[..., 0] * sides[..., 1]  # half the time that clip and prod take


def _ratio(part: np.ndarray, total: np.ndarray) -> np.ndarray:
    return np.divide(part, total, out=np.zeros(np.broadcast(part, total).shape), where=total > 0)


def as_boxes(boxes: np.ndarray) -> np.ndarray:
    """The boxes as float64. Raises ShapeError when the last dimension is not 4."""
    boxes = np.asarray(boxes, dtype=np.float64)
    if boxes.shape[-1:] != (4,):
        raise ShapeError("these are not boxes", f"the shape is {boxes.shape}", "the last dimension has to be 4 numbers")
    return boxes
