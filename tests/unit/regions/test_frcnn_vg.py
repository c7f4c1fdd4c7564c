"""frcnn-vg, one stated behaviour of the public detector at a time, each on numbers small enough to check by eye."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from toy_frcnn_vg import photo, tiny_detector, tiny_network

from cmal.errors import ShapeError
from cmal.regions.detectors.frcnn_vg_boxes import apply_deltas, choose_regions, make_cell_anchors, select_proposals
from cmal.regions.detectors.frcnn_vg_input import PIXEL_MEAN_BGR, make_input, resized_size
from cmal.regions.detectors.frcnn_vg_model import AnchorGenerator, Bottleneck, BoxPredictor, FrcnnVg, RegionHeads, Stem
from cmal.regions.detectors.vg_names import vg_attribute_names, vg_class_names

CPU = torch.device("cpu")


def plain_norms(module: torch.nn.Module) -> None:
    """Makes every batch norm the identity, and every convolution zero."""
    for part in module.modules():
        if isinstance(part, torch.nn.Conv2d):
            part.weight.data.zero_()
        if isinstance(part, torch.nn.BatchNorm2d):
            part.eps = 0.0


# -- structure ---------------------------------------------------------------------------------------------------------


def expected_shapes() -> dict[str, list[int]]:
    """The public file's names and shapes, from the description of ResNet-101-C4."""
    shapes: dict[str, list[int]] = {}

    def conv(name: str, outer: int, inner: int, kernel: int) -> None:
        shapes[f"{name}.weight"] = [outer, inner, kernel, kernel]
        shapes.update({f"{name}.norm.{part}": [outer] for part in ("weight", "bias", "running_mean", "running_var")})
        shapes[f"{name}.norm.num_batches_tracked"] = []

    def stage(name: str, blocks: int, inner: int, middle: int, outer: int) -> None:
        for block in range(blocks):
            if block == 0:
                conv(f"{name}.0.shortcut", outer, inner, 1)
            conv(f"{name}.{block}.conv1", middle, outer if block else inner, 1)
            conv(f"{name}.{block}.conv2", middle, middle, 3)
            conv(f"{name}.{block}.conv3", outer, middle, 1)

    def dense(name: str, *shape: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = list(shape)
        if bias:
            shapes[f"{name}.bias"] = [shape[0]]

    conv("backbone.stem.conv1", 64, 3, 7)
    stage("backbone.res2", 3, 64, 64, 256)
    stage("backbone.res3", 4, 256, 128, 512)
    stage("backbone.res4", 23, 512, 256, 1024)
    shapes["proposal_generator.anchor_generator.cell_anchors.0"] = [12, 4]
    dense("proposal_generator.rpn_head.conv", 512, 1024, 3, 3)
    dense("proposal_generator.rpn_head.objectness_logits", 12, 512, 1, 1)
    dense("proposal_generator.rpn_head.anchor_deltas", 48, 512, 1, 1)
    stage("roi_heads.res5", 3, 1024, 512, 2048)
    dense("roi_heads.box_predictor.cls_score", 1601, 2048)
    dense("roi_heads.box_predictor.bbox_pred", 6400, 2048)
    dense("roi_heads.box_predictor.cls_embedding", 1601, 256, bias=False)
    dense("roi_heads.box_predictor.fc_attr", 512, 2304)
    dense("roi_heads.box_predictor.attr_score", 401, 512)
    return shapes


def test_the_state_dict_has_the_640_names_and_shapes_of_the_public_weights():
    with torch.device("meta"):
        network = FrcnnVg()
    ours = {name: list(value.shape) for name, value in network.state_dict().items()}
    assert len(ours) == 640
    assert ours == expected_shapes()


def test_the_state_dict_equals_the_table_of_the_weights_where_that_table_is_at_hand(real_data):
    table = real_data.parent / "spec" / "frcnn_vg_parameters.json"
    if not table.is_file():
        pytest.skip("the table of parameter names is not beside this checkout")
    assert expected_shapes() == json.loads(table.read_text())


def test_there_are_1600_class_names_and_400_attribute_names_in_the_order_of_the_ids():
    assert len(vg_class_names()) == len(set(vg_class_names())) == 1600
    assert len(vg_attribute_names()) == len(set(vg_attribute_names())) == 400
    assert vg_class_names()[:3] == ("yolk", "goal", "bathroom")
    assert vg_class_names()[16] == "stop sign"  # the line is "stop sign,stopsign"


# -- input -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "resized"),
    [
        ((480, 640), (600, 800)),
        ((640, 480), (800, 600)),
        ((300, 1000), (300, 1000)),  # 600 x 2000 would be too long
        ((333, 500), (600, 901)),  # 900.9 rounds to 901
        ((427, 640), (600, 899)),  # 899.3 to 899
        ((600, 600), (600, 600)),
    ],
)
def test_the_shortest_edge_becomes_600_unless_the_longest_would_pass_1000(raw, resized):
    assert resized_size(*raw, 600, 1000) == resized


