"""Trains the `scenes` detector from scratch on generated pictures, and scores it on pictures of another seed.

Each picture is drawn when it is needed and used once. The command line is `python -m cmal.runs.train_scenes_detector`.
"""

from __future__ import annotations

import dataclasses
import io
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cmal.io.files import atomic_path
from cmal.regions.detection_map import match_boxes, mean_average_precision
from cmal.regions.types import Regions
from cmal.scenes.detector import ScenesDetector
from cmal.scenes.detector_network import SceneDetectorNet
from cmal.scenes.drawing import encode_jpeg, make_scene
from cmal.scenes.scene import Scene
from cmal.scenes.world import COLOURS, KINDS

LOSS_WEIGHTS = {"proposal_objectness": 1.0, "proposal_box": 1.0, "kind": 2.0, "colour": 1.0, "box": 0.5}
Picture = tuple[np.ndarray, Scene]


def _bounded(default: float, least: float, most: float | None = None) -> Any:
    """A dataclass field with inclusive bounds, in the form that the recipe reader checks."""
    return field(default=default, metadata={"least": least, "most": most})


@dataclass(frozen=True)
class ScenesDetectorRecipe:
    """Settings of the training; `recipes/scenes_detector.yaml` explains each."""

    seed: int = _bounded(7001, 0)
    steps: int = _bounded(600, 1)
    batch_size: int = _bounded(16, 1)
    lr: float = _bounded(2e-3, 0)
    weight_decay: float = _bounded(0.02, 0)
    warmup_share: float = _bounded(0.1, 0, 1)
    clip_norm: float = _bounded(5.0, 0)
    test_seed: int = _bounded(7002, 0)
    test_images: int = _bounded(300, 0)
    workers: int = _bounded(1, 0)

    def errors(self) -> Iterable[str]:
        """Errors that involve more than one field."""
        if self.seed == self.test_seed:
            yield "test_seed: equals seed; test pictures must be drawn from another seed than training pictures"


class _Pictures(Dataset):
    """Pictures 0 to count - 1 of one seed with their boxes, kinds and colours; drawn on access."""

    def __init__(self, seed: int, count: int):
        self.seed, self.count = seed, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        image, scene = _picture(self.seed, "detector", index)
        boxes, kinds, colours = (torch.from_numpy(values) for values in _truth(scene))
        if torch.rand(()) < 0.5:  # mirror: neither kind nor colour depends on left and right
            image = image[:, ::-1]
            boxes[:, [0, 2]] = image.shape[1] - boxes[:, [2, 0]]
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
        return pixels, {"boxes": boxes, "kinds": kinds, "colours": colours}


def _picture(seed: int, split: str, index: int) -> Picture:
    """One picture as extraction reads it: drawn, encoded as JPEG and decoded."""
    image, scene = make_scene(seed, split, index)
    with Image.open(io.BytesIO(encode_jpeg(image))) as file:
        return np.array(file.convert("RGB")), scene


def _collate(items: list[tuple[Tensor, dict[str, Tensor]]]) -> tuple[Tensor, list[dict[str, Tensor]]]:
    return torch.stack([pixels for pixels, _ in items]), [target for _, target in items]


