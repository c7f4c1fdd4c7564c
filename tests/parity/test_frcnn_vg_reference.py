"""frcnn-vg beside a second account of it, written from its description in slow numpy loops, with the same weights.

The account knows the names of the parameters and nothing else of our code. Promised: boxes within 1e-2 px, features
within 1e-4, the same classes and attributes in the same order.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cmal.regions.detectors.frcnn_vg import FrcnnVgDetector
from cmal.regions.detectors.frcnn_vg_boxes import choose_regions, select_proposals
from cmal.regions.detectors.frcnn_vg_model import FrcnnVg

SIZES, RATIOS, MEAN_BGR = (8, 16, 32, 48), (0.5, 1.0, 2.0), (102.9801, 115.9465, 122.7717)
LARGEST = np.log(1000 / 16)


# -- the second account ------------------------------------------------------------------------------------------------


def iou(a: np.ndarray, b: np.ndarray) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def suppress(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    """Takes the best box that no taken box overlaps by more than the threshold, until none is left."""
    kept: list[int] = []
    for row in sorted(range(len(scores)), key=lambda r: (-scores[r], r)):
        if all(not iou(boxes[row], boxes[other]) > threshold for other in kept):
            kept.append(row)
    return kept


def move(box: np.ndarray, delta: np.ndarray, weights: tuple[float, ...]) -> np.ndarray:
    dx, dy, dw, dh = delta / np.array(weights)
    width, height = box[2] - box[0], box[3] - box[1]
    x, y = box[0] + width / 2 + dx * width, box[1] + height / 2 + dy * height
    width, height = width * np.exp(min(dw, LARGEST)), height * np.exp(min(dh, LARGEST))
    return np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2])


def clip(box: np.ndarray, height: float, width: float) -> np.ndarray:
    return np.array([np.clip(v, 0, width if place % 2 == 0 else height) for place, v in enumerate(box)])


def proposals_by_hand(anchors, logits, deltas, image_hw, before_nms=6000, keep=300, threshold=0.7) -> np.ndarray:
    order = sorted(range(len(logits)), key=lambda r: (-logits[r], r))[:before_nms]
    boxes, scores = [], []
    for row in order:
        box = clip(move(anchors[row], deltas[row], (1, 1, 1, 1)), *image_hw)
        if box[2] > box[0] and box[3] > box[1]:
            boxes.append(box)
            scores.append(logits[row])
    kept = suppress(np.array(boxes), np.array(scores), threshold)[:keep]
    return np.array(boxes)[kept]


def regions_by_hand(proposals, probs, deltas, image_hw, least, most, thresholds) -> tuple[list[int], np.ndarray]:
    boxes, scores = [], []
    for row, proposal in enumerate(proposals):
        best = int(np.argmax(probs[row]))
        boxes.append(clip(move(proposal, deltas[row, best], (10, 10, 5, 5)), *image_hw))
        scores.append(probs[row, best])
    for threshold in thresholds:
        kept = suppress(np.array(boxes), np.array(scores), threshold)
        if len(kept) >= least:
            break
    return kept[:most], np.array(boxes)[kept[:most]]


class Reference:
    """The forward pass from a state dict, in float64."""

    def __init__(self, state: dict[str, torch.Tensor], blocks: tuple[int, ...]):
        self.state = {name: value.double().numpy() for name, value in state.items()}
        self.blocks = blocks

    def conv(self, x: np.ndarray, name: str, stride: int = 1, pad: int = 0, dilation: int = 1) -> np.ndarray:
        weight = self.state[f"{name}.weight"]
        x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
        size = weight.shape[2]
        reach = dilation * (size - 1) + 1
        height, width = (x.shape[1] - reach) // stride + 1, (x.shape[2] - reach) // stride + 1
        out = np.zeros((len(weight), height, width))
        for row in range(size):
            for column in range(size):
                top, left = row * dilation, column * dilation
                part = x[:, top : top + stride * height : stride, left : left + stride * width : stride]
                out += np.tensordot(weight[:, :, row, column], part[:, :height, :width], axes=1)
        if f"{name}.norm.weight" in self.state:
            norm = {
                p: self.state[f"{name}.norm.{p}"][:, None, None]
                for p in ("weight", "bias", "running_mean", "running_var")
            }
            out = (out - norm["running_mean"]) / np.sqrt(norm["running_var"] + 1e-5) * norm["weight"] + norm["bias"]
        elif f"{name}.bias" in self.state:
            out = out + self.state[f"{name}.bias"][:, None, None]
        return out

    def stage(self, x: np.ndarray, name: str, blocks: int, stride: int, dilation: int = 1) -> np.ndarray:
        for number in range(blocks):
            block, step = f"{name}.{number}", stride if number == 0 else 1
            inner = np.maximum(self.conv(x, f"{block}.conv1", stride=step), 0)
            inner = np.maximum(self.conv(inner, f"{block}.conv2", pad=dilation, dilation=dilation), 0)
            shortcut = self.conv(x, f"{block}.shortcut", stride=step) if number == 0 else x
            x = np.maximum(self.conv(inner, f"{block}.conv3") + shortcut, 0)
        return x

    def trunk(self, x: np.ndarray) -> np.ndarray:
        x = np.maximum(self.conv(x, "backbone.stem.conv1", stride=2, pad=3), 0)
        height, width = (-(-(n - 3) // 2) + 1 for n in x.shape[1:])  # ceil((n - 3) / 2) + 1 windows, no padding
        x = np.stack(
            [[x[:, 2 * r : 2 * r + 3, 2 * c : 2 * c + 3].max(axis=(1, 2)) for c in range(width)] for r in range(height)]
        ).transpose(2, 0, 1)
        for name, blocks, stride in zip(("res2", "res3", "res4"), self.blocks, (1, 2, 2)):
            x = self.stage(x, f"backbone.{name}", blocks, stride)
        return x

    def anchors(self, height: int, width: int) -> np.ndarray:
        rows = []
        for y in range(height):
            for x in range(width):
                for size in SIZES:
                    for ratio in RATIOS:
                        w = np.sqrt(size**2 / ratio)
                        h = ratio * w
                        rows.append([16 * x - w / 2, 16 * y - h / 2, 16 * x + w / 2, 16 * y + h / 2])
        return np.array(rows)

    def propose(self, feature_map: np.ndarray, image_hw: tuple[int, int]) -> np.ndarray:
        name = "proposal_generator.rpn_head"
        hidden = np.maximum(self.conv(feature_map, f"{name}.conv", pad=1), 0)
        logits, deltas = self.conv(hidden, f"{name}.objectness_logits"), self.conv(hidden, f"{name}.anchor_deltas")
        _, height, width = logits.shape
        flat_logits, flat_deltas = [], []
        for y in range(height):
            for x in range(width):
                for anchor in range(12):
                    flat_logits.append(logits[anchor, y, x])
                    flat_deltas.append(deltas[4 * anchor : 4 * anchor + 4, y, x])
        return proposals_by_hand(self.anchors(height, width), flat_logits, flat_deltas, image_hw)

    def feature(self, feature_map: np.ndarray, box: np.ndarray) -> np.ndarray:
        """RoIPool: corners rounded to cells, the last cell counted in, 14 × 14 bins that may share cells, maxima."""
        left, top, right, bottom = (int(np.floor(v / 16 + 0.5)) for v in box.astype(np.float32))
        width, height = max(right - left + 1, 1), max(bottom - top + 1, 1)
        _, map_height, map_width = feature_map.shape
        pooled = np.zeros((len(feature_map), 14, 14))
        for row in range(14):
            for column in range(14):
                y0 = min(max(int(np.floor(row * height / 14)) + top, 0), map_height)
                y1 = min(max(int(np.ceil((row + 1) * height / 14)) + top, 0), map_height)
                x0 = min(max(int(np.floor(column * width / 14)) + left, 0), map_width)
                x1 = min(max(int(np.ceil((column + 1) * width / 14)) + left, 0), map_width)
                if y1 > y0 and x1 > x0:
                    pooled[:, row, column] = feature_map[:, y0:y1, x0:x1].max(axis=(1, 2))
        return self.stage(pooled, "roi_heads.res5", self.blocks[3], 1, dilation=2).mean(axis=(1, 2))

    def dense(self, x: np.ndarray, name: str) -> np.ndarray:
        name = f"roi_heads.box_predictor.{name}"
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def detect(self, image_rgb: np.ndarray, resized_rgb: np.ndarray, least: int, most: int, thresholds) -> dict:
        height, width = resized_rgb.shape[:2]
        x = resized_rgb[:, :, ::-1].transpose(2, 0, 1) - np.array(MEAN_BGR)[:, None, None]
        feature_map = self.trunk(x)
        proposals = self.propose(feature_map, (height, width))
        features = np.stack([self.feature(feature_map, box) for box in proposals])
        logits = self.dense(features, "cls_score")
        probs = softmax(logits)[:, :-1]
        deltas = self.dense(features, "bbox_pred").reshape(len(proposals), -1, 4)
        embedded = self.state["roi_heads.box_predictor.cls_embedding.weight"][logits.argmax(axis=1)]
        hidden = np.maximum(self.dense(np.concatenate([features, embedded], axis=1), "fc_attr"), 0)
        attributes = softmax(self.dense(hidden, "attr_score")[:, :-1])
        rows, boxes = regions_by_hand(proposals, probs, deltas, (height, width), least, most, thresholds)
        scale = np.array([image_rgb.shape[1] / width, image_rgb.shape[0] / height] * 2)
        return {
            "features": features[rows],
            "boxes": boxes * scale,
            "classes": probs[rows].argmax(axis=1),
            "conf": probs[rows].max(axis=1),
            "attributes": attributes[rows].argmax(axis=1),
        }


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pixel centres at half places: corners are not aligned."""
    out = np.zeros((height, width, 3))
    for row in range(height):
        for column in range(width):
            y = min(max((row + 0.5) * image.shape[0] / height - 0.5, 0), image.shape[0] - 1)
            x = min(max((column + 0.5) * image.shape[1] / width - 0.5, 0), image.shape[1] - 1)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, image.shape[0] - 1), min(x0 + 1, image.shape[1] - 1)
            upper = image[y0, x0] * (1 - (x - x0)) + image[y0, x1] * (x - x0)
            lower = image[y1, x0] * (1 - (x - x0)) + image[y1, x1] * (x - x0)
            out[row, column] = upper * (1 - (y - y0)) + lower * (y - y0)
    return out


