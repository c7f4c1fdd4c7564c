"""The shipped scenes detector on pictures it never saw: what it finds, what it calls it, where its file comes from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cmal.errors import CheckpointError
from cmal.regions.detection_map import match_boxes
from cmal.regions.detectors import build_detector
from cmal.runs.recipe import load_recipe
from cmal.scenes.detector import WEIGHTS
from cmal.scenes.detector_network import SceneDetectorNet
from cmal.scenes.detector_training import (
    ScenesDetectorRecipe,
    draw_pictures,
    save_weights,
    score_detector,
    train,
)
from cmal.scenes.world import COLOURS, KINDS

UNSEEN_SEED = 90210


@pytest.fixture(scope="module")
def detector():
    return build_detector("scenes", device="cpu")


@pytest.fixture(scope="module")
def pictures():
    return draw_pictures(UNSEEN_SEED, "test", 40)


def test_the_weights_that_ship_are_small():
    assert WEIGHTS.stat().st_size <= 10e6


def test_it_finds_and_names_things_it_never_saw(detector, pictures):
    scores = score_detector(detector.net, pictures)
    assert scores.mean_ap >= 0.75
    assert scores.colour_accuracy >= 0.9
    assert scores.found_share >= 0.8 and scores.extra_per_picture <= 2.0
    assert scores.given_box_kind_accuracy >= 0.85


def test_regions_are_sound(detector, pictures):
    images = [image for image, _ in pictures[:6]]
    for image, one in zip(images, detector.detect(images)):
        assert 4 <= len(one) <= 24
        assert one.features.shape == (len(one), detector.feature_size) and np.isfinite(one.features).all()
        x1, y1, x2, y2 = one.boxes_xyxy_px.T
        assert (x1 >= 0).all() and (y1 >= 0).all() and (x2 <= image.shape[1]).all() and (y2 <= image.shape[0]).all()
        assert ((x2 > x1) & (y2 > y1)).all()
        assert (np.diff(one.object_conf) <= 1e-6).all(), "most confident first"
        assert (one.object_ids == one.class_top_ids[:, 0]).all()
        assert (np.diff(one.class_top_probs, axis=1) <= 1e-6).all() and one.class_top_probs.sum(1).max() <= 1.001
        assert one.object_ids.max() < len(KINDS) and one.attribute_ids.max() < len(COLOURS)
        assert one.image_wh_px == (image.shape[1], image.shape[0])


def test_one_thing_seldom_gets_two_sure_regions(detector, pictures):
    twice = things = 0
    for image, scene in pictures[:20]:
        (one,) = detector.detect([image])
        sure = one.boxes_xyxy_px[one.object_conf >= 0.5]
        true_boxes = np.array([thing.box_xyxy_px for thing in scene.things], float)
        for box in true_boxes:
            hits = sum(match_boxes(found[None], box[None])[0] == 0 for found in sure)
            others = sum(match_boxes(other[None], box[None])[0] == 0 for other in true_boxes)
            twice += hits > others
            things += 1
    assert twice / things <= 0.08


def test_regions_at_given_boxes_keep_the_order_of_the_boxes(detector, pictures):
    image, scene = pictures[0]
    boxes = np.array([thing.box_xyxy_px for thing in scene.things], np.float32)
    there, back = detector.regions_at([image, image], [boxes, boxes[::-1]])
    np.testing.assert_allclose(there.boxes_xyxy_px, boxes, atol=1e-4)
    np.testing.assert_allclose(there.features, back.features[::-1], rtol=1e-4, atol=1e-4)
    assert len(detector.regions_at([image], [np.zeros((0, 4))])[0]) == 0
    assert there.class_top_probs.sum(1) == pytest.approx(1.0, abs=0.15), "given boxes are things: no background"


def test_pictures_of_any_size_are_looked_at(detector, pictures):
    image = pictures[0][0]
    large = np.repeat(np.repeat(image, 3, 0), 3, 1)
    odd, tiny = image[:77, :101], image[:1, :1]
    found = detector.detect([large, odd, tiny, image])
    assert [one.image_wh_px for one in found] == [(576, 480), (101, 77), (1, 1), (192, 160)]
    assert found[0].boxes_xyxy_px[:, 2].max() > 192, "boxes are in the large picture's own pixels"
    np.testing.assert_allclose(found[3].features, detector.detect([image])[0].features, rtol=1e-3, atol=1e-3)


def test_the_recipe_in_the_repository_is_sound_and_keeps_test_pictures_apart(request):
    path = request.config.rootpath / "recipes" / "scenes_detector.yaml"
    recipe = load_recipe(ScenesDetectorRecipe, path)
    assert recipe.seed != recipe.test_seed and UNSEEN_SEED not in (recipe.seed, recipe.test_seed)


def test_training_twice_from_one_seed_gives_the_same_weights_and_other_seeds_others(tmp_path):
    few = dict(steps=2, batch_size=2, test_images=0, workers=0)
    first, again, other = (
        train(ScenesDetectorRecipe(seed=seed, **few), report=lambda line: None) for seed in (5, 5, 6)
    )
    name = "kind.weight"
    assert torch.equal(first.state_dict()[name], again.state_dict()[name])
    assert not torch.equal(first.state_dict()[name], other.state_dict()[name])
    save_weights(first, tmp_path / "w.safetensors", "", None)
    loaded = build_detector("scenes", weights=str(tmp_path / "w.safetensors"), device="cpu")
    assert torch.equal(loaded.net.state_dict()[name], first.state_dict()[name].half().float())


def test_weights_of_another_network_are_refused(tmp_path):
    save_weights(SceneDetectorNet(3, 11), tmp_path / "w.safetensors", "", None)
    with pytest.raises(CheckpointError, match=r"kind\.weight has shape"):
        build_detector("scenes", weights=str(tmp_path / "w.safetensors"))
    with pytest.raises(CheckpointError, match=r"train_scenes_detector\.sh"):
        build_detector("scenes", weights=str(tmp_path / "nowhere.safetensors"))
