"""VinVL files, written here in the forms that Oscar+ publishes and that scene_graph_benchmark writes."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest

from cmal.errors import DataError
from cmal.regions.imports import import_features
from cmal.regions.imports.vinvl import check_lineidx
from cmal.regions.store.store import RegionStore

FEATURES = np.arange(8, dtype=np.float32).reshape(2, 4)
UNIT = np.array([[0, 0, 0.5, 0.25, 0.5, 0.25], [0.25, 0.5, 1, 1, 0.75, 0.5]], np.float32)
RECTS = [[0.0, 0.0, 32.0, 12.0], [16.0, 24.0, 64.0, 48.0]]
OBJECTS = [
    {"class": "dog", "conf": 0.75, "rect": RECTS[0], "attributes": ["brown", "small"], "attr_scores": [0.5, 0.25]},
    {"class": "cat", "conf": 0.5, "rect": RECTS[1]},
]


def encoded(number: int = 0) -> str:
    return base64.b64encode(np.concatenate([FEATURES + number, UNIT], axis=1)).decode()


def write_tsv(path: Path, rows: list[tuple]) -> Path:
    """TSV and its lineidx, as Oscar's generate_lineidx makes it: where each line begins."""
    offset, offsets = 0, []
    with path.open("wb") as file:
        for row in rows:
            line = "\t".join(str(field) for field in row).encode() + b"\n"
            offsets.append(offset)
            offset += file.write(line)
    path.with_suffix(".lineidx").write_text("".join(f"{place}\n" for place in offsets))
    return path


def prediction(width: int = 64) -> str:
    return json.dumps({"image_h": 48, "image_w": width, "objects": OBJECTS})


def assert_holds(store: RegionStore, image_id: str, number: int = 0) -> None:
    regions = store[image_id]
    assert np.array_equal(regions.features, (FEATURES + number).astype(np.float16))
    assert regions.boxes_xyxy_px.tolist() == RECTS
    assert regions.image_wh_px == (64, 48)
    assert store.class_names == ("cat", "dog")
    assert [store.class_names[row] for row in regions.object_ids] == ["dog", "cat"]
    assert regions.object_conf.tolist() == [0.75, 0.5]
    assert store.attribute_names == ("brown",)
    assert regions.attribute_ids.tolist() == [0, -1]
    assert regions.attribute_conf.tolist() == [0.5, 0.0]


def test_features_with_predictions_beside_them_go_round(tmp_path):
    write_tsv(tmp_path / "features.tsv", [("9", 2, encoded()), ("10", 2, encoded(1))])
    write_tsv(tmp_path / "predictions.tsv", [("9", prediction()), ("10", prediction())])
    summary = import_features(tmp_path, tmp_path / "store", dataset="coco")
    assert (summary.format, summary.images, summary.notes()) == ("vinvl-tsv", 2, [])
    store = RegionStore.open(tmp_path / "store")
    assert_holds(store, "coco:9")
    assert_holds(store, "coco:10", 1)


def test_labels_in_another_order_are_found_by_their_key(tmp_path):
    keys = ["3", "1", "2"]
    write_tsv(tmp_path / "features.tsv", [(key, 2, encoded(int(key))) for key in keys])
    write_tsv(tmp_path / "predictions_gt.tsv", [(key, prediction(int(key) * 100)) for key in sorted(keys)])
    import_features(tmp_path / "features.tsv", tmp_path / "store", dataset="coco")
    store = RegionStore.open(tmp_path / "store")
    for key in keys:
        assert store[f"coco:{key}"].image_wh_px == (int(key) * 100, 48)
        assert store[f"coco:{key}"].features[0, 0] == int(key)


def test_the_json_form_with_label_and_size_files_is_read(tmp_path):
    value = json.dumps({"num_boxes": 2, "features": encoded()})
    write_tsv(tmp_path / "train.feature.tsv", [("9", value)])
    write_tsv(tmp_path / "train.label.tsv", [("9", json.dumps(OBJECTS))])
    write_tsv(tmp_path / "train.hw.tsv", [("9", json.dumps([{"height": 48, "width": 64}]))])
    import_features(tmp_path / "train.feature.tsv", tmp_path / "store", dataset="coco")
    assert_holds(RegionStore.open(tmp_path / "store"), "coco:9")


def test_predictions_that_hold_their_features_need_no_other_file(tmp_path):
    objects = [{**one, "feature": base64.b64encode(row).decode()} for one, row in zip(OBJECTS, FEATURES)]
    write_tsv(tmp_path / "predictions.tsv", [("9", json.dumps({"image_h": 48, "image_w": 64, "objects": objects}))])
    import_features(tmp_path / "predictions.tsv", tmp_path / "store", dataset="coco")
    assert_holds(RegionStore.open(tmp_path / "store"), "coco:9")


def test_features_alone_give_regions_without_tags_in_an_unknown_frame(tmp_path):
    write_tsv(tmp_path / "features.tsv", [("9", 2, encoded())])
    summary = import_features(tmp_path / "features.tsv", tmp_path / "store", dataset="coco")
    assert (summary.unknown_sizes, summary.has_classes) == (1, False)
    assert RegionStore.open(tmp_path / "store")["coco:9"].boxes_xyxy_px[0].tolist() == [0, 0, 500, 250]


def test_a_lineidx_that_does_not_fit_means_a_broken_download(tmp_path):
    path = write_tsv(tmp_path / "features.tsv", [("9", 2, encoded()), ("10", 2, encoded())])
    check_lineidx(path)
    whole = path.read_bytes()
    for wrong in (whole[: len(whole) // 3], whole + whole):
        path.write_bytes(wrong)
        with pytest.raises(DataError, match="cut short"):
            import_features(path, tmp_path / "store", dataset="coco")
    path.with_suffix(".lineidx").unlink()
    assert import_features(path, tmp_path / "store", dataset="coco").repeated == 2


def test_what_does_not_fit_is_listed(tmp_path):
    rows = [
        ("1", 2, encoded()),
        ("2", 2, encoded()),
        ("3", 2, encoded()[:-4]),
        ("4", 2, encoded()),
        ("5", 2, encoded()),
    ]
    write_tsv(tmp_path / "features.tsv", rows)
    fewer = json.dumps({"image_h": 48, "image_w": 64, "objects": OBJECTS[:1]})
    labels = [("1", prediction()), ("3", prediction()), ("4", fewer), ("5", "{broken")]
    write_tsv(tmp_path / "predictions.tsv", labels)
    summary = import_features(tmp_path, tmp_path / "store", dataset="coco")
    assert (summary.images, summary.failed) == (1, 4)
    reported = (tmp_path / "store" / "failed.jsonl").read_text()
    for reason in ("predictions.tsv has no line for it", "features has", "2 features but 1 labels", "not JSON"):
        assert reason in reported