def test_input_is_bgr_less_its_mean_and_padded_with_zero_right_and_below():
    red = np.zeros((2, 2, 3), np.uint8)
    red[..., 0] = 200
    batch = make_input([red, np.zeros((2, 4, 3), np.uint8)], CPU, shortest=2, longest=4)
    assert batch.images.shape == (2, 3, 2, 4)
    blue_green_red = batch.images[0, :, 0, 0]
    expected = torch.tensor([-PIXEL_MEAN_BGR[0], -PIXEL_MEAN_BGR[1], 200 - PIXEL_MEAN_BGR[2]])
    torch.testing.assert_close(blue_green_red, expected)
    assert (batch.images[0, :, :, 2:] == 0).all()  # the padding is 0 after the mean went off, not before


def test_resizing_is_bilinear_with_corners_not_aligned():
    image = np.zeros((1, 2, 3), np.uint8)
    image[0, 1] = 100
    row = make_input([image], CPU, shortest=2, longest=4).images[0, 0, 0] + PIXEL_MEAN_BGR[0]
    torch.testing.assert_close(row, torch.tensor([0.0, 25.0, 75.0, 100.0]))  # aligned corners would give 0 33 67 100


def test_scale_is_raw_over_resized_on_each_axis():
    batch = make_input([np.zeros((333, 500, 3), np.uint8)], CPU)
    assert batch.sizes_hw == ((600, 901),)
    assert batch.scales_xy == ((500 / 901, 333 / 600),)


# -- backbone ----------------------------------------------------------------------------------------------------------


def test_the_first_pool_has_no_padding_and_lets_its_last_window_hang_over_the_edge():
    stem = Stem(1).eval()
    plain_norms(stem)
    stem.conv1.weight.data[0, 0, 3, 3] = 1  # each output is the pixel under it: rows and columns 0, 2, 4, ...
    image = torch.zeros(1, 3, 12, 12)
    image[0, 0] = torch.arange(144.0).view(12, 12)
    pooled = stem(image)[0, 0]  # the convolution gives 6 x 6; windows begin at 0, 2, 4, and the third has only two rows
    assert pooled.shape == (3, 3)
    assert pooled[0, 0] == image[0, 0, 4, 4]  # rows 0-2 of the 6 x 6: with padding it would be rows 0-1
    assert pooled[2, 2] == image[0, 0, 10, 10]


def test_the_stride_is_in_the_first_convolution_of_a_block():
    block = Bottleneck(1, 1, 2, stride=2, dilation=1).eval()
    plain_norms(block)
    block.conv1.weight.data.fill_(1)
    block.conv2.weight.data.fill_(1)
    block.conv3.weight.data.fill_(1)
    image = torch.zeros(1, 1, 4, 4)
    image[0, 0, 1, 1] = 1  # an odd place: a strided 1 x 1 never sees it, a strided 3 x 3 would
    assert block(image).sum() == 0
    image[0, 0, 2, 2] = 1
    assert block(image)[0, 0].tolist() == [[1, 1], [1, 1]]


