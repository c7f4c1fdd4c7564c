"""COCO instances JSON -> categories, and boxes by image."""

import json

import pytest

from cmal.errors import DataError
from cmal.regions.coco_instances import InstanceBox, read_instances

IMAGE = {"id": 139, "file_name": "000000000139.jpg", "width": 640, "height": 426}
DOG = {"id": 18, "name": "dog", "supercategory": "animal"}


def annotation(number, **changes):
    return {
        "id": number,
        "image_id": 139,
        "category_id": 18,
        "bbox": [1, 2, 3.5, 4],
        "segmentation": [[1, 2, 3]],
    } | changes


def read(tmp_path, annotations, **parts):
    path = tmp_path / "instances_val2017.json"
    path.write_text(json.dumps({"annotations": annotations, "images": [IMAGE], "categories": [DOG]} | parts))
    return read_instances(path)


def test_boxes_stand_in_the_order_of_the_file(tmp_path):
    found = read(tmp_path, [annotation(9), annotation(3, bbox=[0, 0, 1, 1])])
    assert found.categories == {18: "dog"}
    image = found.images[139]
    assert image.boxes == (InstanceBox(9, 18, (1, 2, 3.5, 4)), InstanceBox(3, 18, (0, 0, 1, 1)))
    assert (image.image_id("coco"), image.size_wh_px) == ("coco:139", (640, 426))


def test_an_image_without_boxes_is_kept(tmp_path):
    assert read(tmp_path, []).images[139].boxes == ()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"bbox": [1, 2, 3]}, r'"bbox" should be \[x, y, width, height\]'),
        ({"bbox": [1, 2, -3, 4]}, "negative width"),
        ({"bbox": [1, 2, 1e12, 4]}, r'"bbox" should be'),
        ({"bbox": [1, 2, "3", 4]}, r'"bbox" should be'),
        ({"category_id": 5}, 'category 5 is not in "categories"'),
        ({"image_id": 5}, 'image 5 is not in "images"'),
        ({"id": 1 << 70}, "whole number"),
    ],
)
def test_a_faulty_annotation_is_named_by_its_row(tmp_path, changes, reason):
    with pytest.raises(DataError, match=f"annotations row 2: .*{reason}"):
        read(tmp_path, [annotation(1), annotation(2, **changes)])


def test_a_file_without_images_is_no_instances_file(tmp_path):
    with pytest.raises(DataError, match="it lists no images"):
        read(tmp_path, [], images=[])


def test_real_rows_are_all_read(real_data):
    for name, boxes in (("val2017", 303), ("train2017", 320)):
        found = read_instances(real_data / "coco" / "annotations" / f"instances_{name}.json")
        assert len(found.categories) == 80
        assert (len(found.images), sum(len(image.boxes) for image in found.images.values())) == (40, boxes)
