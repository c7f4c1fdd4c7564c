"""refs(...).p with instances.json -> one record a sentence."""

import io
import json
import pickle
import struct
from collections import Counter

import pytest

from cmal.datasets.detections import read_detections
from cmal.datasets.refer import read_refs
from cmal.errors import DataError
from cmal.regions.coco_instances import read_instances


def pickled_by_python_2(value):
    """The bytes of Python 2.7's `cPickle.dump(value, file, 2)`: byte texts, longs, memo numbers from 1."""
    out, memo = io.BytesIO(), iter(range(1, 250))

    def put(value):
        if isinstance(value, list | dict):
            opening, closing = (b"]", b"e") if isinstance(value, list) else (b"}", b"u")
            out.write(opening + b"q" + bytes([next(memo)]) + b"(")
            for item in value.items() if isinstance(value, dict) else value:
                for part in item if isinstance(value, dict) else (item,):
                    put(part)
            out.write(closing)
        elif isinstance(value, bytes):
            out.write(b"U" + bytes([len(value)]) + value + b"q" + bytes([next(memo)]))
        elif isinstance(value, str):
            text = value.encode()
            out.write(b"X" + struct.pack("<i", len(text)) + text + b"q" + bytes([next(memo)]))
        elif value > 1 << 31:
            out.write(b"\x8a" + bytes([9]) + value.to_bytes(9, "little"))
        else:
            out.write(b"J" + struct.pack("<i", value))

    out.write(b"\x80\x02")
    put(value)
    out.write(b".")
    return out.getvalue()


def ref(number=0, split="train", ann_id=1719310, sentences=("the lady", "blue shirt"), **changes):
    rows = [{"sent_id": number * 10 + k, "sent": s, "raw": s.upper(), "tokens": []} for k, s in enumerate(sentences)]
    name = "COCO_train2014_000000581857_16.jpg"
    return {
        "ref_id": number, "ann_id": ann_id, "image_id": 581857, "split": split, "sentences": rows, "file_name": name
    } | changes  # fmt: skip


@pytest.fixture
def instances(tmp_path):
    boxes = [(1719310, [10, 20, 30, 40]), (7, [1, 2, 3, 4])]
    path = tmp_path / "instances.json"
    path.write_text(
        json.dumps(
            {
                "images": [{"id": 581857, "file_name": "COCO_train2014_000000581857.jpg", "width": 640, "height": 480}],
                "categories": [{"id": 1, "name": "person"}],
                "annotations": [{"id": i, "image_id": 581857, "category_id": 1, "bbox": b} for i, b in boxes],
            }
        )
    )
    return read_instances(path)


def read(tmp_path, instances, refs, dropped=None):
    path = tmp_path / "refs(unc).p"
    path.write_bytes(refs if isinstance(refs, bytes) else pickle.dumps(refs, 2))
    return list(read_refs(path, instances, "refcoco", "coco", Counter() if dropped is None else dropped))


def test_one_record_a_sentence_with_all_boxes_of_the_image(tmp_path, instances):
    found = read(tmp_path, instances, [ref(5)])
    assert [(split, record.id, record.expression) for split, record in found] == [
        ("train", "refcoco:50", "the lady"),
        ("train", "refcoco:51", "blue shirt"),
    ]
    record = found[0][1]
    assert (record.ref_id, record.image_id) == ("5", "coco:581857")
    assert record.box_xywh_px == (10, 20, 30, 40)
    assert record.candidate_boxes_xywh_px == ((10, 20, 30, 40), (1, 2, 3, 4))


def test_a_ref_of_test_ab_counts_for_both(tmp_path, instances):
    found = read(tmp_path, instances, [ref(1, "testAB", sentences=("a",)), ref(2, "testA", sentences=("b",))])
    assert [(split, record.id) for split, record in found] == [
        ("testA", "refcoco:10"), ("testB", "refcoco:10"), ("testA", "refcoco:20")
    ]  # fmt: skip


