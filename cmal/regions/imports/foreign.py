"""Shared by all imports: one image of a foreign file, its image id, and its conversion to `Regions`.

Legend: R regions, F feature numbers, C classes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath

import numpy as np

from cmal.errors import DataError, shown
from cmal.io.isolated import iterate_isolated
from cmal.regions.image_ids import image_id_for_file
from cmal.regions.types import NO_ATTRIBUTE, TOP_CLASSES, Regions

LARGEST_FLOAT16 = 65504.0
LARGEST_SIDE_PX = 1_000_000
LARGEST_COORDINATE = 1e9
OUTSIDE_PX = 1.0  # a box that starts further outside belongs to another image, or to another size of it
ROUNDING = 1e-3  # tolerance of probabilities at 0 and 1
UNKNOWN_SIDE_PX = 1000  # side of the frame for unit boxes of an image of unknown size
UNKNOWN_CLASSES = ("unknown",)  # of a file without classes

_KNOWN_NAMES = (  # file names of COCO, LXMERT, UNITER and volta that contain the data set
    ("coco", re.compile(r"(?:^|_)coco(?:_gt|_(?:train|val|test)20\d\d)?_0*(\d{1,12})$", re.I)),
    ("flickr30k", re.compile(r"(?:^|_)flickr30k?_0*(\d+)$", re.I)),
    ("vg", re.compile(r"(?:^|_)(?:vg|visualgenome)_0*(\d+)$", re.I)),
    ("nlvr2", re.compile(r"(?:^|_)((?:train|dev|test1|test2)-\d+-\d+-img[01])$")),
)
_ARRAY_ENDING = re.compile(r"\.np[yz]$", re.I)
_IMAGE_ENDING = re.compile(r"\.(?:jpe?g|png|gif|bmp|webp)$", re.I)


@dataclass(frozen=True)
class ForeignImage:
    """One image of a foreign file, before it is checked.

    Attributes:
        key: its name in the file. where: its position in the file, for messages ("line 7").
        features: (R, F). boxes_xyxy: (R, 4), in pixels, or shares of the image where `is_unit`.
        image_wh_px: (width, height); None if the file has no size.
        object_ids, object_conf, attribute_ids, attribute_conf: (R,) or None.
        class_probs: (R, C) without background, or None.
    """

    key: str
    where: str
    features: np.ndarray
    boxes_xyxy: np.ndarray
    image_wh_px: tuple[int, int] | None
    is_unit: bool = False
    object_ids: np.ndarray | None = None
    object_conf: np.ndarray | None = None
    attribute_ids: np.ndarray | None = None
    attribute_conf: np.ndarray | None = None
    class_probs: np.ndarray | None = None


@dataclass(frozen=True)
class BadImage:
    """An image of a foreign file that cannot be read: its key if known, its position in the file, and the reason."""

    key: str
    where: str
    reason: str


@dataclass
class Progress:
    """Progress of a stream in any unit: `done` of `total`."""

    done: int = 0
    total: int = 1


@dataclass(frozen=True)
class Source:
    """An opened foreign file.

    Attributes:
        format: its name among the imports.
        class_names, attribute_names: of its ids.
        images: the stream; iterating over it reads the file.
        progress: of the stream.
    """

    format: str
    class_names: tuple[str, ...]
    attribute_names: tuple[str, ...]
    images: Iterator[ForeignImage | BadImage]
    progress: Progress


@dataclass
class Tally:
    """Counts of changes: features clipped to float16, images that had such features, images of unknown size."""

    clipped_numbers: int = 0
    clipped_images: int = 0
    unknown_sizes: int = 0


def isolated_source(
    format: str,
    path: Path,
    read: Callable[[], Iterator[int | ForeignImage | BadImage]],
    class_names: tuple[str, ...],
    attribute_names: tuple[str, ...] = (),
) -> Source:
    """A source whose file is read in a child process with limited memory and time (see `cmal/io/isolated.py`).

    Args:
        read: yields the number of entries, then the images.
        class_names: replaced by `UNKNOWN_CLASSES` where the first readable image has no classes.

    Raises:
        DataError: the child died, or whatever `read` raised.
    """
    stream, progress = iterate_isolated(path, read), Progress()
    before: list[ForeignImage | BadImage] = []
    for item in stream:
        if isinstance(item, int):
            progress.total = max(item, 1)
            continue
        before.append(item)
        if isinstance(item, ForeignImage):
            if item.class_probs is None and item.object_ids is None:
                class_names = UNKNOWN_CLASSES
            break

    def images() -> Iterator[ForeignImage | BadImage]:
        for item in chain(before, stream):
            progress.done += 1
            if not isinstance(item, int):
                yield item

    return Source(format, class_names, attribute_names, images(), progress)


class BadRow(ValueError):
    """A row that cannot be used; the text says why."""


def image_id_of(key: str, dataset: str | None) -> str:
    """The image id for a foreign key: a number, a file name, or a path.

    Keys that contain their data set need no `dataset`: `COCO_train2014_000000391895`, `coco_val2014_...`,
    `flickr30k_000000036979.npz`, `vg_000002407890`, `nlvr2_dev-850-0-img0`. A key that is an image id stays.

    Raises:
        DataError: the key does not contain a data set, and `dataset` is None.
        BadRow: the key cannot be an image name.

    Example: image_id_of("COCO_val2014_000000391895.jpg", None) is "coco:391895"; so is image_id_of("391895", "coco").
    """
    if not key.isprintable():
        raise BadRow("its name has unprintable characters")
    if re.match(r"^[a-z0-9_+-]+:\S", key):
        return key
    path = _ARRAY_ENDING.sub("", key.replace("\\", "/"))
    name = _IMAGE_ENDING.sub("", PurePosixPath(path).name)
    for found, pattern in _KNOWN_NAMES:
        if match := pattern.search(name):
            return f"{found}:{match[1]}"
    if dataset is None:
        raise DataError(
            f'cannot determine the data set of the image "{key}"',
            "its name does not contain it",
            "name the data set: --dataset coco (or flickr30k, vg, nlvr2, ...)",
        )
    try:
        return image_id_for_file(dataset, path)
    except DataError as error:
        raise BadRow(f"no image id can be made of its name: {error.found}") from None


def to_regions(
    image: ForeignImage,
    image_id: str,
    classes: int,
    attributes: int,
    sizes: Mapping[str, tuple[int, int]],
    tally: Tally,
) -> Regions:
    """Checks one image and converts it to the store's types; features beyond float16 are clipped and counted.

    Args:
        classes, attributes: numbers of names.
        sizes: (width, height) by image id, for files without sizes.

    Raises:
        BadRow: shapes disagree, an id has no name, or a value is not finite.
    """
    features = image.features
    if features.ndim != 2 or not features.shape[1] or features.dtype.kind not in "fiu":
        raise BadRow(f"features have shape {features.shape} and type {features.dtype}, not (regions, numbers)")
    count = len(features)
    size = image.image_wh_px or sizes.get(image_id)
    if size is None:
        if not image.is_unit:
            raise BadRow("neither the file nor the list of sizes gives the image's width and height")
        size = (UNKNOWN_SIDE_PX, UNKNOWN_SIDE_PX)
        tally.unknown_sizes += 1
    if not all(1 <= side <= LARGEST_SIDE_PX for side in size):
        raise BadRow(f"the image's size is {shown(size[0])} x {shown(size[1])}")
    ids, conf, top_ids, top_probs = _classes_of(image, count, classes)
    if image.attribute_ids is None:
        attribute_ids, attribute_conf = np.full(count, NO_ATTRIBUTE), np.zeros(count, np.float32)
    else:
        attribute_ids = _ids(image.attribute_ids, count, attributes, "attribute", least=NO_ATTRIBUTE)
        attribute_conf = _confidences(image.attribute_conf, count, "attribute")
    return Regions(
        features=_as_half(features, tally),
        boxes_xyxy_px=_boxes(image, count, size),
        object_ids=ids,
        object_conf=conf,
        attribute_ids=attribute_ids,
        attribute_conf=attribute_conf,
        class_top_ids=top_ids,
        class_top_probs=top_probs,
        image_wh_px=(int(size[0]), int(size[1])),
    )


def _as_half(features: np.ndarray, tally: Tally) -> np.ndarray:
    """(R, F) float16, clipped. Infinities are found fast by their bits: an exponent of all ones."""
    with np.errstate(over="ignore", invalid="ignore"):
        half = features.astype(np.float16)
    is_special = (half.view(np.uint16) & 0x7C00) == 0x7C00
    if is_special.any():
        if np.isnan(features).any():
            raise BadRow("features hold NaN")
        half[is_special] = np.where(features[is_special] > 0, LARGEST_FLOAT16, -LARGEST_FLOAT16)
        tally.clipped_numbers += int(is_special.sum())
        tally.clipped_images += 1
    return half


def _boxes(image: ForeignImage, count: int, size: tuple[int, int]) -> np.ndarray:
    """(R, 4) float32 in pixels, clipped to the image. Raises BadRow for a box that is reversed or outside the image."""
    given = np.asarray(image.boxes_xyxy)
    if given.shape != (count, 4) or given.dtype.kind not in "fiu":
        raise BadRow(f"boxes have shape {given.shape} and type {given.dtype}; there are {count} regions")
    if not np.isfinite(given).all() or (count and np.abs(given.astype(np.float64)).max() > LARGEST_COORDINATE):
        raise BadRow("boxes hold numbers that are not finite")
    edges = np.array([size[0], size[1], size[0], size[1]], dtype=np.float32)
    boxes = given.astype(np.float32) * edges if image.is_unit else given.astype(np.float32)
    if (boxes[:, 2:] < boxes[:, :2]).any():
        raise BadRow("a box is reversed: its right or lower edge is before its left or upper one")
    if (boxes[:, :2] > edges[:2] + OUTSIDE_PX).any() or (boxes[:, 2:] < -OUTSIDE_PX).any():
        raise BadRow(f"a box lies outside of the image of {size[0]} x {size[1]} pixels")
    return boxes.clip(0, edges)


def _classes_of(image: ForeignImage, count: int, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """object_ids, object_conf, class_top_ids and class_top_probs, from those that the file has."""
    top_ids, top_probs = np.zeros((count, TOP_CLASSES), np.int16), np.zeros((count, TOP_CLASSES), np.float32)
    if image.class_probs is not None:
        probs = _shares(image.class_probs, (count, classes), "class probabilities")
        shown = min(TOP_CLASSES, classes)
        some = np.argpartition(-probs, shown - 1, axis=1)[:, :shown]
        order = np.take_along_axis(some, np.lexsort((some, -np.take_along_axis(probs, some, 1)), axis=1), 1)
        top_ids[:, :shown], top_probs[:, :shown] = order, np.take_along_axis(probs, order, 1)
    elif image.object_ids is None and classes != len(UNKNOWN_CLASSES):
        raise BadRow("it has no classes, but other images of the file have")
    ids = top_ids[:, 0] if image.object_ids is None else _ids(image.object_ids, count, classes, "object", least=0)
    conf = top_probs[:, 0] if image.object_conf is None else _confidences(image.object_conf, count, "object")
    if image.class_probs is None:
        top_ids[:, 0], top_probs[:, 0] = ids, conf
    return ids, conf, top_ids, top_probs


def _ids(values: np.ndarray, count: int, names: int, kind: str, least: int) -> np.ndarray:
    values = np.asarray(values)
    if values.shape != (count,) or values.dtype.kind not in "iu":
        raise BadRow(f"{kind} ids have shape {values.shape} and type {values.dtype}; there are {count} regions")
    if count and (values.min() < least or values.max() >= names):
        raise BadRow(f"{kind} ids go from {values.min()} to {values.max()}; there are {names:,} {kind} names")
    return values


def _confidences(values: np.ndarray | None, count: int, kind: str) -> np.ndarray:
    if values is None:
        return np.zeros(count, np.float32)
    return _shares(values, (count,), f"{kind} confidences")


def _shares(values: np.ndarray, shape: tuple[int, ...], what: str) -> np.ndarray:
    """Values in [0, 1] as float32; rounding errors are clipped."""
    values = np.asarray(values)
    if values.shape != shape or values.dtype.kind not in "fiu":
        raise BadRow(f"{what} have shape {values.shape} and type {values.dtype}; {shape} was expected")
    if not np.isfinite(values).all():
        raise BadRow(f"{what} are not finite")
    if values.size and not (values.min() >= -ROUNDING and values.max() <= 1 + ROUNDING):
        raise BadRow(f"{what} go from {values.min():.3g} to {values.max():.3g}, not from 0 to 1")
    return values.astype(np.float32).clip(0, 1)
