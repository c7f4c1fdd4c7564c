"""The network of NanoDet-g 416: CustomCspNet backbone, PAN neck, one-stage head with distributed boxes (GFL).

Blocks have the names of github.com/RangiLyu/nanodet (`config/legacy_v0.x_configs/nanodet-g.yml`); the batch norms of
training are folded into the convolutions. Legend: N images, P cells of the three levels, C classes, B bins of a distance.
Sources: Li et al. 2020, Generalized Focal Loss, arXiv:2006.04388; Liu et al. 2018, PAN, arXiv:1803.01534.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as nn_functional

STRIDES_PX = (8, 16, 32)
CLASSES = 80
BINS = 11  # a distance is the mean of 0 ... 10 strides under the distribution that the head gives
WIDTH = 128  # channels of neck and head
LEAK = 0.1
CSP_STAGES = (
    (32, 1, 1),
    (64, 2, 2),
    (128, 2, 2),
    (256, 3, 2),
)  # input channels, residual blocks, stride; output is double


class ConvModule(nn.Module):
    """Convolution with bias, then LeakyReLU where `is_active`. (N, C_in, H, W) -> (N, C_out, H / stride, W / stride)."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1, is_active: bool = True):
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2)
        self.is_active = is_active

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return nn_functional.leaky_relu(x, LEAK, inplace=True) if self.is_active else x


class TinyResBlock(nn.Module):
    """Two convolutions of half the channels each, joined: the second sees the first. Shapes stay."""

    def __init__(self, channels: int):
        super().__init__()
        self.in_conv = ConvModule(channels, channels // 2)
        self.mid_conv = ConvModule(channels // 2, channels // 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.in_conv(x)
        return torch.cat((self.mid_conv(x), x), dim=1)


class CspBlock(nn.Module):
    """Cross-stage partial block: (N, C, H, W) -> (N, 2C, H / stride, W / stride)."""

    def __init__(self, channels: int, blocks: int, stride: int):
        super().__init__()
        self.in_conv = ConvModule(channels, channels, stride=stride)
        self.res_blocks = nn.Sequential(*(TinyResBlock(channels) for _ in range(blocks)))
        self.res_out_conv = ConvModule(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.in_conv(x)
        return torch.cat((self.res_out_conv(self.res_blocks(x)), x), dim=1)


class CustomCspNet(nn.Module):
    """Backbone: (N, 3, H, W) -> maps at strides 8, 16 and 32 with 128, 256 and 512 channels. H, W: multiples of 32."""

    def __init__(self) -> None:
        super().__init__()
        blocks = [CspBlock(*stage) for stage in CSP_STAGES]
        self.stages = nn.ModuleList([ConvModule(3, 32, stride=2), nn.MaxPool2d(3, 2, 1), *blocks])

    def forward(self, pixels: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages:
            pixels = stage(pixels)
            maps.append(pixels)
        return maps[-len(STRIDES_PX) :]


class PAN(nn.Module):
    """Neck: each level gets what the coarser ones know, then what the finer ones know; every level has `WIDTH` channels."""

    def __init__(self) -> None:
        super().__init__()
        widths = [2 * channels for channels, _, _ in CSP_STAGES[1:]]
        self.lateral_convs = nn.ModuleList(ConvModule(width, WIDTH, kernel=1, is_active=False) for width in widths)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        levels = [lateral(level) for lateral, level in zip(self.lateral_convs, maps)]
        for i in range(len(levels) - 1, 0, -1):
            levels[i - 1] = levels[i - 1] + _resized(levels[i], 2.0)
        for i in range(len(levels) - 1):
            levels[i + 1] = levels[i + 1] + _resized(levels[i], 0.5)
        return levels


def _resized(level: Tensor, scale: float) -> Tensor:
    return nn_functional.interpolate(level, scale_factor=scale, mode="bilinear", align_corners=False)


class NanoDetHead(nn.Module):
    """Head: for every cell of every level its class scores and its box, from one shared convolution per level."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_convs = nn.ModuleList(nn.Sequential(ConvModule(WIDTH, WIDTH)) for _ in STRIDES_PX)
        self.gfl_cls = nn.ModuleList(nn.Conv2d(WIDTH, CLASSES + 4 * BINS, 1) for _ in STRIDES_PX)

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Returns class logits (N, P, C) and distance logits (N, P, 4, B): left, top, right, bottom."""
        outputs = []
        for level, conv, last in zip(levels, self.cls_convs, self.gfl_cls):
            outputs.append(last(conv(level)).flatten(2))  # (N, C + 4B, cells)
        joined = torch.cat(outputs, dim=2).transpose(1, 2)  # (N, P, C + 4B)
        logits, distances = joined.split((CLASSES, 4 * BINS), dim=2)
        return logits, distances.unflatten(2, (4, BINS))


class NanoDet(nn.Module):
    """The whole: (N, 3, H, W) normalised BGR pixels, sides multiples of 32, to class scores, boxes and maps."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = CustomCspNet()
        self.fpn = PAN()
        self.head = NanoDetHead()

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Returns scores (N, P, C) in [0, 1], boxes (N, P, 4) xyxy in input pixels, the trunk's maps (see there)."""
        maps = self.backbone(pixels)
        levels = self.fpn(maps)
        logits, distances = self.head(levels)
        centres, strides = cell_centres([tuple(level.shape[2:]) for level in levels], pixels.device)
        return logits.sigmoid(), decode_boxes(distances, centres, strides), maps


def cell_centres(sizes_hw: list[tuple[int, int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Centres (P, 2) x, y in input pixels and strides (P,) of all cells: level after level, row after row."""
    centres, strides = [], []
    for (height, width), stride in zip(sizes_hw, STRIDES_PX):
        y, x = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
        centres.append((torch.stack((x, y), dim=-1).reshape(-1, 2).float() + 0.5) * stride)
        strides.append(torch.full((height * width,), float(stride), device=device))
    return torch.cat(centres), torch.cat(strides)


def decode_boxes(distances: Tensor, centres: Tensor, strides: Tensor) -> Tensor:
    """Boxes (..., P, 4) xyxy: from each centre the mean distance, in strides, to its left, top, right and bottom edge.

    Args:
        distances: (..., P, 4, B) logits over the distances 0, 1, ..., B - 1 strides.
        centres: (P, 2). strides: (P,).
    """
    steps = torch.arange(distances.shape[-1], device=distances.device, dtype=distances.dtype)
    sides = (distances.softmax(dim=-1) @ steps) * strides[:, None]  # (..., P, 4)
    return torch.cat((centres - sides[..., :2], centres + sides[..., 2:]), dim=-1)