def test_the_last_stage_is_dilated_and_keeps_its_14_by_14():
    heads = RegionHeads(4, 8, blocks=2, classes=2, attributes=2)
    assert [block.conv2.dilation for block in heads.res5] == [(2, 2), (2, 2)]
    block = Bottleneck(1, 1, 2, stride=1, dilation=2).eval()
    plain_norms(block)
    for part in (block.conv1, block.conv2, block.conv3):
        part.weight.data.fill_(1)
    image = torch.zeros(1, 1, 7, 7)
    image[0, 0, 3, 3] = 1
    seen = block(image)[0, 0].nonzero().tolist()
    assert seen == [[y, x] for y in (1, 3, 5) for x in (1, 3, 5)]
    assert heads.eval().res5(torch.zeros(1, 4, 14, 14)).shape == (1, 8, 14, 14)


def test_the_map_is_a_sixteenth_of_the_image():
    network = tiny_network()
    # 96 -> 48 by the convolution -> ceil(45 / 2) + 1 = 24 by the pool -> 12 -> 6
    assert network.backbone(torch.zeros(1, 3, 96, 64)).shape == (1, 32, 6, 4)


def test_batch_norm_keeps_its_running_statistics_while_detecting():
    detector = tiny_detector()
    norm = detector.model.backbone.stem.conv1.norm
    before = norm.running_mean.clone()
    detector.detect([photo(40, 50)])
    assert torch.equal(norm.running_mean, before)
    assert norm.eps == 1e-5


# -- proposals ---------------------------------------------------------------------------------------------------------


def test_anchors_have_the_area_of_their_size_and_ratios_of_height_to_width():
    anchors = make_cell_anchors((64, 128, 256, 512), (0.5, 1.0, 2.0))
    assert anchors.shape == (12, 4)
    width, height = anchors[:, 2] - anchors[:, 0], anchors[:, 3] - anchors[:, 1]
    torch.testing.assert_close(height / width, torch.tensor([0.5, 1.0, 2.0] * 4))
    torch.testing.assert_close(
        width * height, torch.tensor([64.0**2] * 3 + [128.0**2] * 3 + [256.0**2] * 3 + [512.0**2] * 3)
    )
    assert anchors[1].tolist() == [-32, -32, 32, 32]


def test_anchors_run_through_the_map_row_by_row_16_pixels_apart_from_the_corner():
    anchors = AnchorGenerator((64,), (1.0,))(2, 3)
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    assert centres.tolist() == [[0, 0], [16, 0], [32, 0], [0, 16], [16, 16], [32, 16]]


def test_logits_and_deltas_of_the_proposal_head_stand_in_the_order_of_the_anchors():
    head = tiny_network().proposal_generator.rpn_head
    for part in (head.conv, head.objectness_logits, head.anchor_deltas):
        part.weight.data.zero_()
    head.objectness_logits.bias.data = torch.arange(12.0)
    head.anchor_deltas.bias.data = torch.arange(48.0)
    logits, deltas = head(torch.zeros(1, 32, 2, 2))
    assert logits[0].tolist() == list(range(12)) * 4
    assert deltas[0, 13].tolist() == [4, 5, 6, 7]  # anchor 1 of the second cell: channels 4 to 7


def test_deltas_move_the_centre_and_scale_the_size():
    box = torch.tensor([[0.0, 0.0, 10.0, 20.0]])
    moved = apply_deltas(box, torch.tensor([[0.1, 0.5, math.log(2), 0.0]]), (1, 1, 1, 1))
    torch.testing.assert_close(moved, torch.tensor([[-4.0, 10.0, 16.0, 30.0]]))  # centre (5, 10) -> (6, 20), width 20
    weighted = apply_deltas(box, torch.tensor([[1.0, 5.0, 5 * math.log(2), 0.0]]), (10, 10, 5, 5))
    torch.testing.assert_close(weighted, moved)


def test_a_box_grows_at_most_62_and_a_half_times():
    grown = apply_deltas(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[0.0, 0.0, 99.0, 99.0]]), (1, 1, 1, 1))
    torch.testing.assert_close(grown, torch.tensor([[-61.5, -61.5, 63.5, 63.5]]))


