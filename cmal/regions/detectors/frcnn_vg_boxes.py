"""Box arithmetic of the Visual Genome Faster R-CNN: anchors, deltas, selection of proposals and regions.

Boxes are (.., 4) x1 y1 x2 y2 in pixels of the network's input, float32. Legend: N anchors, P proposals, C classes.
`tests/parity/test_frcnn_vg_reference.py` has a slow reference implementation of both selections.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import nms

LARGEST_LOG_SCALE = math.log(1000 / 16)  # limits the growth of a side to a factor of 62.5
PROPOSAL_WEIGHTS = (1.0, 1.0, 1.0, 1.0)
REGION_WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def make_cell_anchors(sizes: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """(sizes·ratios, 4) boxes centred on (0, 0), of area size² and height / width = ratio; ratios vary fastest.

    Example: size 64, ratio 1 is [-32, -32, 32, 32].
    """
    rows = []
    for size in sizes:
        for ratio in ratios:
            width = math.sqrt(size * size / ratio)
            height = ratio * width
            rows.append([-width / 2, -height / 2, width / 2, height / 2])
    return torch.tensor(rows)


def apply_deltas(boxes: Tensor, deltas: Tensor, weights: Sequence[float]) -> Tensor:
    """Boxes moved and scaled: centre += (dx, dy)·size, size *= exp(dw, dh), each delta first divided by its weight.

    Args:
        boxes: (N, 4). deltas: (N, 4) dx dy dw dh. weights: their four divisors.

    Returns:
        (N, 4), not clipped.

    Example: box [0, 0, 10, 10] with deltas [.1, 0, log 2, 0] and weights 1 is [-4, 0, 16, 10].
    """
    dx, dy, dw, dh = (deltas / deltas.new_tensor(weights)).unbind(dim=-1)
    dw, dh = dw.clamp(max=LARGEST_LOG_SCALE), dh.clamp(max=LARGEST_LOG_SCALE)
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    x, y = boxes[:, 0] + 0.5 * width + dx * width, boxes[:, 1] + 0.5 * height + dy * height
    half_w, half_h = 0.5 * width * dw.exp(), 0.5 * height * dh.exp()
    return torch.stack((x - half_w, y - half_h, x + half_w, y + half_h), dim=-1)


def clip_boxes(boxes: Tensor, height: float, width: float) -> Tensor:
    """The part of each box inside [0, width] × [0, height]."""
    x, y = boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)
    return torch.stack((x[:, 0], y[:, 0], x[:, 1], y[:, 1]), dim=-1)


def select_proposals(
    anchors: Tensor,
    logits: Tensor,
    deltas: Tensor,
    image_hw: tuple[int, int],
    *,
    before_nms: int = 6000,
    keep: int = 300,
    nms_iou: float = 0.7,
) -> Tensor:
    """The proposals of one image, highest logit first.

    Steps: sort by logit, keep the first `before_nms`, apply the deltas, clip to the image (without its padding), drop boxes
    without area, non-maximum suppression, keep the first `keep`.

    Args:
        anchors: (N, 4). logits: (N,). deltas: (N, 4). image_hw: resized height and width, px.

    Returns:
        (P, 4), P ≤ keep.
    """
    order = logits.argsort(descending=True, stable=True)[:before_nms]
    boxes = clip_boxes(apply_deltas(anchors[order], deltas[order], PROPOSAL_WEIGHTS), *image_hw)
    has_area = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    boxes, scores = boxes[has_area], logits[order][has_area]
    return boxes[nms(boxes, scores, nms_iou)[:keep]]


def choose_regions(
    proposals: Tensor,
    class_probs: Tensor,
    deltas: Tensor,
    image_hw: tuple[int, int],
    *,
    min_detections: int = 36,
    max_detections: int = 36,
    min_confidence: float = 0.0,
    nms_ious: Sequence[float] = (0.5,),
) -> tuple[Tensor, Tensor]:
    """Which proposals become regions, and their boxes.

    Each proposal keeps its most probable class and the box of that class. Non-maximum suppression is class-agnostic; if
    fewer than `min_detections` remain, it is repeated with the next threshold of `nms_ious`. Then the boxes above
    `min_confidence` are kept, but at least `min_detections` (if that many remain) and at most `max_detections`.

    Args:
        proposals: (P, 4). class_probs: (P, C) without background. deltas: (P, C, 4). image_hw: resized size, px.

    Returns:
        rows (R,) into the proposals, highest probability first, and boxes (R, 4) clipped to the image.
    """
    scores, classes = class_probs.max(dim=-1)
    best = deltas[torch.arange(len(classes), device=classes.device), classes]  # (P, 4)
    boxes = clip_boxes(apply_deltas(proposals, best, REGION_WEIGHTS), *image_hw)
    kept = torch.zeros(0, dtype=torch.long, device=boxes.device)
    for iou in nms_ious:
        kept = nms(boxes, scores, iou)
        if len(kept) >= min_detections:
            break
    confident = int((scores[kept] > min_confidence).sum())
    kept = kept[: min(max(confident, min_detections), max_detections)]
    return kept, boxes[kept]