# -- the two side by side ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_proposals_agree_with_the_slow_account(seed):
    rng = np.random.default_rng([seed, 1])
    corners = rng.uniform(-40, 120, (250, 2))
    anchors = np.concatenate([corners, corners + rng.uniform(1, 60, (250, 2))], axis=1).astype(np.float32)
    logits = rng.permutation(250).astype(np.float32)
    deltas = (rng.standard_normal((250, 4)) * [0.3, 0.3, 0.6, 0.6]).astype(np.float32)
    deltas[:5, 2:] = 50  # beyond the largest growth
    expected = proposals_by_hand(anchors, logits, deltas, (70, 100), before_nms=200, keep=60)
    found = select_proposals(*map(torch.from_numpy, (anchors, logits, deltas)), (70, 100), before_nms=200, keep=60)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-2)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("least", "most"), [(10, 10), (5, 30), (60, 60)])
def test_the_choice_of_regions_agrees_with_the_slow_account(seed, least, most):
    rng = np.random.default_rng([seed, 2])
    corners = rng.uniform(0, 60, (80, 2))
    proposals = np.concatenate([corners, corners + rng.uniform(5, 50, (80, 2))], axis=1).astype(np.float32)
    probs = rng.dirichlet(np.ones(7), 80).astype(np.float32)[:, :-1]
    deltas = rng.standard_normal((80, 6, 4)).astype(np.float32)
    thresholds = (0.3, 0.5, 0.7)
    rows, boxes = regions_by_hand(proposals, probs, deltas, (90, 100), least, most, thresholds)
    found_rows, found_boxes = choose_regions(
        *map(torch.from_numpy, (proposals, probs, deltas)),
        (90, 100),
        min_detections=least,
        max_detections=most,
        nms_ious=thresholds,
    )
    assert found_rows.tolist() == rows
    np.testing.assert_allclose(found_boxes.numpy(), boxes, atol=1e-2)