def test_proposals_are_sorted_cut_clipped_emptied_suppressed_and_cut_again():
    anchors = torch.tensor(
        [
            [0.0, 0.0, 10.0, 10.0],
            [100.0, 100.0, 120.0, 120.0],  # outside the image: no area is left
            [0.0, 0.0, 10.0, 9.0],  # IoU 0.9 with the first
            [20.0, 20.0, 60.0, 40.0],  # hangs over: clipped to 50 x 40
            [0.0, 30.0, 10.0, 40.0],  # below the cut before suppression
        ]
    )
    logits = torch.tensor([3.0, 9.0, 5.0, 4.0, 1.0])
    found = select_proposals(anchors, logits, torch.zeros(5, 4), (40, 50), before_nms=4, keep=300, nms_iou=0.7)
    assert found.tolist() == [[0, 0, 10, 9], [20, 20, 50, 40]]
    assert len(select_proposals(anchors, logits, torch.zeros(5, 4), (40, 50), before_nms=4, keep=1)) == 1


# -- heads -------------------------------------------------------------------------------------------------------------


def test_regions_are_pooled_by_roi_pool_whose_bins_take_the_largest_value():
    heads = RegionHeads(1, 4, blocks=1, classes=2, attributes=2)
    seen = []
    heads.res5 = torch.nn.Sequential(torch.nn.Identity())
    heads.res5.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0]))
    feature_map = torch.arange(28.0 * 28).view(1, 1, 28, 28)
    # 0 to 432 px are cells 0 to 27 (RoIPool counts the last cell in): 28 cells over 14 bins, two by two each
    heads.features(feature_map, torch.tensor([[0.0, 0.0, 432.0, 432.0]]))
    assert seen[0].shape == (1, 1, 14, 14)
    assert seen[0][0, 0, 0, 0] == feature_map[0, 0, 1, 1]  # the largest of the four, where RoIAlign would interpolate
    assert seen[0][0, 0, 13, 13] == feature_map[0, 0, 27, 27]


def test_the_feature_is_the_mean_over_the_14_by_14_map():
    heads = RegionHeads(1, 4, blocks=1, classes=2, attributes=2)
    heads.res5 = torch.nn.Identity()
    feature_map = torch.zeros(1, 1, 14, 14)
    feature_map[0, 0, 3, 5] = 196.0
    feature = heads.features(feature_map, torch.tensor([[0.0, 0.0, 208.0, 208.0]]))
    assert feature.tolist() == [[1.0]]


def test_the_background_is_the_last_class_and_no_answer():
    predictor = BoxPredictor(4, classes=3, attributes=2)
    predictor.cls_score.weight.data.zero_()
    predictor.cls_score.bias.data = torch.tensor([0.0, 1.0, 0.0, 5.0])
    class_probs, deltas, _ = predictor(torch.zeros(1, 4))
    assert class_probs.shape == (1, 3) and deltas.shape == (1, 3, 4)
    e = math.e
    torch.testing.assert_close(class_probs[0, 1], torch.tensor(e / (2 + e + e**5)))  # softmax over all four
    assert class_probs.argmax() == 1


def test_the_attribute_sees_the_best_class_of_all_background_included_and_never_answers_none():
    predictor = BoxPredictor(1, classes=2, attributes=2)
    for part in (predictor.cls_score, predictor.fc_attr, predictor.attr_score):
        part.weight.data.zero_()
        part.bias.data.zero_()
    predictor.cls_embedding.weight.data.zero_()
    predictor.cls_embedding.weight.data[2, 0] = 1.0  # the background's row
    predictor.fc_attr.weight.data[0, 1] = 1.0  # column 0 is the feature, then the embedding
    predictor.attr_score.weight.data[:, 0] = torch.tensor([0.0, 2.0, 0.0])
    predictor.attr_score.bias.data[2] = 50.0  # "none" is by far the likeliest
    predictor.cls_score.bias.data = torch.tensor([1.0, 0.0, 3.0])
    with_background_best = predictor(torch.zeros(1, 1))[2]
    torch.testing.assert_close(with_background_best, torch.tensor([[1.0, math.e**2]]) / (1 + math.e**2))
    predictor.cls_score.bias.data = torch.tensor([9.0, 0.0, 3.0])
    torch.testing.assert_close(predictor(torch.zeros(1, 1))[2], torch.tensor([[0.5, 0.5]]))


