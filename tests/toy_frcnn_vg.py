"""frcnn-vg of the public build, but so small that it runs at once; and noise to look at."""

from __future__ import annotations

import numpy as np
import torch

from cmal.regions.detectors.frcnn_vg import FrcnnVgDetector
from cmal.regions.detectors.frcnn_vg_model import FrcnnVg

TINY = {
    "blocks": (1, 1, 1, 1),
    "stem": 2,
    "classes": 5,
    "attributes": 3,
    "proposal_hidden": 4,
    "anchor_sizes": (8, 16, 32, 48),
}


def tiny_network(seed: int = 0) -> FrcnnVg:
    """A network of the same build, 64 numbers a region, with random weights and lively proposals."""
    torch.manual_seed(seed)
    network = FrcnnVg(**TINY)
    torch.nn.init.normal_(network.proposal_generator.rpn_head.objectness_logits.weight, std=0.3)
    torch.nn.init.normal_(network.roi_heads.box_predictor.cls_score.weight, std=0.3)
    torch.nn.init.normal_(network.roi_heads.box_predictor.bbox_pred.weight, std=0.5)
    return network.eval()


def tiny_detector(**options) -> FrcnnVgDetector:
    settings = {"device": "cpu", "shortest_edge_px": 64, "longest_edge_px": 96, **options}
    return FrcnnVgDetector(tiny_network(), "abcde", "xyz", **settings)


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
