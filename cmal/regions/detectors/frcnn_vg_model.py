"""The Visual Genome Faster R-CNN (ResNet-101-C4) as modules: parameter names and shapes are those of the public weights.

Legend: B images, P proposals, N anchors of one image, C classes, F = 2,048 feature dimension, h w the stride-16 map.
The parts are a trunk (`backbone`), a proposal network (`proposal_generator`) and the heads on every proposal
(`roi_heads`). Boxes are selected in `frcnn_vg_boxes.py`; images are preprocessed in `frcnn_vg_input.py`.

Source: Anderson et al., "Bottom-Up and Top-Down Attention" (CVPR 2018), and the public weights
`unc-nlp/frcnn-vg-finetuned`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_pool

from cmal.regions.detectors.frcnn_vg_boxes import make_cell_anchors

STRIDE = 16
POOL_SIZE = 14
CLASS_EMBEDDING = 256
ATTRIBUTE_HIDDEN = 512
DELTAS = 4


class ConvNorm(nn.Conv2d):
    """A convolution without bias, then batch norm, which is its child module (`conv1.norm`)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x))


class Stem(nn.Module):
    """7×7 stride 2, ReLU, then Caffe's max pool: 3×3 stride 2 without padding, with ceil mode."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = ConvNorm(3, channels, 7, stride=2, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.conv1(x))
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=0, ceil_mode=True)


class Bottleneck(nn.Module):
    """1×1 (with the stride, as in Caffe), 3×3 (with the dilation), 1×1, plus the shortcut."""

    def __init__(self, in_channels: int, inner: int, out_channels: int, stride: int, dilation: int):
        super().__init__()
        self.shortcut: nn.Module
        if in_channels != out_channels:
            self.shortcut = ConvNorm(in_channels, out_channels, 1, stride=stride)
        else:
            self.shortcut = nn.Identity()
        self.conv1 = ConvNorm(in_channels, inner, 1, stride=stride)
        self.conv2 = ConvNorm(inner, inner, 3, padding=dilation, dilation=dilation)
        self.conv3 = ConvNorm(inner, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu_(self.conv2(F.relu_(self.conv1(x))))
        return F.relu_(self.conv3(inner) + self.shortcut(x))


def make_stage(blocks: int, in_channels: int, out_channels: int, stride: int, dilation: int = 1) -> nn.Sequential:
    """`blocks` bottlenecks; the first one has the stride and the change of width. Inner width: a quarter of the outer."""
    inner = out_channels // 4
    first = Bottleneck(in_channels, inner, out_channels, stride, dilation)
    rest = [Bottleneck(out_channels, inner, out_channels, 1, dilation) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)


class Trunk(nn.Module):
    """Images (B, 3, H, W) to the stride-16 map (B, 16·stem, h, w)."""

    def __init__(self, blocks: Sequence[int], stem: int):
        super().__init__()
        self.stem = Stem(stem)
        self.res2 = make_stage(blocks[0], stem, 4 * stem, stride=1)
        self.res3 = make_stage(blocks[1], 4 * stem, 8 * stem, stride=2)
        self.res4 = make_stage(blocks[2], 8 * stem, 16 * stem, stride=2)

    def forward(self, images: Tensor) -> Tensor:
        return self.res4(self.res3(self.res2(self.stem(images))))


class AnchorGenerator(nn.Module):
    """Twelve boxes around every cell of the map, 16 px apart, the first cell's centre at the image's corner (0, 0)."""

    def __init__(self, sizes: Sequence[float], ratios: Sequence[float]):
        super().__init__()
        self.cell_anchors = nn.Module()
        self.cell_anchors.register_buffer("0", make_cell_anchors(sizes, ratios))

    def forward(self, height: int, width: int) -> Tensor:
        """(h·w·12, 4) boxes in pixels of the network's input; row by row, cell by cell, twelve per cell."""
        cell = self.cell_anchors.get_buffer("0")
        y, x = torch.meshgrid(
            torch.arange(height, device=cell.device, dtype=cell.dtype) * STRIDE,
            torch.arange(width, device=cell.device, dtype=cell.dtype) * STRIDE,
            indexing="ij",
        )
        shifts = torch.stack((x, y, x, y), dim=-1).reshape(-1, 1, 4)  # (h·w, 1, 4)
        return (shifts + cell).reshape(-1, 4)