# -- choice of regions -------------------------------------------------------------------------------------------------

PROPOSALS = torch.tensor(
    [[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 8.0], [20.0, 0.0, 30.0, 10.0], [20.0, 0.0, 30.0, 4.0]]
)
PROBS = torch.tensor([[0.6, 0.1], [0.1, 0.7], [0.3, 0.2], [0.1, 0.25]])
STILL = torch.zeros(4, 2, 4)


def test_one_suppression_runs_over_all_classes_together():
    rows, _ = choose_regions(PROPOSALS, PROBS, STILL, (40, 40), min_detections=1, max_detections=9)
    assert rows.tolist() == [1, 2, 3]  # 0 overlaps 1 by 0.8 and goes although its class is another; 3 overlaps 2 by 0.4


def test_a_region_gets_the_box_of_its_best_class():
    deltas = STILL.clone()
    deltas[2, 0, 0] = 5.0  # dx of class 0: half a width to the right, its weight being 10
    deltas[2, 1, 0] = -99.0
    rows, boxes = choose_regions(PROPOSALS[2:3], PROBS[2:3], deltas[2:3], (40, 33), min_detections=1, max_detections=9)
    assert rows.tolist() == [0]
    assert boxes.tolist() == [[25, 0, 33, 10]]  # [25, 0, 35, 10] clipped to the image's width of 33


def test_the_next_threshold_is_tried_when_too_few_remain():
    options = {"max_detections": 9, "nms_ious": (0.5, 0.9)}
    assert len(choose_regions(PROPOSALS, PROBS, STILL, (40, 40), min_detections=3, **options)[0]) == 3
    assert choose_regions(PROPOSALS, PROBS, STILL, (40, 40), min_detections=4, **options)[0].tolist() == [1, 0, 2, 3]
    few = choose_regions(PROPOSALS, PROBS, STILL, (40, 40), min_detections=4, max_detections=9, nms_ious=(0.5,))[0]
    assert few.tolist() == [1, 2, 3]  # there is no next one


def test_confidence_decides_between_the_fewest_and_the_most():
    def count(least: int, most: int, confidence: float) -> int:
        options = {"min_detections": least, "max_detections": most, "min_confidence": confidence}
        return len(choose_regions(PROPOSALS, PROBS, STILL, (40, 40), **options)[0])

    assert count(1, 9, 0.28) == 2  # .7 and .3
    assert count(3, 9, 0.28) == 3
    assert count(1, 1, 0.0) == 1
    assert count(1, 9, 0.0) == 3


# -- the detector ------------------------------------------------------------------------------------------------------


def test_regions_come_sorted_inside_the_image_and_with_all_fields():
    image = photo(40, 70)
    regions = tiny_detector(max_regions=6).detect([image])[0]
    assert len(regions) == 6 and regions.features.shape == (6, 64)
    assert (np.diff(regions.object_conf) <= 0).all()
    assert regions.image_wh_px == (70, 40)
    assert regions.boxes_xyxy_px.min() >= 0
    assert (regions.boxes_xyxy_px <= [70, 40, 70, 40]).all()
    assert (regions.class_top_ids[:, 0] == regions.object_ids).all()
    assert (regions.class_top_probs[:, 5:] == 0).all()  # there are five classes only
    assert set(regions.attribute_ids) <= {0, 1, 2} and (regions.attribute_conf >= 1 / 3).all()


def test_the_feature_of_a_region_is_that_of_its_proposal_not_of_its_refined_box():
    detector, image = tiny_detector(max_regions=4), photo(40, 70)
    with torch.inference_mode():
        batch = make_input([image], CPU, shortest=64, longest=96)
        maps = detector.model.backbone(batch.images)
        anchors, logits, deltas = detector.model.proposal_generator(maps)
        proposals = select_proposals(anchors, logits[0], deltas[0], batch.sizes_hw[0])
        at_proposals = detector.model.roi_heads.features(maps, proposals).numpy()
    regions = detector.detect([image])[0]
    gaps = np.abs(regions.features[:, None] - at_proposals[None]).max(axis=2).min(axis=1)
    assert gaps.max() < 1e-6
    refined = detector.regions_at([image], [regions.boxes_xyxy_px])[0]
    assert np.abs(refined.features - regions.features).max() > 1e-4


