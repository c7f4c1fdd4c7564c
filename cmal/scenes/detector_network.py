"""The network of the `scenes` detector: a small Faster R-CNN whose heads also name the colour.

Trunk: timm `resnet10t`, strides 8 and 16, then a feature pyramid. Proposals: torchvision's region proposal network.
Each proposal is pooled by RoIAlign and passes through two fully connected layers. The second layer's output is the region
feature; class, colour and box correction are linear in it. Corrected boxes are pooled again, so that the stored features
belong to the stored boxes. Legend: N images, R boxes of an image, C kinds, F feature size.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as nn_functional
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign, box_iou, clip_boxes_to_image

LEVELS = ("8", "16")
ANCHOR_SIZES_PX = ((14, 26, 44), (64, 92, 132))
ANCHOR_RATIOS = (0.5, 1.0, 2.0)
STEM_WIDTH = 16  # half of resnet10t's: at these strides the stem is a third of all work
BOXES_SAMPLED = 48  # per training image, for the second stage
POSITIVE_SHARE = 0.5
JITTERED_COPIES = 3  # of each true box, added to the proposals of a training image
POOL = 6


class SceneDetectorNet(nn.Module):
    """Region proposals, and feature, kind, colour and box correction for each. Images: (N, 3, H, W) in [0, 1], sides
    multiples of 16.

    Args:
        classes: C, without the background.
        colours: how many colours.
        pyramid: channels of the feature pyramid.
        feature_size: F.
        proposals: boxes per image that reach the second stage outside training.
    """

    mean: Tensor

    def __init__(self, classes: int, colours: int, pyramid: int = 64, feature_size: int = 256, proposals: int = 64):
        super().__init__()
        self.trunk = timm.create_model(
            "resnet10t", pretrained=False, features_only=True, out_indices=(2, 3), stem_width=STEM_WIDTH
        )
        feature_info: Any = self.trunk.feature_info
        self.pyramid = FeaturePyramidNetwork(feature_info.channels(), pyramid, norm_layer=nn.BatchNorm2d)
        anchors = AnchorGenerator(ANCHOR_SIZES_PX, (ANCHOR_RATIOS,) * len(LEVELS))
        self.rpn = RegionProposalNetwork(
            anchors,
            RPNHead(pyramid, anchors.num_anchors_per_location()[0]),
            fg_iou_thresh=0.6,
            bg_iou_thresh=0.3,
            batch_size_per_image=128,
            positive_fraction=0.5,
            pre_nms_top_n={"training": 600, "testing": 300},
            post_nms_top_n={"training": 200, "testing": proposals},
            nms_thresh=0.7,
        )
        self.pool = MultiScaleRoIAlign(list(LEVELS), POOL, 2, canonical_scale=64, canonical_level=3)
        self.hidden = nn.Sequential(nn.Linear(pyramid * POOL * POOL, feature_size), nn.LayerNorm(feature_size))
        self.feature = nn.Linear(feature_size, feature_size)
        self.kind = nn.Linear(feature_size, classes + 1)  # the last one is the background
        self.colour = nn.Linear(feature_size, colours)
        self.correction = nn.Linear(feature_size, 4)
        self.coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
        self.matcher = Matcher(0.5, 0.5, allow_low_quality_matches=False)
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.5), persistent=False)

    def maps(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """The feature pyramid of (N, 3, H, W): at strides 8 and 16."""
        levels = self.trunk((images - self.mean) * 4.0)
        return self.pyramid(OrderedDict(zip(LEVELS, levels)))

    def propose(
        self, images: Tensor, maps: OrderedDict[str, Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Proposed boxes (R, 4) of each image and, in training, the two losses of the proposal network."""
        sizes = [size_of(images)] * len(images)
        return self.rpn(ImageList(images, sizes), maps, targets)

    def features_at(self, maps: OrderedDict[str, Tensor], boxes: list[Tensor], size_hw: tuple[int, int]) -> Tensor:
        """Features (sum of R, F) at each image's boxes (R, 4) in pixels, concatenated in the order of the images."""
        pooled = self.pool(maps, boxes, [size_hw] * len(boxes)).flatten(1)  # (sum R, P * 36)
        return nn_functional.relu(self.feature(nn_functional.relu(self.hidden(pooled))))

    def losses(self, images: Tensor, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The losses of one training batch, unweighted.

        Args:
            images: (N, 3, H, W).
            targets: per image, boxes (R, 4), kinds (R,), colours (R,).

        Returns:
            Named losses, each (): proposal_objectness, proposal_box, kind, colour, box.
        """
        maps = self.maps(images)
        boxes, proposal_losses = self.propose(images, maps, targets)
        samples = [self._sample(box, target) for box, target in zip(boxes, targets)]
        boxes = [sample[0] for sample in samples]
        kinds, colours, corrections = (torch.cat([sample[i] for sample in samples]) for i in (1, 2, 3))
        features = self.features_at(maps, boxes, size_of(images))
        is_thing = kinds < self.kind.out_features - 1
        things = is_thing.sum().clamp(min=1)
        box_loss = nn_functional.smooth_l1_loss(
            self.correction(features)[is_thing], corrections[is_thing], beta=1 / 9, reduction="sum"
        )
        colour_loss = nn_functional.cross_entropy(self.colour(features)[is_thing], colours[is_thing], reduction="sum")
        return {
            "proposal_objectness": proposal_losses["loss_objectness"],
            "proposal_box": proposal_losses["loss_rpn_box_reg"],
            "kind": nn_functional.cross_entropy(self.kind(features), kinds),
            "colour": colour_loss / things,
            "box": box_loss / things,
        }

    def _sample(self, boxes: Tensor, target: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Boxes for the second stage with kinds, colours and box corrections; at most half of the boxes are positives."""
        background = self.kind.out_features - 1
        with torch.no_grad():
            boxes = torch.cat(
                [boxes.detach(), target["boxes"], *(_jittered(target["boxes"]) for _ in range(JITTERED_COPIES))]
            )
            if len(target["boxes"]) == 0:
                boxes = boxes[:BOXES_SAMPLED]
                none = torch.full((len(boxes),), background)
                return boxes, none, torch.zeros_like(none), torch.zeros(len(boxes), 4)
            match = self.matcher(box_iou(target["boxes"], boxes))
            positive, negative = torch.where(match >= 0)[0], torch.where(match < 0)[0]
            positive = _some_of(positive, int(BOXES_SAMPLED * POSITIVE_SHARE))
            negative = _some_of(negative, BOXES_SAMPLED - len(positive))
            chosen = torch.cat([positive, negative])
            match = match[chosen].clamp(min=0)
            kinds = target["kinds"][match].clone()
            kinds[len(positive) :] = background
            corrections = self.coder.encode([target["boxes"][match]], [boxes[chosen]])[0]
            return boxes[chosen], kinds, target["colours"][match], corrections

    @torch.inference_mode()
    def detect(self, images: Tensor, maps: OrderedDict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Corrected boxes (R, 4) and probabilities (R, C + 1) of all proposals of each image."""
        size_hw = size_of(images)
        boxes, _ = self.propose(images, maps)
        features = self.features_at(maps, boxes, size_hw)
        probabilities = self.kind(features).softmax(-1)
        corrected = self.coder.decode_single(self.correction(features), torch.cat(boxes))
        corrected = clip_boxes_to_image(corrected, size_hw)
        counts = [len(box) for box in boxes]
        return list(zip(corrected.split(counts), probabilities.split(counts)))


def size_of(images: Tensor) -> tuple[int, int]:
    """Height and width of (N, 3, H, W)."""
    return images.shape[-2], images.shape[-1]


def _jittered(boxes: Tensor) -> Tensor:
    """Boxes whose sides are moved by up to an eighth of the box; they give positives from the first step on."""
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    return boxes + (torch.rand_like(boxes) - 0.5) * 0.25 * sides


def _some_of(indices: Tensor, count: int) -> Tensor:
    return indices[torch.randperm(len(indices))[:count]]
