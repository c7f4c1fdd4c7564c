"""NanoDet: its boxes by hand, its windows, odd photographs, and the answers of the graph that its weights came from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from cmal.anchors.finder import AnchorFinder
from cmal.anchors.thesaurus import NO_CONCEPT, Thesaurus
from cmal.data.example import TagNoise
from cmal.errors import CheckpointError, CmalError
from cmal.regions.boxes import iou_matrix, xywh_to_xyxy
from cmal.regions.coco_instances import read_instances
from cmal.regions.detection_map import mean_average_precision
from cmal.regions.detectors import build_detector
from cmal.regions.detectors.nanodet import find_objects
from cmal.regions.detectors.nanodet_input import letterbox, normalise, scaled_size
from cmal.regions.detectors.nanodet_names import COCO_CLASSES
from cmal.regions.detectors.nanodet_network import cell_centres, decode_boxes
from cmal.regions.detectors.windows import parse_windows
from cmal.regions.extract import extract_regions
from cmal.regions.images import read_image
from cmal.regions.inspect import region_tag, summarise_store
from cmal.regions.store.store import RegionStore
from cmal.regions.types import NO_OBJECT

SHARED = Path(__file__).resolve().parents[4] / "shared"
EXPECTED = SHARED / "weights" / "nanodet" / "expected.jsonl"


@pytest.fixture(scope="module")
def detector():
    return build_detector("nanodet", device="cpu")


def noise_picture(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (height, width, 3), dtype=np.uint8)


def one_hot(hot: int, of: int = 80, score: float = 0.5) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(hot), of) * score


def test_a_box_is_the_mean_distance_in_strides_from_the_centre_of_its_cell():
    centres, strides = cell_centres([(2, 3), (1, 1), (1, 1)], torch.device("cpu"))
    assert centres[4].tolist() == [12.0, 12.0] and strides.tolist() == [8.0] * 6 + [16.0, 32.0]
    distances = torch.full((8, 4, 11), -1e4)
    for side, step in enumerate((1, 0, 2, 10)):
        distances[4, side, step] = 0.0
    distances[4, 0, 2] = 0.0  # left: half of 1 stride, half of 2
    assert decode_boxes(distances, centres, strides)[4].tolist() == [0.0, 12.0, 28.0, 92.0]


def test_of_two_boxes_of_one_class_that_overlap_the_better_stays():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 9.5], [50, 50, 60, 60]])
    scores = torch.stack([one_hot(3, score=0.6), one_hot(3, score=0.7), one_hot(4, score=0.5), one_hot(3, score=0.2)])
    found, probabilities = find_objects(boxes, scores, min_score=0.25)
    assert found.tolist() == [boxes[1].tolist(), boxes[2].tolist()]
    assert probabilities.argmax(1).tolist() == [3, 4]


@pytest.mark.parametrize(
    "size, expected",
    [
        ((640, 480), (416, 312, 0.65)),
        ((1, 1), (416, 416, 416.0)),
        ((20_000, 3), (416, 1, 0.0208)),
        ((416, 416), (416, 416, 1.0)),
    ],
)
def test_the_longer_side_of_a_picture_becomes_416_pixels(size, expected):
    assert scaled_size(*size) == expected


def test_a_picture_lies_top_left_in_a_black_square_and_is_seen_as_blue_green_red():
    squares, scales = letterbox([np.full((208, 416, 3), (10, 20, 30), np.uint8)])
    assert scales == [1.0] and squares[0, 207, 415].tolist() == [10, 20, 30] and squares[0, 208:].max() == 0
    pixels = normalise(squares)
    assert pixels.shape == (1, 3, 416, 416) and pixels.is_contiguous(memory_format=torch.channels_last)
    assert pixels[0, :, 0, 0].tolist() == pytest.approx(
        [(30 - 103.53) / 57.375, (20 - 116.28) / 57.12, (10 - 123.675) / 58.395]
    )


def test_windows_are_grids_of_columns_and_rows():
    assert parse_windows("1x1,2x1").tolist() == [[0, 0, 1, 1], [0, 0, 0.5, 1], [0.5, 0, 1, 1]]
    assert parse_windows("").shape == (0, 4)


@pytest.mark.parametrize("text", ["2", "0x1", "1x1,,2x2", "99x99"])
def test_windows_that_are_no_grids_are_refused(text):
    with pytest.raises(CmalError) as error:
        parse_windows(text)
    assert str(error.value) == (
        "cannot lay windows over the pictures\n"
        f'  the grids are "{text}"\n'
        "  give columns x rows joined by commas, e.g. 1x1,2x2; at most 100 windows in all"
    )


def test_windows_are_regions_without_object_and_come_last(detector):
    (one,) = detector.detect([noise_picture(60, 40)])
    assert one.object_ids[-6:].tolist() == [NO_OBJECT] * 6 and not one.object_conf[-6:].any()
    assert not one.class_top_probs[-6:].any() and not one.class_top_ids[-6:].any()
    assert one.boxes_xyxy_px[-6:-4].tolist() == [[0, 0, 60, 40], [0, 0, 60, 20]]
    assert (one.object_ids[:-6] >= 0).all()


def test_a_row_of_class_probabilities_sums_to_one_at_most(detector):
    one = build_detector("nanodet", device="cpu", min_regions=20, min_confidence=1.0).detect([noise_picture(90, 90)])[0]
    assert len(one) == 26 and (np.diff(one.object_conf[:20]) <= 0).all()
    assert (one.class_top_probs.sum(1) <= 1 + 1e-5).all() and (np.diff(one.class_top_probs) <= 0).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (20_000, 3), (2, 20_000)])
def test_boxes_stay_inside_pictures_of_any_shape(detector, size):
    (one,) = detector.detect([noise_picture(*size)])
    low, high = one.boxes_xyxy_px[:, :2], one.boxes_xyxy_px[:, 2:]
    assert (low >= 0).all() and (high >= low).all() and (high <= size).all()
    assert one.features.shape == (len(one), detector.feature_size) and np.isfinite(one.features).all()


def test_a_picture_gets_the_same_regions_alone_and_in_a_batch_of_other_sizes(detector):
    pictures = [noise_picture(60, 40), noise_picture(40, 70)]
    for alone, one in zip((detector.detect([p])[0] for p in pictures), detector.detect(pictures)):
        np.testing.assert_allclose(one.boxes_xyxy_px, alone.boxes_xyxy_px, atol=1e-3)
        np.testing.assert_allclose(one.features, alone.features, atol=1e-4)


def test_described_boxes_keep_their_order_and_take_the_class_of_the_detection_there(detector):
    picture = noise_picture(200, 100)
    sure = build_detector("nanodet", device="cpu", min_regions=3).detect([picture])[0]
    detector_of_all = build_detector("nanodet", device="cpu", min_confidence=0.0)
    (one,) = detector_of_all.regions_at([picture], [np.concatenate([[[150, 90, 151, 91]], sure.boxes_xyxy_px[:1]])])
    assert one.object_ids.tolist() == [NO_OBJECT, sure.object_ids[0]]
    np.testing.assert_allclose(one.features[1], sure.features[0], atol=1e-4)


def test_a_weight_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError) as error:
        build_detector("nanodet", weights=str(path), device="cpu")
    assert error.value.what == f"cannot load the weights {path}"
    assert "backbone.stages.0.conv.weight is missing" in error.value.found
    assert error.value.hint == "give weights of exactly this detector"


def test_more_windows_than_regions_are_refused():
    with pytest.raises(CmalError, match="are 6 regions; at most 4 are kept"):
        build_detector("nanodet", max_regions=4)


def test_unknown_features_are_refused():
    with pytest.raises(CmalError, match='the features are "resnet50"'):
        build_detector("nanodet", features="resnet50")


@pytest.mark.skipif(not EXPECTED.is_file(), reason="../shared/weights/nanodet is not there")
def test_photographs_get_the_boxes_of_the_graph_that_the_weights_came_from():
    detector = build_detector("nanodet", device="cpu", min_confidence=0.145, windows="", max_regions=100)
    lines = [json.loads(line) for line in EXPECTED.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 20
    for line in lines:
        (one,) = detector.detect([read_image(SHARED / "photos" / "images" / line["file"])])
        assert one.image_wh_px == (line["w"], line["h"])
        count = len(line["boxes"])
        surplus = one.object_conf[count:]
        assert count == 30 or (surplus < 0.1505).all()  # the file lists scores above 0.15, at most 30
        np.testing.assert_allclose(one.boxes_xyxy_px[:count], line["boxes"], atol=0.5)
        np.testing.assert_allclose(one.object_conf[:count], line["scores"], atol=0.01)
        assert one.object_ids[:count].tolist() == line["labels"]


def test_regions_without_a_tag_pass_store_summary_anchors_and_tag_noise(detector, tmp_path):
    Image.fromarray(noise_picture(60, 40)).save(tmp_path / "a.png")
    summary = extract_regions([("photos:a", tmp_path / "a.png")], detector, tmp_path / "store")
    store = RegionStore.open(tmp_path / "store")
    one = store["photos:a"]
    assert (summary.images, summary.failed) == (1, 0) and one.object_ids[-1] == NO_OBJECT
    assert sum(count for _, count in summarise_store(tmp_path / "store").classes) == len(one) - 6
    assert region_tag(one, len(one) - 1, store.class_names, store.attribute_names) == "no tag"
    finder = AnchorFinder(Thesaurus.load(), store.class_names, store.attribute_names)
    assert (finder.region_concepts(one).objects[-6:] == NO_CONCEPT).all()
    noisy = TagNoise(share=1.0, classes=80, seed=1).on(one, "photos:a")
    assert noisy.object_ids[-6:].tolist() == [NO_OBJECT] * 6


def test_the_command_takes_nanodet_for_photographs_and_scenes_for_drawn_scenes(tmp_path, command_in):
    run = command_in(tmp_path)
    for folder in ("photos", "scenes"):
        (tmp_path / folder / "images").mkdir(parents=True)
        Image.fromarray(noise_picture(60, 40)).save(tmp_path / folder / "images" / "a.jpg")
        assert run("extract-regions", f"{folder}/images", "--out", f"{folder}/regions").exit_code == 0
    assert RegionStore.open(tmp_path / "photos" / "regions").detector == "nanodet features=trunk"
    assert RegionStore.open(tmp_path / "scenes" / "regions").detector == "scenes"
    assert run("extract-regions", "photos/images", "--out", "few", "--windows", "").exit_code == 0
    with_windows, without = (
        len(store[next(iter(store))])
        for store in map(RegionStore.open, (tmp_path / "photos" / "regions", tmp_path / "few"))
    )
    assert with_windows == without + 6


def test_boxes_of_a_photograph_that_was_read_reduced_are_in_its_full_pixels(tmp_path):
    picture = Image.fromarray(noise_picture(60, 45)).resize((3601, 2700), Image.Resampling.BILINEAR)
    picture.save(tmp_path / "a.jpg")
    detector = build_detector("nanodet", device="cpu", min_regions=5)
    extract_regions([("photos:a", tmp_path / "a.jpg")], detector, tmp_path / "store")
    one, (full,) = RegionStore.open(tmp_path / "store")["photos:a"], detector.detect([np.array(picture)])
    assert one.image_wh_px == (3601, 2700) and one.boxes_xyxy_px[-6].tolist() == [0, 0, 3601, 2700]
    overlaps = iou_matrix(one.boxes_xyxy_px[:5], full.boxes_xyxy_px[:5])
    assert overlaps.max(axis=1).min() > 0.8


def test_average_precision_on_photographs_of_coco_is_that_of_the_graph(real_data):
    table = read_instances(real_data / "coco" / "annotations" / "instances_val2017.json")
    class_of = {number: COCO_CLASSES.index(name) for number, name in table.categories.items()}
    detector = build_detector("nanodet", device="cpu", windows="", min_confidence=0.05, max_regions=100)
    found, truth = [], []
    for image in table.images.values():
        (one,) = detector.detect([read_image(real_data / "coco" / "images" / "val2017" / image.file_name)])
        found.append((one.boxes_xyxy_px, one.object_conf, one.object_ids))
        boxes = xywh_to_xyxy(np.array([box.box_xywh_px for box in image.boxes]).reshape(-1, 4))
        truth.append((boxes, np.array([class_of[box.category_id] for box in image.boxes], int)))
    assert len(truth) == 40 and mean_average_precision(found, truth)[0] >= 0.44
