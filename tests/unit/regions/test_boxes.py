"""`boxes:FILE`: the file's boxes, classes and order, described by another detector or by a timm backbone."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from cmal.errors import CheckpointError, CmalError
from cmal.regions.detectors import build_detector
from cmal.regions.detectors.boxes import BoxesDetector
from cmal.regions.detectors.given_boxes import read_given_boxes
from cmal.regions.detectors.timm_features import TimmFeatures
from cmal.regions.extract import extract_regions, read_failures
from cmal.regions.store.store import RegionStore
from cmal.regions.types import Regions

INSTANCES = {
    "images": [
        {"id": 7, "file_name": "train/000007.jpg", "width": 40, "height": 20},
        {"id": 8, "file_name": "train/000008.jpg", "width": 40, "height": 20},
    ],
    "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 18, "bbox": [10, 5, 20, 10]},
        {"id": 2, "image_id": 7, "category_id": 3, "bbox": [30, 0, 20, 10]},
    ],
}


@pytest.fixture
def instances(tmp_path):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(INSTANCES))
    return path


class CornerColour:
    """Describes a box by the colour of its top left pixel; knows one attribute."""

    name, weights_sha256, feature_size = "corner", "w", 3
    class_names, attribute_names = ("x",), ("shiny",)

    def regions_at(self, images, boxes_xyxy_px):
        return [self._one(image, boxes) for image, boxes in zip(images, boxes_xyxy_px)]

    def _one(self, image, boxes):
        count = len(boxes)
        corner = boxes[:, :2].astype(int)
        zeros, top = np.zeros(count), np.zeros((count, 10))
        size = (image.shape[1], image.shape[0])
        return Regions(image[corner[:, 1], corner[:, 0]], boxes, zeros, zeros, zeros, zeros + 0.5, top, top, size)


def gradient(height: int, width: int) -> np.ndarray:
    """A picture whose pixel at (x, y) is (x, y, 0)."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y, 0 * x], 2).astype(np.uint8)


def test_classes_boxes_and_order_are_the_files(instances):
    detector = BoxesDetector(read_given_boxes(instances, "scenes"), CornerColour(), instances)
    (one,) = detector.detect_named(["scenes:train/000007"], [gradient(20, 40)])
    assert detector.class_names == ("car", "dog"), "in the order of the category ids"
    assert one.object_ids.tolist() == [1, 0] and one.object_conf.tolist() == [1, 1]
    assert one.boxes_xyxy_px.tolist() == [[10, 5, 30, 15], [30, 0, 40, 10]], "the second is cut at the border"
    assert one.features.tolist() == [[10, 5, 0], [30, 0, 0]]
    assert one.class_top_ids[0, 0] == 1 and one.class_top_probs[0].tolist() == [1] + [0] * 9
    assert detector.attribute_names == ("shiny",) and one.attribute_conf.tolist() == [0.5, 0.5]


def test_boxes_follow_a_picture_that_was_resized(instances):
    detector = BoxesDetector(read_given_boxes(instances, "scenes"), CornerColour(), instances)
    (one,) = detector.detect_named(["scenes:train/000007"], [gradient(40, 80)])
    assert one.boxes_xyxy_px[0].tolist() == [20, 10, 60, 30]


def test_an_image_without_boxes_has_no_region_and_one_that_is_not_listed_fails(instances, tmp_path):
    from PIL import Image

    files = []
    for number in (7, 8, 9):
        files.append((f"scenes:train/{number:06d}", tmp_path / f"{number}.png"))
        Image.fromarray(gradient(20, 40)).save(files[-1][1])
    detector = BoxesDetector(read_given_boxes(instances, "scenes"), CornerColour(), instances)
    summary = extract_regions(files, detector, tmp_path / "s")
    assert (summary.images, summary.failed) == (2, 1)
    store = RegionStore.open(tmp_path / "s")
    assert [len(store[f"scenes:train/{number:06d}"]) for number in (7, 8)] == [2, 0]
    assert read_failures(tmp_path / "s")[0]["reason"] == "boxes:instances.json by corner has no entry for it"


def test_a_changed_boxes_file_is_another_setting(instances):
    first = BoxesDetector(read_given_boxes(instances, "scenes"), CornerColour(), instances).settings
    instances.write_text(json.dumps({**INSTANCES, "annotations": INSTANCES["annotations"][:1]}))
    assert BoxesDetector(read_given_boxes(instances, "scenes"), CornerColour(), instances).settings != first


def test_features_is_required_if_the_categories_are_not_those_of_scenes(tmp_path):
    other = {**INSTANCES, "categories": [{"id": 18, "name": "zebra"}, {"id": 3, "name": "sink"}]}
    (tmp_path / "i.json").write_text(json.dumps(other))
    with pytest.raises(CmalError, match="give --features timm:NAME"):
        build_detector(f"boxes:{tmp_path / 'i.json'}")
    with pytest.raises(CmalError, match=r"timm .* has no such model"):
        build_detector(f"boxes:{tmp_path / 'i.json'}", features="timm:resnot50")


@pytest.fixture(scope="module")
def backbone_file(tmp_path_factory):
    """A random small timm backbone, saved under its own names and under foreign ones."""
    import timm

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    state = timm.create_model("test_efficientnet", pretrained=False).state_dict()
    torch.save(state, folder / "own.pth")
    torch.save({f"module{number}": value for number, value in enumerate(state.values())}, folder / "foreign.pth")
    return folder


def test_timm_features_are_those_of_the_box_and_of_no_other(backbone_file):
    describer = TimmFeatures("test_efficientnet", backbone_file / "own.pth", "cpu")
    picture = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    both, swapped = describer.features(
        [picture, picture],
        [np.array([[0, 0, 80, 60], [80, 60, 160, 120]]), np.array([[80, 60, 160, 120], [0, 0, 80, 60]])],
    )
    assert both.shape == (2, describer.feature_size) and np.isfinite(both).all()
    np.testing.assert_allclose(both, swapped[::-1], rtol=1e-5, atol=1e-5)
    assert np.abs(both[0] - both[1]).max() > 1e-3
    assert describer.features([picture], [np.zeros((0, 4))])[0].shape == (0, describer.feature_size)


def test_a_state_file_of_other_names_is_taken_entry_for_entry(backbone_file):
    names = ("own.pth", "foreign.pth")
    own, foreign = (TimmFeatures("test_efficientnet", backbone_file / name, "cpu") for name in names)
    pairs = list(zip(own.net.state_dict().values(), foreign.net.state_dict().values(), strict=True))
    assert len(pairs) > 50 and all(torch.equal(a, b) for a, b in pairs)


def test_the_state_file_of_another_model_is_refused(backbone_file):
    with pytest.raises(CheckpointError, match="neither names nor shapes"):
        TimmFeatures("resnet10t", backbone_file / "foreign.pth", "cpu")


def test_unknown_detectors_and_options_are_named():
    with pytest.raises(CmalError, match='cannot build the detector "yolo"\n  known: nanodet, scenes, boxes:FILE'):
        build_detector("yolo")
    with pytest.raises(CmalError, match='cannot build the detector "boxes"'):
        build_detector("boxes")
    with pytest.raises(CmalError, match="it does not accept features"):
        build_detector("scenes", features="timm:resnet10t")