def test_boxes_come_back_in_pixels_of_the_raw_image():
    detector = tiny_detector(max_regions=5)
    small = photo(32, 48)
    large = small.repeat(2, axis=0).repeat(2, axis=1)  # 64 x 96 is what the network sees of both
    assert resized_size(32, 48, 64, 96) == resized_size(64, 96, 64, 96) == (64, 96)
    with torch.inference_mode():
        batch = make_input([large], CPU, shortest=64, longest=96)
    assert batch.scales_xy == ((1.0, 1.0),)
    boxes = np.array([[4.0, 6.0, 40.0, 30.0]], np.float32)
    from_raw = detector.regions_at([small], [boxes])[0]
    with torch.inference_mode():
        maps = detector.model.backbone(make_input([small], CPU, shortest=64, longest=96).images)
        by_hand = detector.model.roi_heads.features(maps, torch.tensor([[8.0, 12.0, 80.0, 60.0]]))
    np.testing.assert_allclose(from_raw.features, by_hand.numpy(), rtol=1e-5)
    found = detector.detect([small])[0].boxes_xyxy_px
    assert found[:, 2].max() <= 48 and found[:, 3].max() <= 32


def test_regions_at_answers_box_by_box_in_their_order():
    detector, image = tiny_detector(), photo(40, 70)
    boxes = np.array([[5, 5, 60, 30], [0, 0, 20, 20]], np.float32)
    both = detector.regions_at([image, image], [boxes, np.zeros((0, 4), np.float32)])
    swapped = detector.regions_at([image], [boxes[::-1]])[0]
    assert np.array_equal(both[0].boxes_xyxy_px, boxes)
    np.testing.assert_allclose(both[0].features, swapped.features[::-1], rtol=1e-5, atol=1e-6)
    assert len(both[1]) == 0 and both[1].features.shape == (0, 64)


def test_images_of_one_size_give_the_same_regions_alone_and_in_a_batch():
    detector = tiny_detector(max_regions=4)
    images = [photo(40, 60, seed) for seed in range(3)]
    for alone, together in zip((detector.detect([image])[0] for image in images), detector.detect(images)):
        np.testing.assert_allclose(alone.boxes_xyxy_px, together.boxes_xyxy_px, atol=1e-3)
        np.testing.assert_allclose(alone.features, together.features, rtol=1e-4, atol=1e-6)
        assert (alone.object_ids == together.object_ids).all()


def test_proposals_stay_inside_the_image_and_out_of_the_padding():
    detector = tiny_detector(max_regions=36)
    narrow = detector.detect([photo(80, 40), photo(40, 80)])[0]
    assert narrow.image_wh_px == (40, 80)
    assert narrow.boxes_xyxy_px[:, 2].max() <= 40


def test_36_regions_without_a_confidence_and_10_to_100_with_one():
    assert tiny_detector().limits.min_regions == tiny_detector().limits.max_regions == 36
    adaptive = tiny_detector(min_confidence=0.2).limits
    assert (adaptive.min_regions, adaptive.max_regions, adaptive.min_confidence) == (10, 100, 0.2)
    assert len(tiny_detector(min_confidence=0.999, max_regions=7).detect([photo(40, 70)])[0]) == 7


def test_no_image_gives_no_regions_and_lists_of_different_lengths_are_refused():
    assert tiny_detector().detect([]) == []
    with pytest.raises(ShapeError, match="1 images, 2 lists"):
        tiny_detector().regions_at([photo(9, 9)], [np.zeros((1, 4)), np.zeros((1, 4))])
    with pytest.raises(ShapeError, match=r"shape \(4,\)"):
        tiny_detector().regions_at([photo(9, 9)], [np.zeros(4)])


def test_a_one_pixel_image_is_no_accident():
    regions = tiny_detector(max_regions=2).detect([photo(1, 1)])[0]
    assert regions.image_wh_px == (1, 1) and np.isfinite(regions.features).all()
