"""COCO captions JSON -> records."""

import json
from collections import Counter

import pytest

from cmal.data.records import ImageTextRecord
from cmal.datasets.coco_captions import flickr_photo, read_captions, read_images
from cmal.errors import DataError

IMAGE = {
    "id": 139,
    "file_name": "COCO_val2014_000000000139.jpg",
    "flickr_url": "http://farm9.x.com/8/5896644212_a3_z.jpg",
}


def read(tmp_path, annotations, images=(IMAGE,)):
    path, dropped = tmp_path / "captions_val2014.json", Counter()
    path.write_text(json.dumps({"annotations": annotations, "images": list(images)}))  # order of keys does not matter
    found = list(read_captions(path, "coco-captions", read_images(path, "coco", dropped), dropped))
    return found, dict(dropped)


def test_a_caption_becomes_a_record_with_its_spaces_put_right(tmp_path):
    found, dropped = read(tmp_path, [{"id": 7, "image_id": 139, "caption": " A dog\n runs . "}])
    assert found == [ImageTextRecord("coco-captions:7", "coco:139", "A dog runs .")]
    assert dropped == {}


def test_empty_captions_and_repeated_rows_are_counted(tmp_path):
    row = {"id": 7, "image_id": 139, "caption": "A dog"}
    found, dropped = read(tmp_path, [row, row, {"id": 8, "image_id": 139, "caption": " \n"}])
    assert len(found) == 1
    assert dropped == {"rows that repeat another row": 1, "empty captions": 1}


def test_all_faults_of_a_file_are_reported_together_with_their_rows(tmp_path):
    rows = [
        {"id": 1, "image_id": 139, "caption": "fine"},
        {"id": 2, "image_id": 5, "caption": "a"},
        {"image_id": 139, "caption": "b"},
        {"id": 4, "image_id": 139, "caption": 5},
        {"id": 1, "image_id": 139, "caption": "another"},
        "no object",
        {"id": 7, "image_id": 139, "caption": "half \ud800 a character"},
        {"id": -8, "image_id": 139, "caption": "c"},
        {"id": True, "image_id": 139, "caption": "c"},
    ]
    with pytest.raises(DataError) as error:
        read(tmp_path, rows)
    assert str(error.value).splitlines() == [
        f"cannot use 8 rows of {tmp_path}/captions_val2014.json as COCO captions",
        '  annotations row 2: its image 5 is not in "images"',
        '  annotations row 3: key "id" is missing',
        '  annotations row 4: "caption" should be a text, found 5',
        "  annotations row 5: id 1 appears twice, with different content",
        "  annotations row 6: should be an object, found 'no object'",
        '  annotations row 7: "caption" holds half a character (a lone surrogate)',
        '  annotations row 8: "id" should be a whole number, found -8',
        '  annotations row 9: "id" should be a whole number, found True',
        "  download the file again, or fix or delete these rows",
    ]


def test_twenty_faults_are_shown_and_the_rest_counted(tmp_path):
    with pytest.raises(DataError) as error:
        read(tmp_path, [{"id": n} for n in range(5000)])
    assert "annotations row 20:" in str(error.value)
    assert "... and 4,980 more" in str(error.value)


def test_control_characters_never_reach_a_record(tmp_path):
    found, _ = read(tmp_path, [{"id": 7, "image_id": 139, "caption": "a \x1b[31mred\x00 dog\u2028"}])
    assert found[0].caption == "a [31mred dog"


def test_number_of_the_flickr_photo():
    assert flickr_photo(IMAGE["flickr_url"]) == "5896644212"
    assert flickr_photo(None) == flickr_photo("http://x.com/dog.jpg") == ""


def test_real_rows_are_all_read(real_data):
    for name, images, captions in (("val2017", 98, 491), ("train2017", 40, 200)):
        path, dropped = real_data / "coco" / "annotations" / f"captions_{name}.json", Counter()
        table = read_images(path, "coco", dropped)
        records = list(read_captions(path, "coco-captions", table, dropped))
        assert (len(table), len(records), len({r.image_id for r in records})) == (images, captions, images)
        assert not dropped