def train(recipe: ScenesDetectorRecipe, report: Callable[[str], None] = print) -> SceneDetectorNet:
    """Returns a trained network, in evaluation mode. Runs on the CPU and restores torch's random state afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        net = SceneDetectorNet(len(KINDS), len(COLOURS)).to(memory_format=torch.channels_last).train()
        decayed = [p for p in net.parameters() if p.ndim > 1]
        others = [p for p in net.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=recipe.lr)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, recipe.lr, total_steps=recipe.steps, pct_start=recipe.warmup_share
        )
        started = time.monotonic()
        shown: dict[str, float] = {}
        for step, (pixels, targets) in enumerate(_batches(recipe), start=1):
            images = pixels.float().div_(255).contiguous(memory_format=torch.channels_last)
            losses = net.losses(images, targets)
            sum((LOSS_WEIGHTS[name] * loss for name, loss in losses.items()), images.new_zeros(())).backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), recipe.clip_norm)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad(set_to_none=True)
            for name, loss in losses.items():
                shown[name] = 0.95 * shown.get(name, loss.item()) + 0.05 * loss.item()
            if step % 25 == 0 or step == recipe.steps:
                values = " ".join(f"{name} {value:.3f}" for name, value in shown.items())
                report(f"step {step}/{recipe.steps} {time.monotonic() - started:.0f}s {values}")
    return net.eval()


def _batches(recipe: ScenesDetectorRecipe) -> Iterator[tuple[Tensor, list[dict[str, Tensor]]]]:
    pictures = _Pictures(recipe.seed, recipe.steps * recipe.batch_size)
    yield from DataLoader(
        pictures,
        recipe.batch_size,
        num_workers=recipe.workers,
        collate_fn=_collate,
        generator=torch.Generator().manual_seed(recipe.seed),
        worker_init_fn=_one_thread,
    )


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)


@dataclass(frozen=True)
class DetectorScores:
    """Scores of a detector on pictures with known things.

    Attributes:
        mean_ap: at IoU 0.5, mean over kinds, of up to 64 boxes per picture with confidence 0.02 or more.
        found_share: share of things that a region with the right kind overlaps by IoU 0.5, with default settings.
        extra_per_picture: regions per picture that match no thing of their kind, with default settings.
        colour_accuracy: over regions that match a thing of their kind.
        given_box_kind_accuracy, given_box_colour_accuracy: of `regions_at` at the true boxes.
        pictures_per_second: speed of `detect`, 16 pictures per batch.
        worst_kinds: average precision of the five worst kinds.
    """

    mean_ap: float
    found_share: float
    extra_per_picture: float
    colour_accuracy: float
    given_box_kind_accuracy: float
    given_box_colour_accuracy: float
    pictures_per_second: float
    worst_kinds: dict[str, float]


def score_detector(net: SceneDetectorNet, pictures: list[Picture]) -> DetectorScores:
    """Scores a network on pictures such as `draw_pictures` returns."""
    cpu = torch.device("cpu")
    usual, eager = ScenesDetector(net, "", cpu), ScenesDetector(net, "", cpu, max_regions=64, min_regions=0)
    eager.min_confidence = 0.02
    images = [image for image, _ in pictures]
    truth = [_truth(scene) for _, scene in pictures]
    started = time.monotonic()
    regions = _in_batches(usual, images)
    seconds = time.monotonic() - started
    everything = _in_batches(eager, images)
    mean_ap, per_kind = mean_average_precision(
        [(one.boxes_xyxy_px, one.object_conf, one.object_ids) for one in everything],
        [(boxes, kinds) for boxes, kinds, _ in truth],
    )
    right_colour, right, found, things = [], 0, 0, 0
    for one, (boxes, kinds, colours) in zip(regions, truth):
        things, found = things + len(kinds), found + len(one)
        matched = match_boxes(one.boxes_xyxy_px, boxes)
        is_right = (matched >= 0) & (one.object_ids == kinds[matched])
        right += int(is_right.sum())
        right_colour += (one.attribute_ids[is_right] == colours[matched[is_right]]).tolist()
    described = [usual.regions_at([image], [boxes])[0] for image, (boxes, _, _) in zip(images, truth)]
    same_kind = np.concatenate([one.object_ids == kinds for one, (_, kinds, _) in zip(described, truth)])
    same_colour = np.concatenate([one.attribute_ids == colours for one, (_, _, colours) in zip(described, truth)])
    worst = sorted(per_kind.items(), key=lambda item: item[1])[:5]
    return DetectorScores(
        mean_ap=round(mean_ap, 4),
        found_share=round(right / max(things, 1), 4),
        extra_per_picture=round((found - right) / len(pictures), 3),
        colour_accuracy=round(float(np.mean(right_colour)) if right_colour else 0.0, 4),
        given_box_kind_accuracy=round(float(same_kind.mean()), 4),
        given_box_colour_accuracy=round(float(same_colour.mean()), 4),
        pictures_per_second=round(len(pictures) / seconds, 1),
        worst_kinds={KINDS[kind]: round(value, 3) for kind, value in worst},
    )


def draw_pictures(seed: int, split: str, count: int) -> list[Picture]:
    """Pictures 0 to count - 1 of a seed and split, each with its scene."""
    return [_picture(seed, split, index) for index in range(count)]


def _in_batches(detector: ScenesDetector, images: list[np.ndarray]) -> list[Regions]:
    return [one for first in range(0, len(images), 16) for one in detector.detect(images[first : first + 16])]


def _truth(scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (R, 4) float32, kinds (R,) and colours (R,) int64 of the things of a scene."""
    boxes = np.array([thing.box_xyxy_px for thing in scene.things], np.float32).reshape(-1, 4)
    kinds = np.array([KINDS.index(thing.kind) for thing in scene.things], int)
    return boxes, kinds, np.array([COLOURS.index(thing.colour) for thing in scene.things], int)


def save_weights(net: SceneDetectorNet, path: Path, recipe_sha256: str, scores: DetectorScores | None) -> None:
    """Writes the weights in half precision; the file's metadata holds the recipe's hash and the scores."""
    state = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in net.state_dict().items()
    }
    metadata = {"recipe_sha256": recipe_sha256}
    if scores is not None:
        kept = {key: value for key, value in dataclasses.asdict(scores).items() if key != "pictures_per_second"}
        metadata["scores"] = json.dumps(kept)
    with atomic_path(path) as temporary:
        save_file(state, str(temporary), metadata=metadata)
        temporary.chmod(0o644)  # save_file leaves it readable by its owner only
