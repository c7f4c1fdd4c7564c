"""COCO instances JSON (also RefCOCO's and that of `scenes`): categories, and the boxes of each image.

Segmentations are ignored. Source: Lin et al. 2014, arXiv:1405.0312; files from cocodataset.org.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from cmal.errors import DataError
from cmal.io.json_stream import iterate_arrays
from cmal.io.rows import RowErrors, as_object, get_box, get_id, get_text
from cmal.regions.image_ids import image_id_for_file


@dataclass(frozen=True)
class InstanceBox:
    """One annotated object; `box_xywh_px` is [x, y, width, height] as in the file."""

    annotation_id: int
    category_id: int
    box_xywh_px: tuple[float, float, float, float]


@dataclass(frozen=True)
class InstanceImage:
    """One image of the file. `size_wh_px` is (0, 0) if the file has no size; boxes in the file's order."""

    number: int
    file_name: str
    size_wh_px: tuple[int, int]
    boxes: tuple[InstanceBox, ...]

    def image_id(self, dataset: str) -> str:
        """Its image id, e.g. `coco:139` for "coco"."""
        return image_id_for_file(dataset, self.file_name)


@dataclass(frozen=True)
class Instances:
    """A file's content: category names by number, in the file's order, and images by number, in the file's order."""

    categories: dict[int, str]
    images: dict[int, InstanceImage]


def read_instances(path: Path) -> Instances:
    """Reads an instances JSON; its arrays may stand in any order.

    Raises:
        DataError: the file is not of this form, or some rows are invalid: a missing key, a malformed box, a repeated id,
            an annotation of an image or category that is not listed (all reported together with their rows).
    """
    path = Path(path)
    reader = _InstancesReader(path)
    for key, row in iterate_arrays(path):
        reader.take(key, row)
    return reader.finish()


class _InstancesReader:
    """Gathers rows of the three arrays, then joins them."""

    def __init__(self, path: Path):
        self.path, self.errors = path, RowErrors(path, "COCO instances")
        self.rows: Counter[str] = Counter()
        self.categories: dict[int, str] = {}
        self.images: dict[int, tuple[str, tuple[int, int]]] = {}
        self.boxes: dict[int, list[InstanceBox]] = {}
        self.row_of: dict[int, int] = {}  # annotation id -> its row

    def take(self, key: str, row: object) -> None:
        self.rows[key] += 1
        parse = {"categories": self._category, "images": self._image, "annotations": self._annotation}.get(key)
        try:
            if parse:
                parse(as_object(row))
        except ValueError as error:
            self.errors.add(f"{key} row {self.rows[key]:,}", error)

    def _category(self, row: dict) -> None:
        _add_new(self.categories, get_id(row, "id"), get_text(row, "name"))

    def _image(self, row: dict) -> None:
        size = tuple(row[name] if type(row.get(name)) is int and row[name] > 0 else 0 for name in ("width", "height"))
        _add_new(self.images, get_id(row, "id"), (get_text(row, "file_name"), size if all(size) else (0, 0)))

    def _annotation(self, row: dict) -> None:
        box = InstanceBox(get_id(row, "id"), get_id(row, "category_id"), get_box(row))
        _add_new(self.row_of, box.annotation_id, self.rows["annotations"])
        self.boxes.setdefault(get_id(row, "image_id"), []).append(box)

    def finish(self) -> Instances:
        for number, boxes in self.boxes.items():
            if number not in self.images:
                for box in boxes:
                    self._add_error(box, f'its image {number} is not in "images"')
            for box in boxes:
                if box.category_id not in self.categories:
                    self._add_error(box, f'its category {box.category_id} is not in "categories"')
        self.errors.raise_if_any()
        if not self.images:
            raise DataError(
                f"cannot use {self.path} as COCO instances",
                'it lists no images (key "images")',
                "give an instances JSON, such as instances_val2017.json",
            )
        images = {
            number: InstanceImage(number, name, size, tuple(self.boxes.get(number, ())))
            for number, (name, size) in self.images.items()
        }
        return Instances(self.categories, images)

    def _add_error(self, box: InstanceBox, reason: str) -> None:
        self.errors.add(f"annotations row {self.row_of[box.annotation_id]:,}", reason)


def _add_new(table: dict, id: int, value: object) -> None:
    if id in table:
        raise ValueError(f"id {id} appears twice")
    table[id] = value