class ProposalHead(nn.Module):
    """From the map to a logit and four deltas for each anchor, in the order of the anchors."""

    def __init__(self, in_channels: int, hidden: int, anchors_per_cell: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, hidden, 3, padding=1)
        self.objectness_logits = nn.Conv2d(hidden, anchors_per_cell, 1)
        self.anchor_deltas = nn.Conv2d(hidden, anchors_per_cell * DELTAS, 1)

    def forward(self, feature_map: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D, h, w) -> logits (B, N), deltas (B, N, 4), both float32."""
        hidden = F.relu_(self.conv(feature_map))
        logits = self.objectness_logits(hidden).permute(0, 2, 3, 1).flatten(1)  # (B, N)
        deltas = self.anchor_deltas(hidden).unflatten(1, (-1, DELTAS))  # (B, 12, 4, h, w)
        return logits.float(), deltas.permute(0, 3, 4, 1, 2).flatten(1, 3).float()


class ProposalGenerator(nn.Module):
    """Region proposal network: anchors with their logits and deltas."""

    def __init__(self, in_channels: int, hidden: int, sizes: Sequence[float], ratios: Sequence[float]):
        super().__init__()
        self.anchor_generator = AnchorGenerator(sizes, ratios)
        self.rpn_head = ProposalHead(in_channels, hidden, len(sizes) * len(ratios))

    def forward(self, feature_map: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, D, h, w) -> anchors (N, 4), logits (B, N), deltas (B, N, 4)."""
        logits, deltas = self.rpn_head(feature_map)
        return self.anchor_generator(*feature_map.shape[-2:]), logits, deltas


class BoxPredictor(nn.Module):
    """Region features to class logits (background last), box deltas of every class, and attribute probabilities."""

    def __init__(self, feature_size: int, classes: int, attributes: int):
        super().__init__()
        self.cls_score = nn.Linear(feature_size, classes + 1)
        self.bbox_pred = nn.Linear(feature_size, classes * DELTAS)
        self.cls_embedding = nn.Embedding(classes + 1, CLASS_EMBEDDING)
        self.fc_attr = nn.Linear(feature_size + CLASS_EMBEDDING, ATTRIBUTE_HIDDEN)
        self.attr_score = nn.Linear(ATTRIBUTE_HIDDEN, attributes + 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(P, F) -> class probabilities without background (P, C), deltas (P, C, 4), attribute probabilities (P, 400).

        The attribute head receives the embedding of the most probable class, background included. The last attribute logit
        means "none" and is excluded from the softmax. All three are float32.
        """
        logits = self.cls_score(features)
        embedded = self.cls_embedding(logits.argmax(dim=-1)).to(features.dtype)
        hidden = F.relu_(self.fc_attr(torch.cat((features, embedded), dim=-1)))
        attributes = self.attr_score(hidden)[:, :-1].float().softmax(dim=-1)
        deltas = self.bbox_pred(features).unflatten(1, (-1, DELTAS)).float()
        return logits.float().softmax(dim=-1)[:, :-1], deltas, attributes


class RegionHeads(nn.Module):
    """RoIPool 14×14, res5 with dilated 3×3 convolutions and no stride, mean over the 14×14 map, predictor."""

    def __init__(self, in_channels: int, feature_size: int, blocks: int, classes: int, attributes: int):
        super().__init__()
        self.res5 = make_stage(blocks, in_channels, feature_size, stride=1, dilation=2)
        self.box_predictor = BoxPredictor(feature_size, classes, attributes)

    def features(self, feature_map: Tensor, boxes: Tensor) -> Tensor:
        """Features of one image's boxes: map (1, D, h, w), boxes (P, 4) in pixels of the input -> (P, F)."""
        pooled = roi_pool(feature_map.float(), [boxes.float()], POOL_SIZE, 1 / STRIDE)
        return self.res5(pooled.to(feature_map.dtype)).mean(dim=(2, 3))


class FrcnnVg(nn.Module):
    """The complete network. The defaults are the sizes of the public weights; tests use smaller ones.

    Args:
        blocks: bottlenecks in res2, res3, res4, res5.
        stem: channels after the first convolution; later widths are multiples of it (F = 32·stem).
        classes, attributes: without background and without "none".
        proposal_hidden: channels of the proposal head.
        anchor_sizes: in pixels of the network's input (square root of the area). anchor_ratios: height / width.
    """

    def __init__(
        self,
        blocks: Sequence[int] = (3, 4, 23, 3),
        stem: int = 64,
        classes: int = 1600,
        attributes: int = 400,
        proposal_hidden: int = 512,
        anchor_sizes: Sequence[float] = (64, 128, 256, 512),
        anchor_ratios: Sequence[float] = (0.5, 1.0, 2.0),
    ):
        super().__init__()
        self.feature_size = 32 * stem
        self.backbone = Trunk(blocks[:3], stem)
        self.proposal_generator = ProposalGenerator(16 * stem, proposal_hidden, anchor_sizes, anchor_ratios)
        self.roi_heads = RegionHeads(16 * stem, self.feature_size, blocks[3], classes, attributes)
