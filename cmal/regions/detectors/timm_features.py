"""Features at given boxes from any timm backbone: RoIAlign on its last two levels, averaged and concatenated.

F is the sum of the channels of the two levels. There are no classes and no attributes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from cmal.errors import CheckpointError, CmalError
from cmal.io.files import sha256_of
from cmal.regions.detectors.assembly import check_boxes, find_device, read_state_file

SHORT_SIDE_PX, LONG_SIDE_PX = 448, 746
POOL = 4  # cells per side, averaged afterwards


class TimmFeatures:
    """Features at boxes from a timm backbone. `weights`: a state file, or None for timm's pretrained ones (from the hub).

    A state file with other names than timm's is loaded by position, if number, order and shapes of its tensors match.

    Raises:
        CmalError: unknown model, or a model without feature maps.
        CheckpointError: the weights cannot be read or downloaded, or belong to another model.
    """

    def __init__(self, model: str, weights: str | Path | None = None, device: str | torch.device | None = None):
        self.name, self.device = f"timm:{model}", find_device(device)
        self.net = _create(model, pretrained=weights is None)
        if weights is None:
            self.weights_sha256 = _hash_of(self.net.state_dict())
        else:
            _load(self.net, Path(weights))
            self.weights_sha256 = sha256_of(Path(weights))
        self.net = self.net.eval().to(self.device)
        config: Any = self.net.pretrained_cfg
        self.mean, self.std = (torch.tensor(config[key], device=self.device).view(3, 1, 1) for key in ("mean", "std"))
        self.feature_size = sum(level.shape[1] for level in self.levels(torch.zeros(1, 3, 224, 224)))
        self.class_names: tuple[str, ...] = ()
        self.attribute_names: tuple[str, ...] = ()

    @torch.inference_mode()
    def features(self, images: Sequence[np.ndarray], boxes_xyxy_px: Sequence[np.ndarray]) -> list[np.ndarray]:
        """(R, F) float32 for the boxes (R, 4) of each image, in their order."""
        check_boxes(images, boxes_xyxy_px)
        return [self._of_one(image, np.asarray(boxes)) for image, boxes in zip(images, boxes_xyxy_px)]

    def _of_one(self, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        if not len(boxes):
            return np.zeros((0, self.feature_size), np.float32)
        height, width = image.shape[:2]
        scale = min(SHORT_SIDE_PX / min(height, width), LONG_SIDE_PX / max(height, width))
        size = tuple(max(32, round(side * scale / 32) * 32) for side in (height, width))
        pixels = torch.from_numpy(np.ascontiguousarray(image)).to(self.device).permute(2, 0, 1).float().div_(255)
        pixels = nn.functional.interpolate(pixels[None], size, mode="bilinear", antialias=True)[0]
        pooled = []
        for level in self.levels(pixels[None]):
            cells = torch.tensor([level.shape[3] / width, level.shape[2] / height] * 2, device=self.device)
            rois = torch.as_tensor(boxes, dtype=torch.float32, device=self.device) * cells
            pooled.append(roi_align(level, [rois], POOL, sampling_ratio=2, aligned=True).mean(dim=(2, 3)))
        return torch.cat(pooled, dim=1).cpu().numpy()

    def levels(self, pixels: Tensor) -> list[Tensor]:
        """The last two feature maps of RGB pixels (N, 3, H, W) in [0, 1]: (N, C, h, w) each."""
        normal = (pixels.to(self.device) - self.mean) / self.std
        with torch.inference_mode():
            network: Any = self.net
            levels = network.forward_intermediates(normal, indices=2, intermediates_only=True, output_fmt="NCHW")
        return [level.float() for level in levels]


def _create(model: str, pretrained: bool) -> nn.Module:
    if not timm.is_model(model.split(".")[0]):
        close = timm.list_models(f"*{model.split('_')[0]}*")[:6]
        raise CmalError(
            f'cannot build the backbone "timm:{model}"',
            f"timm {timm.__version__} has no such model",
            f"perhaps one of: {', '.join(close) or 'see timm.list_models()'}",
        )
    try:
        net = timm.create_model(model, pretrained=pretrained)
    except Exception as error:  # the hub's client lets through the exceptions of its transport
        raise CheckpointError(
            f'cannot get the weights of "timm:{model}"',
            " ".join(str(error).split())[:200] or type(error).__name__,
            "give a state file with --weights, or connect to the hub",
        ) from error
    if not hasattr(net, "forward_intermediates"):
        raise CmalError(
            f'cannot use the backbone "timm:{model}"', "it has no feature maps", "choose another one, e.g. resnet50"
        )
    return net


def _load(net: nn.Module, path: Path) -> None:
    """Loads by name, or by position if the file uses another library's names for the same model."""
    if not path.is_file():
        raise CheckpointError(f"cannot read the weights {path}", "there is no such file", "check --weights")
    state, expected = read_state_file(path), net.state_dict()
    body = {name for name in expected if not name.startswith(("classifier.", "head.", "fc."))}
    if not body <= set(state):
        count_free = {
            name: value for name, value in expected.items() if value.ndim
        }  # batch norms' counters are scalars
        values = [value for value in state.values() if value.ndim]
        shapes = [tuple(value.shape) for value in values]
        if shapes != [tuple(value.shape) for value in count_free.values()]:
            raise CheckpointError(
                f"cannot load the weights {path}",
                f"neither names nor shapes match this model: {len(values)} tensors instead of {len(count_free)}; "
                f"first missing name: {min(body - set(state))}",
                "give a state file of exactly this model",
            )
        state = dict(zip(count_free, values))
    state = {name: value for name, value in state.items() if name in expected and value.shape == expected[name].shape}
    missing = sorted(name for name in body - set(state) if not name.endswith("num_batches_tracked"))
    if missing:
        raise CheckpointError(
            f"cannot load the weights {path}",
            f"{len(missing)} tensors have another shape, the first is {missing[0]}",
            "give a state file of exactly this model",
        )
    net.load_state_dict(state, strict=False)


def _hash_of(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
