"""torchvision detectors behind the interface: small inputs, random weights, nothing downloaded."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torchvision import models
from torchvision.models import detection

from cmal.errors import CheckpointError, CmalError, DataError
from cmal.regions.detectors import build_detector, torchvision_models
from cmal.regions.detectors.torchvision_models import TorchvisionDetector

CLASSES = ("dog", "cat", "cup", "tree", "sky")
SMALL = {"min_size": 64, "max_size": 96}
RCNN, ONE_STAGE = "fasterrcnn_mobilenet_v3_large_fpn", "ssdlite320_mobilenet_v3_large"


def network(name: str, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    sizes = {} if name.startswith("ssd") else SMALL
    return models.get_model(name, weights=None, weights_backbone=None, num_classes=len(CLASSES) + 1, **sizes)


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module", params=[RCNN, ONE_STAGE])
def detector(request) -> TorchvisionDetector:
    return TorchvisionDetector(network(request.param), request.param, CLASSES, device="cpu", max_regions=6)


def test_regions_come_sorted_inside_the_image_and_with_all_fields(detector):
    images = [photo(50, 70), photo(80, 40, 1)]
    for image, regions in zip(images, detector.detect(images)):
        height, width = image.shape[:2]
        assert 0 < len(regions) <= 6
        assert regions.features.shape == (len(regions), detector.feature_size)
        assert (np.diff(regions.object_conf) <= 0).all()
        assert regions.image_wh_px == (width, height)
        assert regions.boxes_xyxy_px.min() >= 0 and (regions.boxes_xyxy_px <= [width, height] * 2).all()
        assert ((regions.object_ids >= 0) & (regions.object_ids < 5)).all()
        assert (regions.attribute_ids == -1).all() and detector.attribute_names == ()
        assert (regions.class_top_probs[:, 5:] == 0).all()


def test_regions_at_pools_the_features_that_detect_pooled(detector):
    image = photo(50, 70)
    found = detector.detect([image])[0]
    again = detector.regions_at([image], [found.boxes_xyxy_px[::-1]])[0]
    np.testing.assert_allclose(again.features[::-1], found.features, rtol=1e-3, atol=1e-4)
    assert np.array_equal(again.boxes_xyxy_px[::-1], found.boxes_xyxy_px)
    nothing = detector.regions_at([image], [np.zeros((0, 4))])[0]
    assert len(nothing) == 0 and nothing.features.shape == (0, detector.feature_size)


def test_the_name_says_where_the_features_come_from(detector):
    kind = "box_head" if RCNN in detector.name else "roi_align"
    assert detector.name == f"torchvision:{RCNN if kind == 'box_head' else ONE_STAGE} features={kind}"


def test_an_rcnn_gives_its_own_box_heads_vector_and_classes():
    model = network(RCNN)
    detector = TorchvisionDetector(model, RCNN, CLASSES, device="cpu")
    image = photo(64, 96)  # not resized, so that pixels are pixels
    box = np.array([[8.0, 4.0, 80.0, 60.0]], np.float32)
    described = detector.regions_at([image], [box])[0]
    with torch.inference_mode():
        pixels = torch.from_numpy(image).permute(2, 0, 1).float() / 255
        transformed, _ = model.transform([pixels])
        maps = model.backbone(transformed.tensors)
        pooled = model.roi_heads.box_roi_pool(maps, [torch.from_numpy(box)], transformed.image_sizes)
        vector = model.roi_heads.box_head(pooled)
        probs = model.roi_heads.box_predictor(vector)[0].softmax(dim=1)[0, 1:]  # background first
    np.testing.assert_allclose(described.features, vector.numpy(), rtol=1e-5, atol=1e-6)
    assert described.object_ids[0] == probs.argmax()
    np.testing.assert_allclose(described.object_conf[0], probs.max(), rtol=1e-5)


def test_a_one_stage_model_names_a_given_box_after_the_detection_on_it():
    detector = TorchvisionDetector(network(ONE_STAGE), ONE_STAGE, CLASSES, device="cpu")
    found = {"boxes": torch.tensor([[0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]]), "labels": torch.tensor([3, 5])}
    probs = detector._class_of_nearest(
        {**found, "scores": torch.tensor([0.75, 0.5])}, torch.tensor([[1.0, 0, 10, 10], [30, 30, 40, 40]])
    )
    assert probs.tolist() == [[0, 0, 0.75, 0, 0], [0, 0, 0, 0, 0]]


@pytest.mark.parametrize(
    "name", ["retinanet_resnet50_fpn", "fcos_resnet50_fpn", "maskrcnn_resnet50_fpn", "ssd300_vgg16"]
)
@pytest.mark.slow
def test_the_other_families_run_too(name):
    detector = TorchvisionDetector(network(name), name, CLASSES, device="cpu", max_regions=3)
    regions = detector.detect([photo(50, 70)])[0]
    assert regions.features.shape == (len(regions), detector.feature_size)


def test_masks_are_not_computed():
    model = network("maskrcnn_resnet50_fpn")
    assert model.roi_heads.has_mask()
    TorchvisionDetector(model, "maskrcnn_resnet50_fpn", CLASSES, device="cpu")
    assert not model.roi_heads.has_mask()


@pytest.fixture
def small_models(monkeypatch):
    """`models.get_model` with small input sizes, so that loading is tested and not patience."""
    original = models.get_model
    monkeypatch.setattr(torchvision_models.models, "get_model", functools.partial(original, **SMALL))


def test_weights_come_from_a_file_with_names_beside_it(tmp_path, small_models):
    torch.save(network(RCNN).state_dict(), tmp_path / "mine.pth")
    (tmp_path / "class_names.txt").write_text("\n".join(CLASSES) + "\n")
    expected = TorchvisionDetector(network(RCNN), RCNN, CLASSES, device="cpu", max_regions=4).detect([photo(50, 70)])[0]
    for weights in (tmp_path / "mine.pth", tmp_path):
        detector = build_detector(f"torchvision:{RCNN}", weights=str(weights), device="cpu", max_regions=4)
        assert detector.class_names == CLASSES and len(detector.weights_sha256) == 64
        expected = TorchvisionDetector(network(RCNN), RCNN, CLASSES, device="cpu", max_regions=4).detect(
            [photo(50, 70)]
        )[0]
        np.testing.assert_allclose(detector.detect([photo(50, 70)])[0].features, expected.features, rtol=1e-5)


def test_weights_without_names_for_their_classes_are_refused(tmp_path, small_models):
    torch.save(network(RCNN).state_dict(), tmp_path / "mine.pth")
    with pytest.raises(DataError, match="the weights have 5 classes; there are 90 names") as caught:
        torchvision_models.build(RCNN, weights=tmp_path / "mine.pth", device="cpu")
    assert "class_names.txt" in caught.value.hint


def test_weights_of_another_model_are_refused_tensor_by_tensor(tmp_path, small_models):
    state = network(RCNN).state_dict()
    state["something.else"] = state.pop("backbone.body.0.0.weight")
    torch.save(state, tmp_path / "mine.pth")
    with pytest.raises(CheckpointError) as caught:
        torchvision_models.build(RCNN, weights=tmp_path / "mine.pth", device="cpu")
    assert "backbone.body.0.0.weight is missing" in caught.value.found
    assert "something.else is not a parameter" in caught.value.found


def test_weights_saved_from_frozen_batch_norms_load_and_the_first_coco_ones_had_no_epsilon(tmp_path, small_models):
    torch.manual_seed(0)
    whole = detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91).state_dict()
    frozen = {name: value for name, value in whole.items() if not name.endswith("num_batches_tracked")}
    for name, eps in (("own.pth", 1e-5), ("fasterrcnn_resnet50_fpn_coco-258fb6c6.pth", 0.0)):
        torch.save(frozen, tmp_path / name)
        detector = torchvision_models.build("fasterrcnn_resnet50_fpn", weights=tmp_path / name, device="cpu")
        assert detector.model.backbone.body.bn1.eps == eps
        assert len(detector.class_names) == 90 and detector.class_names[0] == "person"


def test_unknown_models_and_missing_weights_say_what_there_is(tmp_path):
    with pytest.raises(CmalError, match="known models: fasterrcnn_mobilenet"):
        build_detector("torchvision:resnet50")
    with pytest.raises(CheckpointError, match="nor one of torchvision's: COCO_V1"):
        build_detector(f"torchvision:{RCNN}", weights="COCO_V9")
    with pytest.raises(CheckpointError, match="has 0 files"):
        build_detector(f"torchvision:{RCNN}", weights=str(tmp_path))
