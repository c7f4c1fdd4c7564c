"""One image, one id, whatever its file is called."""

import json

import pytest

from cmal.errors import DataError
from cmal.regions.image_ids import (
    coco_image_id,
    flickr30k_image_id,
    guess_dataset,
    image_id_for_file,
    nlvr2_image_id,
    vg_image_id,
)


@pytest.mark.parametrize(
    "name",
    [
        139,
        "139",
        "000000000139.jpg",
        "val2017/000000000139.jpg",
        "COCO_val2014_000000000139.jpg",
        "COCO_train2014_000000000139_16.jpg",
    ],
)
def test_coco_photo_has_one_id_under_its_2014_and_2017_names(name):
    assert coco_image_id(name) == "coco:139"


def test_flickr_id_with_and_without_ending_is_the_same():
    assert (
        flickr30k_image_id("36979.jpg") == flickr30k_image_id("36979") == flickr30k_image_id(36979) == "flickr30k:36979"
    )


def test_visual_genome_folder_does_not_matter():
    assert vg_image_id("VG_100K_2/2407890.jpg") == vg_image_id(2407890) == "vg:2407890"


def test_nlvr2_name():
    assert nlvr2_image_id("images/dev/dev-850-0-img0.png") == "nlvr2:dev-850-0-img0"


@pytest.mark.parametrize(
    "wrong",
    [lambda: coco_image_id("dog.jpg"), lambda: flickr30k_image_id("dog.jpg"), lambda: nlvr2_image_id("dev-1-img0")],
)
def test_a_name_without_a_number_is_a_message(wrong):
    with pytest.raises(DataError, match="cannot derive an image id"):
        wrong()


@pytest.mark.parametrize(
    ("dataset", "path", "image_id"),
    [
        ("coco", "val2014/COCO_val2014_000000000139.jpg", "coco:139"),
        ("scenes", "train/000012.jpg", "scenes:train/000012"),
        ("scenes", "train/000012", "scenes:train/000012"),
        ("mine", "a/b.c.JPG", "mine:a/b.c"),
        ("coco", "cover.jpg", "coco:cover"),  # a stray file: an id of its own
    ],
)
def test_file_below_a_folder(dataset, path, image_id):
    assert image_id_for_file(dataset, path) == image_id


@pytest.mark.parametrize(
    "path", ["../etc/passwd", "/etc/passwd", "a/../../b.jpg", "", "a\\b.jpg", "a\x00.jpg", "a\x1b[31m.jpg"]
)
def test_paths_out_of_the_folder_are_refused(path):
    with pytest.raises(DataError, match="plain path below"):
        image_id_for_file("mine", path)


@pytest.mark.parametrize(
    ("folder", "dataset"),
    [
        ("x/val2017", "coco"),
        ("flickr30k-images", "flickr30k"),
        ("vg/VG_100K", "vg"),
        ("coco/images", "coco"),
        ("holiday", "holiday"),
        ("holiday/images", "holiday"),
    ],
)
def test_data_set_is_told_by_the_folder_name(tmp_path, folder, dataset):
    (tmp_path / folder).mkdir(parents=True)
    assert guess_dataset(tmp_path / folder) == dataset


def test_data_set_is_told_by_a_folder_within(tmp_path):
    (tmp_path / "photos" / "train2014").mkdir(parents=True)
    assert guess_dataset(tmp_path / "photos") == "coco"


def test_our_manifest_above_wins_over_names_and_a_foreign_one_is_passed_over(tmp_path):
    images = tmp_path / "thing" / "train2014"
    images.mkdir(parents=True)
    manifest = tmp_path / "thing" / "manifest.json"
    manifest.write_text(json.dumps({"dataset": "other", "image_ids": "other"}))
    assert guess_dataset(images) == "coco"
    manifest.write_text(json.dumps({"format": "cmal-prepared", "dataset": "scenes-rec", "image_ids": "scenes"}))
    assert guess_dataset(images) == "scenes"


def test_a_flickr8k_photograph_has_the_id_of_its_flickr30k_copy():
    assert flickr30k_image_id("667626_18933d713e.jpg") == flickr30k_image_id("667626.jpg") == "flickr30k:667626"
    with pytest.raises(DataError):
        flickr30k_image_id("667626_b.jpg")


def test_a_folder_of_flickr8k_names_is_flickr30k(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "667626_18933d713e.jpg").touch()
    assert guess_dataset(folder) == "flickr30k"
    (folder / "holiday.jpg").touch()
    assert guess_dataset(folder) == tmp_path.name
