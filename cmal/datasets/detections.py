"""Detected boxes for referring expressions -> one COCO instances JSON, which `--detector boxes:FILE` reads.

Two published forms: MAttNet's list of detections (`image_id`, `box` [x, y, w, h], `category_id`, `score`), and a list of
expressions with their proposals (`pred_boxes` [x, y, w, h], `pred_boxes_img_id`).
Source: Yu et al. 2018, MAttNet, arXiv:1801.08186.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from cmal.errors import DataError
from cmal.io.json_stream import iterate_array
from cmal.io.rows import LeaveOut, as_object, get_box, get_id, get_list, get_text, parse_rows
from cmal.regions.coco_instances import Instances
from cmal.regions.image_ids import coco_image_id

UNKNOWN_CATEGORY = "object"
Detection = tuple[int, tuple[float, float, float, float], int, float]  # image, box, category (0 = unknown), score


def read_detections(path: Path, instances: Instances, dropped: Counter[str]) -> dict[str, list]:
    """The detections as a COCO instances JSON value, boxes with their `score`; the same box twice is kept once.

    Args:
        path: the detections.
        instances: names of categories, and the images; detections in other images are left out.
        dropped: counts what was left out.

    Raises:
        DataError: the file is of neither form, or some rows are invalid (all reported together).
    """
    found: dict[tuple[int, tuple], tuple[int, float]] = {}

    def parse(row: object) -> None:
        row = as_object(row)
        detections = _expression(row) if "pred_boxes" in row else [_detection(row)]
        for image, box, category, score in detections:
            if image not in instances.images:
                raise LeaveOut("detections in images that instances.json does not list")
            if category and category not in instances.categories:
                raise ValueError(f"its category {category} is not in instances.json")
            found.setdefault((image, box), (category, score))

    for _ in parse_rows(path, "detections", iterate_array(path), parse, dropped):
        pass
    if not found:
        raise DataError(
            f"cannot use {path} as detections",
            "it has no box in any image of instances.json",
            "give the file of this set",
        )
    return _as_instances(found, instances)


def _detection(row: dict) -> Detection:
    score = row.get("score", 1.0)
    if type(score) not in (int, float) or not 0 <= score <= 1:
        raise ValueError('"score" should be a number from 0 to 1')
    return (
        get_id(row, "image_id"),
        get_box(row, "box" if "box" in row else "bbox"),
        get_id(row, "category_id") if "category_id" in row else 0,
        float(score),
    )


def _expression(row: dict) -> list[Detection]:
    names = [get_text({"pred_boxes_img_id": name}, "pred_boxes_img_id") for name in get_list(row, "pred_boxes_img_id")]
    boxes = [get_box({"pred_boxes": box}, "pred_boxes") for box in get_list(row, "pred_boxes")]
    if len(names) != len(boxes):
        raise ValueError(f'{len(boxes)} "pred_boxes" but {len(names)} "pred_boxes_img_id"')
    return [(int(coco_image_id(name).partition(":")[2]), box, 0, 1.0) for name, box in zip(names, boxes)]


def _as_instances(found: dict, instances: Instances) -> dict[str, list]:
    by_image = sorted(found.items(), key=lambda item: item[0][0])  # stable: the file's order within an image
    unnamed = max(instances.categories, default=0) + 1
    categories = [{"id": id, "name": name} for id, name in instances.categories.items()]
    if any(not category for category, _ in found.values()):
        categories.append({"id": unnamed, "name": UNKNOWN_CATEGORY})
    images = [instances.images[number] for number in sorted({image for image, _ in found})]
    return {
        "images": [
            {"id": i.number, "file_name": i.file_name, "width": i.size_wh_px[0], "height": i.size_wh_px[1]}
            for i in images
        ],
        "categories": categories,
        "annotations": [
            {"id": id, "image_id": image, "category_id": category or unnamed, "bbox": list(box), "score": score}
            for id, ((image, box), (category, score)) in enumerate(by_image, start=1)
        ],
    }
