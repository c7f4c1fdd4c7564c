"""Mean average precision of a detector at one IoU, as COCO defines it (101 recall points, mean over classes)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cmal.errors import ShapeError

RECALL_POINTS = np.linspace(0.0, 1.0, 101)


def mean_average_precision(
    found: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
    truth: Sequence[tuple[np.ndarray, np.ndarray]],
    iou_threshold: float = 0.5,
) -> tuple[float, dict[int, float]]:
    """Mean average precision over the classes of the truth, and the average precision of each class.

    Args:
        found: per image, boxes (R, 4) xyxy, confidences (R,), class ids (R,).
        truth: per image, boxes (G, 4) xyxy, class ids (G,).
        iou_threshold: a box is correct if its IoU with a still unmatched true box of its class reaches this.

    Returns:
        (mean, {class id: average precision}); (0, {}) if the truth is empty.

    Raises:
        ShapeError: the two lists differ in length.

    Source: COCO detection evaluation (cocodataset.org/#detection-eval), at a single IoU, all areas, no crowds.
    """
    if len(found) != len(truth):
        raise ShapeError(
            "cannot score detections",
            f"{len(found)} images of detections, {len(truth)} of truth",
            "give the same images",
        )
    classes = sorted({int(kind) for _, kinds in truth for kind in kinds})
    scores = {kind: _average_precision(found, truth, kind, iou_threshold) for kind in classes}
    return (float(np.mean(list(scores.values()))) if scores else 0.0), scores


def _average_precision(found: Sequence, truth: Sequence, kind: int, iou_threshold: float) -> float:
    confidences, hits, total = [], [], 0
    for (boxes, confidence, kinds), (true_boxes, true_kinds) in zip(found, truth):
        of_kind, true_of_kind = np.asarray(kinds) == kind, np.asarray(true_kinds) == kind
        total += int(true_of_kind.sum())
        order = np.argsort(-np.asarray(confidence, float)[of_kind], kind="stable")
        confidences.append(np.asarray(confidence, float)[of_kind][order])
        hits.append(
            match_boxes(np.asarray(boxes)[of_kind][order], np.asarray(true_boxes)[true_of_kind], iou_threshold) >= 0
        )
    order = np.argsort(-np.concatenate(confidences), kind="stable")
    is_hit = np.concatenate(hits)[order]
    if not len(is_hit):
        return 0.0
    right = np.cumsum(is_hit)
    precision = right / np.arange(1, len(is_hit) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]  # best precision at this recall or beyond
    at = np.searchsorted(right / total, RECALL_POINTS, side="left")
    return float(np.where(at < len(precision), precision[np.minimum(at, len(precision) - 1)], 0.0).mean())


def match_boxes(boxes: np.ndarray, true_boxes: np.ndarray, iou_threshold: float = 0.5) -> np.ndarray:
    """For each box, in the order given, the best true box that no earlier box took, or -1. (R, 4), (G, 4) -> (R,) int."""
    matched = np.full(len(boxes), -1)
    if not len(boxes) or not len(true_boxes):
        return matched
    overlaps = box_ious(boxes, true_boxes)
    for row in range(len(boxes)):
        best = int(overlaps[row].argmax())
        if overlaps[row, best] >= iou_threshold:
            matched[row] = best
            overlaps[:, best] = -1.0
    return matched


def box_ious(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of (R, 4) and (G, 4) xyxy boxes -> (R, G); zero where both are empty."""
    boxes, others = np.asarray(boxes, np.float64), np.asarray(others, np.float64)
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)[:, None] + (others[:, 2:] - others[:, :2]).prod(axis=1)[None]
    return shared / np.maximum(areas - shared, 1e-9)
