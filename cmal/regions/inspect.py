"""What is in a store, at a glance: a summary of its numbers, and pictures with boxes and tags drawn on them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from PIL import Image, ImageDraw

from cmal.errors import ImageError, StoreError
from cmal.regions.extract import read_failures
from cmal.regions.images import read_image
from cmal.regions.store.store import RegionStore
from cmal.regions.types import NO_OBJECT, Regions

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
SMALLEST_PREVIEW_PX = 480
PALETTE = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#800000", "#000075", "#808000")


@dataclass(frozen=True)
class StoreSummary:
    """What `--inspect` tells.

    Attributes:
        regions_an_image: fewest, mean, most.
        classes, attributes: (name, regions) of all that were seen, most frequent first.
        confidence: (quantile, object confidence at it).
        bytes: size on disk of the shards.
        failed: images that were listed in failed.jsonl.
    """

    path: str
    detector: str
    weights_sha256: str
    feature_size: int
    shards: int
    images: int
    regions: int
    regions_an_image: tuple[int, float, int]
    classes: tuple[tuple[str, int], ...]
    attributes: tuple[tuple[str, int], ...]
    confidence: tuple[tuple[float, float], ...]
    bytes: int
    failed: int


def summarise_store(path: Path) -> StoreSummary:
    """Reads classes, attributes and confidences of all regions, features left alone.

    Raises:
        StoreError: not a store.
    """
    store = RegionStore.open(path)
    classes = np.zeros(len(store.class_names) + 1, np.int64)
    attributes = np.zeros(len(store.attribute_names) + 1, np.int64)
    confidences, counts = [np.zeros(0, np.float16)], [np.zeros(0, np.int64)]
    for shard in store.shard_paths:
        with h5py.File(shard, "r") as file:
            classes += _count(file["object_ids"][()], len(classes), shard)
            attributes += _count(file["attribute_ids"][()], len(attributes), shard)
            confidences.append(file["object_conf"][()])
            counts.append(np.diff(file["offsets"][()]))
    confidence, count = np.concatenate(confidences).astype(np.float64), np.concatenate(counts)
    return StoreSummary(
        path=str(path),
        detector=store.detector,
        weights_sha256=store.weights_sha256,
        feature_size=store.feature_size,
        shards=len(store.shard_paths),
        images=len(store),
        regions=int(count.sum()),
        regions_an_image=(int(count.min()), float(count.mean()), int(count.max())) if len(count) else (0, 0.0, 0),
        classes=_ranked(store.class_names, classes),
        attributes=_ranked(store.attribute_names, attributes),
        confidence=tuple((q, float(np.quantile(confidence, q))) for q in QUANTILES) if len(confidence) else (),
        bytes=sum(shard.stat().st_size for shard in store.shard_paths),
        failed=len(read_failures(Path(path))) if Path(path).is_dir() else 0,
    )


def _count(ids: np.ndarray, size: int, shard: Path) -> np.ndarray:
    """How often each id occurs; the last place counts -1, "none"."""
    ids = ids.astype(np.int64)
    if len(ids) and (ids.min() < -1 or ids.max() >= size - 1):
        raise StoreError(
            f"cannot inspect {shard}",
            f"it has ids from {ids.min()} to {ids.max()}, where {size - 1} names are known",
            "check it with cmal extract-regions --verify",
        )
    return np.bincount(np.where(ids < 0, size - 1, ids), minlength=size)


def _ranked(names: tuple[str, ...], counts: np.ndarray) -> tuple[tuple[str, int], ...]:
    order = np.argsort(-counts[: len(names)], kind="stable")
    return tuple((names[i], int(counts[i])) for i in order if counts[i])


def preview_regions(store: RegionStore, files: Iterable[tuple[str, Path]], out: Path, count: int) -> list[Path]:
    """Writes PNG pictures with the boxes and tags of up to `count` images, spread evenly over those given, into `out`.

    Raises:
        StoreError: none of the images is in the store.
        ImageError: none of those chosen can be read.
    """
    known = [(image_id, path) for image_id, path in files if image_id in store]
    if not known:
        raise StoreError(
            f"cannot preview {store.path}",
            "none of the images given is in the store",
            f"its ids look like {next(iter(store), '(none)')}; give their folder, and --dataset if need be",
        )
    chosen = [known[i * len(known) // count] for i in range(count)] if count < len(known) else known
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    problem: ImageError | None = None
    for image_id, path in chosen:
        try:
            picture = draw_regions(read_image(path), store[image_id], store.class_names, store.attribute_names)
        except ImageError as error:
            problem = error
            continue
        written.append(out / f"{image_id.replace(':', '_').replace('/', '_')}.png")
        picture.save(written[-1])
    if problem is not None and not written:
        raise problem
    return written


def draw_regions(
    image: np.ndarray, regions: Regions, class_names: tuple[str, ...], attribute_names: tuple[str, ...]
) -> Image.Image:
    """The picture, small ones enlarged, with each region's box and a tag "colour kind .87" in its corner.

    A kind has one colour throughout the picture; the surest lie on top, and a tag that would cover another moves down.
    """
    scale = max(1, -(-SMALLEST_PREVIEW_PX // min(image.shape[:2]))) if min(image.shape[:2]) else 1
    picture = Image.fromarray(image).resize((image.shape[1] * scale, image.shape[0] * scale), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(picture)
    order = np.argsort(-np.asarray(regions.object_conf, np.float32), kind="stable").tolist()  # the surest first
    kinds = list(dict.fromkeys(int(regions.object_ids[row]) for row in order))
    colour_of = {kind: PALETTE[rank % len(PALETTE)] for rank, kind in enumerate(kinds)}
    for row in reversed(order):
        x1, y1, x2, y2 = (float(value) * scale for value in regions.boxes_xyxy_px[row])
        box = (x1, y1, max(x1, x2 - 1), max(y1, y2 - 1))
        pen.rectangle(box, outline=colour_of[int(regions.object_ids[row])], width=2)
    taken: list[tuple[float, float, float, float]] = []
    for row in order:
        x, y = (float(value) * scale for value in regions.boxes_xyxy_px[row, :2])
        text = region_tag(regions, row, class_names, attribute_names)
        place = _free_place(pen.textbbox((0, 0), text), (x + 2, y + 1), taken, picture.size)
        taken.append(place)
        pen.rectangle(place, fill=colour_of[int(regions.object_ids[row])])
        pen.text((place[0] + 2, place[1] - pen.textbbox((0, 0), text)[1] + 1), text, fill="white")
    return picture


def _free_place(
    text_box: tuple[float, ...], corner: tuple[float, float], taken: list, size_wh: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Where a tag goes: at the corner, inside the picture, below the tags that lie there already while there is room."""
    width, height = text_box[2] - text_box[0] + 4, text_box[3] - text_box[1] + 2
    x, y = min(corner[0], max(0, size_wh[0] - width)), min(corner[1], max(0, size_wh[1] - height))
    while True:
        covered = [t for t in taken if x < t[2] and t[0] < x + width and y < t[3] and t[1] < y + height]
        lower = max((t[3] for t in covered), default=y)
        if not covered or lower + 1 + height > size_wh[1]:
            return x, y, x + width, y + height
        y = lower + 1


def region_tag(regions: Regions, row: int, class_names: tuple[str, ...], attribute_names: tuple[str, ...]) -> str:
    """A region's tag as people read it: "red dog 0.87"; "no tag" for a region without an object."""
    kind, attribute = int(regions.object_ids[row]), int(regions.attribute_ids[row])
    if kind == NO_OBJECT:
        return "no tag"
    words = [attribute_names[attribute]] if 0 <= attribute < len(attribute_names) else []
    words.append(class_names[kind] if 0 <= kind < len(class_names) else f"#{kind}")
    return f"{' '.join(words)} {float(regions.object_conf[row]):.2f}"