def lively_network(blocks: tuple[int, ...], seed: int) -> FrcnnVg:
    """Random weights and statistics, none of them at its resting value, and scores far enough apart to have one order."""
    torch.manual_seed(seed)
    network = FrcnnVg(blocks, stem=2, classes=6, attributes=4, proposal_hidden=6, anchor_sizes=SIZES)
    for name, value in network.state_dict().items():
        if "running_var" in name or "norm.weight" in name:
            torch.nn.init.uniform_(value, 0.6, 1.5)
        elif "norm.bias" in name or "running_mean" in name:
            torch.nn.init.normal_(value, std=0.2)
    network.state_dict()["backbone.stem.conv1.norm.running_var"].fill_(4000.0)
    for part, std in (("cls_score", 0.4), ("bbox_pred", 0.4), ("attr_score", 0.5), ("fc_attr", 0.3)):
        torch.nn.init.normal_(getattr(network.roi_heads.box_predictor, part).weight, std=std)
    for part, std in (("objectness_logits", 0.5), ("anchor_deltas", 0.1)):
        torch.nn.init.normal_(getattr(network.proposal_generator.rpn_head, part).weight, std=std)
    return network.eval()


@pytest.mark.parametrize(("seed", "shape"), [(0, (37, 52)), (1, (47, 33)), (2, (64, 96))])
def test_a_whole_pass_agrees_with_the_slow_account(seed, shape):
    blocks = (2, 1, 2, 2)
    network = lively_network(blocks, seed)
    image = np.random.default_rng([seed, 3]).integers(0, 256, (*shape, 3), dtype=np.uint8)
    detector = FrcnnVgDetector(
        network, "abcdef", "wxyz", device="cpu", max_regions=12, min_regions=4, shortest_edge_px=64, longest_edge_px=96
    )
    found = detector.detect([image])[0]
    small = min(shape)
    resized = bilinear(image.astype(float), *(int(n * 64 / small + 0.5) for n in shape))
    expected = Reference(network.state_dict(), blocks).detect(image, resized, 4, 12, detector.nms_ious)
    assert len(found) == len(expected["classes"]) == 12
    assert found.object_ids.tolist() == expected["classes"].tolist()
    assert found.attribute_ids.tolist() == expected["attributes"].tolist()
    np.testing.assert_allclose(found.boxes_xyxy_px, expected["boxes"], atol=1e-2)
    np.testing.assert_allclose(found.object_conf, expected["conf"], rtol=1e-4)
    np.testing.assert_allclose(
        found.features, expected["features"], rtol=1e-4, atol=1e-4 * np.abs(expected["features"]).max()
    )