def test_a_pickle_as_python_2_wrote_it(tmp_path, instances):
    sentence = {b"sent_id": 3, b"sent": "café lady".encode(), "tokens": [b"lady"]}
    row = {
        b"ref_id": 5,
        "ann_id": 1719310,
        b"image_id": 581857,
        b"split": b"val",
        "sentences": [sentence],
        b"x": 1 << 40,
    }
    ((split, record),) = read(tmp_path, instances, pickled_by_python_2([row]))
    assert (split, record.expression, record.id) == ("val", "café lady", "refcoco:3")


def test_faults_are_reported_together_with_their_refs(tmp_path, instances):
    refs = [
        ref(0),
        ref(1, "test5"),
        ref(2, ann_id=99),
        ref(3, image_id=4),
        {"ref_id": 4},
        5,
        ref(0, sentences=("other",)),
    ]
    with pytest.raises(DataError) as error:
        read(tmp_path, instances, refs)
    message = str(error.value)
    assert 'ref 2: "split" should be one of' in message
    assert "ref 3: its annotation 99 is not among those of image 581857" in message
    assert "ref 4: its image 4 is not in instances.json" in message
    assert 'ref 5: key "split" is missing' in message
    assert "ref 6: should be an object" in message
    assert "ref 7: id 0 appears twice" in message


def test_empty_expressions_are_counted(tmp_path, instances):
    dropped = Counter()
    found = read(tmp_path, instances, [ref(0, sentences=("", "a"))], dropped)
    assert len(found) == 1
    assert dropped == {"empty expressions": 1}


def test_a_pickle_that_is_no_list_is_a_message(tmp_path, instances):
    with pytest.raises(DataError, match="holds a dict, not a list"):
        read(tmp_path, instances, {"a": 1})


def test_the_published_example_row_is_read(tmp_path, real_data):
    example = json.loads((real_data / "refcoco" / "official_schema_example.json").read_text())
    row, image, box = example["ref"], example["instances_image"], example["instances_annotation"]
    path = tmp_path / "instances.json"
    image, box = image | {"id": row["image_id"]}, box | {"image_id": row["image_id"], "id": row["ann_id"]}
    path.write_text(json.dumps({"images": [image], "annotations": [box], "categories": [{"id": 18, "name": "dog"}]}))
    found = read(tmp_path, read_instances(path), [row])
    assert [r.expression for _, r in found] == ["the lady with the blue shirt", "lady with back to us", "blue shirt"]
    assert found[0][1].box_xywh_px == (263.87, 216.88, 21.13, 15.17)


def test_mattnet_detections_become_an_instances_file(tmp_path, instances):
    rows = [
        {"det_id": 0, "image_id": 581857, "box": [1, 2, 3, 4], "category_id": 1, "score": 0.9},
        {"det_id": 1, "image_id": 581857, "box": [1, 2, 3, 4], "category_id": 1, "score": 0.8},  # the same box again
        {"det_id": 2, "image_id": 6, "box": [1, 2, 3, 4], "category_id": 1, "score": 0.8},  # of another set
    ]
    path, dropped = tmp_path / "dets.json", Counter()
    path.write_text(json.dumps(rows))
    found = read_detections(path, instances, dropped)
    assert found["annotations"] == [{"id": 1, "image_id": 581857, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.9}]
    assert [image["id"] for image in found["images"]] == [581857]
    assert dropped == {"detections in images that instances.json does not list": 1}


def test_real_proposals_are_read(tmp_path, real_data):
    numbers = (266240, 221187, 395271)
    path = tmp_path / "instances.json"
    images = [{"id": n, "file_name": f"COCO_train2014_{n:012d}.jpg", "width": 640, "height": 480} for n in numbers]
    path.write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    source = real_data / "refcoco" / "testA_refcoco_unc_dets.json"
    found = read_detections(source, read_instances(path), Counter())
    expected = {(n, tuple(map(float, b))) for row in json.loads(source.read_text())
                for n in numbers if f"{n:012d}_" in row["pred_boxes_img_id"][0] for b in row["pred_boxes"]}  # fmt: skip
    assert {(a["image_id"], tuple(a["bbox"])) for a in found["annotations"]} == expected
    assert {image["id"] for image in found["images"]} == set(numbers)
    (tmp_path / "detections.json").write_text(json.dumps(found))
    assert len(read_instances(tmp_path / "detections.json").images) == 3
