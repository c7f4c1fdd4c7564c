"""Image ids of foreign keys, and what an image must be to be taken."""

from __future__ import annotations

import numpy as np
import pytest

from cmal.errors import DataError
from cmal.regions.imports.foreign import BadRow, ForeignImage, Tally, image_id_of, to_regions


@pytest.mark.parametrize(
    ("key", "image_id"),
    [
        ("COCO_train2014_000000391895", "coco:391895"),
        ("val2014/COCO_val2014_000000000139.jpg", "coco:139"),
        ("coco_test2015_000000000042.npz", "coco:42"),
        ("visual_grounding_coco_gt_000000580668.npz", "coco:580668"),
        ("flickr30k_000000036979.npz", "flickr30k:36979"),
        ("vg_000002407890.npz", "vg:2407890"),
        ("nlvr2_dev-850-0-img0.npz", "nlvr2:dev-850-0-img0"),
        ("train-10171-0-img1", "nlvr2:train-10171-0-img1"),
        ("scenes:train/000012", "scenes:train/000012"),
    ],
)
def test_keys_that_tell_their_data_set(key, image_id):
    assert image_id_of(key, None) == image_id


@pytest.mark.parametrize(
    ("key", "dataset", "image_id"),
    [
        ("391895", "coco", "coco:391895"),
        ("000000391895.jpg", "coco", "coco:391895"),
        ("2407890", "vg", "vg:2407890"),
        ("36979.jpg", "flickr30k", "flickr30k:36979"),
        ("folder/photo.one", "mine", "mine:folder/photo.one"),
    ],
)
def test_other_keys_take_the_named_data_set(key, dataset, image_id):
    assert image_id_of(key, dataset) == image_id


def test_keys_that_lead_astray_are_refused():
    with pytest.raises(BadRow):
        image_id_of("../../etc/passwd", "mine")
    with pytest.raises(BadRow):
        image_id_of("a\nb", "mine")
    with pytest.raises(DataError, match="cannot determine the data set"):
        image_id_of("xvg_12", None)  # ends like a name of Visual Genome's, and is none


def an_image(**changes) -> ForeignImage:
    whole = {
        "features": np.zeros((2, 3), np.float32),
        "boxes_xyxy": np.array([[0, 0, 0.5, 0.25], [0, 0, 1, 1]], np.float32),
        "image_wh_px": None,
        "is_unit": True,
        "object_ids": np.array([0, 1]),
        "object_conf": np.array([0.5, 0.25], np.float32),
    }
    return ForeignImage("k", "line 1", **{**whole, **changes})


def convert(image: ForeignImage, sizes=None, classes: int = 2, tally: Tally | None = None):
    return to_regions(image, "coco:1", classes, 0, sizes or {}, tally or Tally())


def test_shares_of_the_image_become_pixels_by_its_size():
    assert convert(an_image(), {"coco:1": (640, 480)}).boxes_xyxy_px[0].tolist() == [0, 0, 320, 120]


def test_without_a_size_shares_become_a_frame_of_1000_and_are_counted():
    tally = Tally()
    regions = convert(an_image(), tally=tally)
    assert regions.image_wh_px == (1000, 1000) and regions.boxes_xyxy_px[0].tolist() == [0, 0, 500, 250]
    assert tally.unknown_sizes == 1


def test_the_ten_likeliest_classes_come_in_order():
    probs = np.full((2, 12), 0.01, np.float32)
    probs[0, [3, 7]] = [0.2, 0.6]
    probs[1, 11] = 0.9
    regions = convert(an_image(class_probs=probs, object_ids=None, object_conf=None), classes=12)
    assert regions.object_ids.tolist() == [7, 11]
    assert regions.class_top_ids[0].tolist() == [7, 3, 0, 1, 2, 4, 5, 6, 8, 9]
    np.testing.assert_allclose(regions.object_conf, [0.6, 0.9])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"is_unit": False}, "neither the file nor the list of sizes"),
        ({"image_wh_px": (0, 5)}, "size is 0 x 5"),
        ({"features": np.zeros(3, np.float32)}, "features have shape"),
        ({"boxes_xyxy": np.zeros((3, 4))}, "there are 2 regions"),
        ({"boxes_xyxy": np.full((2, 4), np.inf)}, "not finite"),
        ({"object_ids": np.array([0, 2])}, "object ids go from 0 to 2"),
        ({"object_ids": np.array([-1, 1])}, "object ids go from -1"),
        ({"object_ids": np.array([0.5, 1])}, "type float64"),
        ({"object_conf": np.array([np.nan, 1])}, "not finite"),
        ({"object_ids": None}, "it has no classes, but other images of the file have"),
        ({"class_probs": np.zeros((2, 5))}, "class probabilities have shape"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(changes, reason):
    with pytest.raises(BadRow, match=reason):
        convert(an_image(**changes))
