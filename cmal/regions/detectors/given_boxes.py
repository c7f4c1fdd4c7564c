"""Boxes and categories of a COCO instances json, by our image ids."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cmal.data.image_ids import guess_dataset, image_id_for_file
from cmal.errors import DataError, list_faults
from cmal.files import read_json


@dataclass(frozen=True)
class GivenBoxes:
    """What an instances file says.

    Attributes:
        class_names: the categories, in the order of their ids.
        of_image: image id -> (boxes (R, 4) float64 xyxy pixels, classes (R,) int64, (width, height) as the file has it).
    """

    class_names: tuple[str, ...]
    of_image: dict[str, tuple[np.ndarray, np.ndarray, tuple[int, int]]]


def read_given_boxes(path: Path, dataset: str | None = None) -> GivenBoxes:
    """Reads an instances json; all faults of the file are told together.

    Args:
        path: the file.
        dataset: whose images these are; None is guessed from the file's folder.

    Raises:
        DataError: not such a file, or rows in it that cannot be used.
    """
    value = read_json(path)
    dataset = dataset or guess_dataset(Path(path).parent)
    faults: list[str] = []
    try:
        categories = sorted(value["categories"], key=lambda row: row["id"])
        class_of = {row["id"]: number for number, row in enumerate(categories)}
        names = tuple(str(row["name"]) for row in categories)
        images = {row["id"]: row for row in value["images"]}
        rows_of: dict[Any, list] = {image_id: [] for image_id in images}
        for number, row in enumerate(value["annotations"]):
            fault = _fault(row, images, class_of)
            if fault:
                faults.append(f"annotations[{number}]: {fault}")
            else:
                rows_of[row["image_id"]].append((*map(float, row["bbox"]), class_of[row["category_id"]]))
        of_image = {
            image_id_for_file(dataset, image["file_name"]): _arrays(rows_of[key], image)
            for key, image in images.items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"cannot read boxes from {path}",
            f"it is not a COCO instances file: {error!r}",
            "give a json with images, annotations and categories",
        ) from error
    if faults:
        raise DataError(f"cannot read boxes from {path}", list_faults(faults), "mend or leave out these rows")
    return GivenBoxes(names, of_image)


def _fault(row: Any, images: dict, class_of: dict) -> str:
    box = row.get("bbox")
    if row.get("image_id") not in images:
        return f"image_id {row.get('image_id')!r} is not among the images"
    if row.get("category_id") not in class_of:
        return f"category_id {row.get('category_id')!r} is not among the categories"
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(number, int | float) for number in box):
        return f"bbox {box!r} is not [x, y, width, height]"
    if not np.isfinite(box).all() or box[2] < 0 or box[3] < 0:
        return f"bbox {box!r} has no size"
    return ""


def _arrays(rows: list, image: dict) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    table = np.array(rows, np.float64).reshape(-1, 5)
    boxes = np.concatenate([table[:, :2], table[:, :2] + table[:, 2:4]], axis=1)  # xywh -> xyxy
    return boxes, table[:, 4].astype(np.int64), (int(image.get("width") or 0), int(image.get("height") or 0))
