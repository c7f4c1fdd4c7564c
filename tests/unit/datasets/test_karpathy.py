"""Karpathy's split files -> (split, record)."""

import json
from collections import Counter

import pytest

from cmal.data.records import ImageTextRecord
from cmal.datasets.karpathy import read_karpathy
from cmal.errors import DataError


def image(split, number, *captions):
    sentences = [{"raw": text, "sentid": number * 10 + k, "tokens": []} for k, text in enumerate(captions)]
    return {"split": split, "filename": f"COCO_val2014_{number:012d}.jpg", "cocoid": number, "sentences": sentences}


def read(tmp_path, images, image_ids="coco"):
    path = tmp_path / "dataset_coco.json"
    path.write_text(json.dumps({"images": images, "dataset": "coco"}))
    return list(read_karpathy(path, "coco-captions", image_ids, Counter()))


def test_restval_is_training_data(tmp_path):
    found = read(tmp_path, [image("restval", 1, "a"), image("train", 2, "b"), image("test", 3, "c")])
    assert [split for split, _ in found] == ["train", "train", "test"]
    assert found[0][1] == ImageTextRecord("coco-captions:10", "coco:1", "a")


def test_all_captions_of_an_image_are_kept_in_their_order(tmp_path):
    captions = [f"caption {n}" for n in range(7)]
    assert [record.caption for _, record in read(tmp_path, [image("test", 1, *captions)])] == captions


def test_scenes_images_are_named_by_folder_and_file(tmp_path):
    row = image("val", 1, "a") | {"filepath": "val", "filename": "000012.jpg"}
    assert read(tmp_path, [row], "scenes")[0][1].image_id == "scenes:val/000012"


def test_unknown_splits_and_repeated_images_are_reported_together(tmp_path):
    with pytest.raises(DataError) as error:
        read(tmp_path, [image("dev", 1, "a"), image("val", 2, "b"), image("test", 2, "c")])
    assert 'images row 1: "split" should be one of train, restval, val, test, found "dev"' in str(error.value)
    assert "images row 3: id coco:2 appears twice" in str(error.value)


def test_real_rows_are_all_read(real_data):
    dropped = Counter()
    coco = list(read_karpathy(real_data / "coco" / "derived" / "dataset_coco.json", "coco-captions", "coco", dropped))
    images = {split: len({r.image_id for s, r in coco if s == split}) for split in ("train", "val", "test")}
    assert (len(coco), images) == (691, {"train": 64 + 38, "val": 21, "test": 15})
    path = real_data / "flickr30k" / "derived" / "dataset_flickr30k.json"
    flickr = list(read_karpathy(path, "flickr30k", "flickr30k", dropped))
    images = {split: len({r.image_id for s, r in flickr if s == split}) for split in ("train", "val", "test")}
    assert (len(flickr), images) == (1790, {"train": 104, "val": 117, "test": 137})
    assert not dropped
