"""transformers detectors behind the interface: tiny random models of three families, saved to a folder and loaded."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import transformers
from transformers import (
    DetrConfig,
    DetrForObjectDetection,
    DetrImageProcessor,
    ResNetConfig,
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrImageProcessor,
    RTDetrResNetConfig,
    YolosConfig,
    YolosForObjectDetection,
    YolosImageProcessor,
)

from cmal.errors import CheckpointError, CmalError, ShapeError
from cmal.regions.detectors import build_detector, huggingface

transformers.logging.disable_progress_bar()
NAMES = {0: "dog", 1: "cat", 2: "cup", 3: "tree"}
LABELS = {"id2label": NAMES, "label2id": {name: number for number, name in NAMES.items()}}
EDGES = {"shortest_edge": 64, "longest_edge": 96}
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1], "layer_type": "basic"}
THIN = {"d_model": 16, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16}


def detr():
    backbone = ResNetConfig(**RESNET, out_features=["stage4"])
    config = DetrConfig(
        use_timm_backbone=False,
        backbone=None,
        use_pretrained_backbone=False,
        backbone_config=backbone,
        **THIN,
        encoder_layers=1,
        decoder_layers=1,
        decoder_ffn_dim=16,
        num_queries=12,
        **LABELS,
    )
    return DetrForObjectDetection(config), DetrImageProcessor(size=EDGES)


def yolos():
    config = YolosConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=[64, 96],
        num_detection_tokens=9,
        **LABELS,
    )
    return YolosForObjectDetection(config), YolosImageProcessor(size=EDGES)


def rt_detr():
    config = RTDetrConfig(
        backbone_config=RTDetrResNetConfig(**RESNET, out_features=["stage2", "stage3", "stage4"]),
        encoder_hidden_dim=16,
        encoder_in_channels=[16, 16, 16],
        **THIN,
        num_queries=15,
        decoder_in_channels=[16, 16, 16],
        decoder_ffn_dim=16,
        decoder_layers=1,
        **LABELS,
    )
    return RTDetrForObjectDetection(config), RTDetrImageProcessor(size={"height": 64, "width": 64})


FAMILIES = {"detr": detr, "yolos": yolos, "rt_detr": rt_detr}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    """One folder a family, as save_pretrained writes it; queries are spread, so that boxes differ."""
    saved = {}
    for name, make in FAMILIES.items():
        torch.manual_seed(0)
        model, processor = make()
        for part, weight in model.named_parameters():
            if "query_position_embeddings" in part or "detection_tokens" in part or "bbox" in part:
                torch.nn.init.normal_(weight, std=1.0)
        folder = tmp_path_factory.mktemp(name)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        saved[name] = str(folder)
    return saved


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("family", "features"),
    [("detr", "decoder"), ("detr", "backbone"), ("yolos", "decoder"), ("rt_detr", "decoder"), ("rt_detr", "backbone")],
)
def test_every_family_gives_regions_with_all_fields(folders, family, features):
    detector = build_detector(f"hf:{folders[family]}", device="cpu", max_regions=5, features=features)
    assert detector.name == f"hf:{folders[family]} features={features}"
    assert detector.class_names == ("dog", "cat", "cup", "tree") and detector.attribute_names == ()
    assert len(detector.weights_sha256) == 64 and detector.feature_size == 16
    images = [photo(50, 70), photo(80, 40, 1)]
    for image, regions in zip(images, detector.detect(images)):
        height, width = image.shape[:2]
        assert 0 < len(regions) <= 5 and regions.features.shape == (len(regions), 16)
        assert (np.diff(regions.object_conf) <= 0).all()
        assert regions.image_wh_px == (width, height)
        assert regions.boxes_xyxy_px.min() >= 0 and (regions.boxes_xyxy_px <= [width, height] * 2).all()
        assert (regions.class_top_ids[:, 0] == regions.object_ids).all()
        assert (regions.class_top_probs[:, 4:] == 0).all()
        assert (regions.attribute_ids == -1).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_boxes_classes_and_states_are_those_of_transformers_own_output(folders, family):
    detector = build_detector(f"hf:{folders[family]}", device="cpu", max_regions=99, min_regions=99)
    image = photo(64, 96)
    regions = detector.detect([image])[0]
    with torch.inference_mode():
        inputs = detector.processor(images=[image], return_tensors="pt")
        output = detector.model(**inputs)
    (theirs,) = detector.processor.post_process_object_detection(output, threshold=0.0, target_sizes=[(64, 96)])
    boxes = theirs["boxes"].clamp(min=0).minimum(torch.tensor([96.0, 64.0, 96.0, 64.0])).numpy()
    scores, labels = theirs["scores"].numpy(), theirs["labels"].numpy()
    for box, score, label in zip(regions.boxes_xyxy_px, regions.object_conf, regions.object_ids):
        if score < scores.min() + 1e-5:  # RT-DETR's own list ends after as many pairs of query and class as queries
            continue
        is_there = (np.abs(boxes - box).max(axis=1) < 1e-2) & (np.abs(scores - score) < 1e-4) & (labels == label)
        assert is_there.any()
    np.testing.assert_allclose(regions.object_conf[0], scores.max(), rtol=1e-4)
    states = output.last_hidden_state[0].numpy()
    gaps = np.abs(regions.features[:, None] - states[None]).max(axis=2).min(axis=1)
    assert gaps.max() < 1e-4


def test_a_model_with_a_no_object_output_is_a_softmax_and_others_are_independent(folders):
    looks = {}
    for family in FAMILIES:
        detector = huggingface.build(folders[family], device="cpu")
        logits = torch.tensor([[0.0, 0.0, 0.0, 0.0, 2.0]])
        looks[family] = detector._probabilities(logits if family != "rt_detr" else logits[:, :4])
    torch.testing.assert_close(looks["detr"], torch.full((1, 4), 1 / (4 + np.e**2), dtype=torch.float32))
    torch.testing.assert_close(looks["yolos"], looks["detr"])
    torch.testing.assert_close(looks["rt_detr"], torch.full((1, 4), 0.5))


def test_regions_at_gives_a_box_the_state_of_the_query_on_it(folders):
    detector = huggingface.build(folders["rt_detr"], device="cpu", max_regions=5)
    image = photo(50, 70)
    found = detector.detect([image])[0]
    again, nothing = detector.regions_at([image, image], [found.boxes_xyxy_px[::-1], np.zeros((0, 4))])
    np.testing.assert_allclose(again.features[::-1], found.features, rtol=1e-4, atol=1e-5)
    assert (again.object_ids[::-1] == found.object_ids).all()
    assert len(nothing) == 0 and nothing.features.shape == (0, 16)
    with pytest.raises(ShapeError):
        detector.regions_at([image], [])


def test_backbone_features_are_pooled_at_the_box_and_not_in_the_padding(folders):
    detector = huggingface.build(folders["detr"], device="cpu", features="backbone")
    wide, tall = photo(64, 96), photo(96, 64)
    look = detector._look([wide, tall])[0]  # padded to 96 x 96
    height = look.feature_map.shape[2]
    rows = torch.arange(float(height))[None, None, :, None].expand(look.feature_map.shape)  # each row its number
    look = dataclasses.replace(look, feature_map=rows.contiguous())
    assert look.unit_of_map_xy == pytest.approx((1.0, 64 / 96))
    box = torch.tensor([[0.0, 0.0, 96.0, 64.0]])
    pooled = detector._features(look, box, torch.tensor([0]))
    assert float(pooled.mean()) == pytest.approx(height * (64 / 96) / 2 - 0.5, abs=0.2)


def test_what_cannot_be_loaded_says_what_to_give(folders, tmp_path):
    with pytest.raises(CheckpointError, match="as save_pretrained writes them"):
        build_detector(f"hf:{tmp_path}", device="cpu")
    with pytest.raises(CheckpointError, match="there is no such folder"):
        build_detector("hf:/no/such/folder", device="cpu")
    with pytest.raises(CmalError, match="known kinds of features: decoder, backbone"):
        build_detector(f"hf:{folders['detr']}", device="cpu", features="encoder")
    with pytest.raises(CmalError, match="has no part called backbone"):
        build_detector(f"hf:{folders['yolos']}", device="cpu", features="backbone")


def test_weights_of_a_backbone_alone_are_refused(tmp_path):
    torch.manual_seed(0)
    model, processor = yolos()
    model.vit.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"its weights lack \d+ tensors"):
        huggingface.build(str(tmp_path), device="cpu")
