"""Boxes and categories of a COCO instances json, by image id."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cmal.regions.coco_instances import InstanceImage, read_instances
from cmal.regions.image_ids import guess_dataset


@dataclass(frozen=True)
class GivenBoxes:
    """Contents of an instances file.

    Attributes:
        class_names: the categories, in the order of their ids.
        of_image: image id -> (boxes (R, 4) float64 xyxy pixels, classes (R,) int64, (width, height) in the file,
            or zeros if it is missing), in the order of the file.
    """

    class_names: tuple[str, ...]
    of_image: dict[str, tuple[np.ndarray, np.ndarray, tuple[int, int]]]


def read_given_boxes(path: Path, dataset: str | None = None) -> GivenBoxes:
    """Reads an instances json.

    Args:
        path: the file.
        dataset: data set of the images; None: guessed from the file's folder.

    Raises:
        DataError: not an instances file; lists all rows that cannot be used.
    """
    instances = read_instances(path)
    dataset = dataset or guess_dataset(Path(path).parent)
    numbers = sorted(instances.categories)
    class_of = {number: index for index, number in enumerate(numbers)}
    return GivenBoxes(
        tuple(instances.categories[number] for number in numbers),
        {image.image_id(dataset): _arrays(image, class_of) for image in instances.images.values()},
    )


def _arrays(image: InstanceImage, class_of: dict[int, int]) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    xywh = np.array([box.box_xywh_px for box in image.boxes], np.float64).reshape(-1, 4)
    boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)  # xywh -> xyxy
    return boxes, np.array([class_of[box.category_id] for box in image.boxes], np.int64), image.size_wh_px
