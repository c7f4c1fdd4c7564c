"""volta, 12-in-1 and MMF databases of pickles, written here as their converters write them."""

from __future__ import annotations

import base64
import pickle
from pathlib import Path

import numpy as np
import pytest

from cmal.errors import DataError
from cmal.regions.imports import import_features
from cmal.regions.store.store import RegionStore

lmdb = pytest.importorskip("lmdb")

BOXES = np.array([[1, 2, 30, 40], [0, 0, 64, 48]], np.float32)
FEATURES = np.arange(8, dtype=np.float32).reshape(2, 4)


def probabilities(with_background: bool) -> np.ndarray:
    probs = np.zeros((2, 1601), np.float32)
    probs[0, [0, 1, 17]] = [0.5, 0.125, 0.375]
    probs[1, 1600] = 1.0
    return probs if with_background else probs[:, 1:]


def volta_item() -> dict:  # npy_to_lmdb.py
    return {
        "feature_path": "COCO_train2014_000000000009",
        "features": base64.b64encode(FEATURES),
        "img_h": 48,
        "img_w": 64,
        "num_boxes": 2,
        "objects": np.array([16, 1599]),
        "cls_prob": probabilities(with_background=False),
        "boxes": base64.b64encode(BOXES),
    }


def twelve_in_one_item() -> dict:  # vilbert-multi-task
    return {
        "image_id": "9",
        "image_h": "48",
        "image_w": "64",
        "num_boxes": "2",
        "boxes": base64.b64encode(BOXES),
        "features": base64.b64encode(FEATURES),
        "cls_prob": base64.b64encode(probabilities(with_background=True)),
    }


def mmf_item() -> dict:  # mmf's lmdb_conversion.py; rows behind num_boxes are padding
    return {
        "feature_path": "COCO_train2014_000000000009",
        "features": np.concatenate([FEATURES, np.zeros((1, 4), np.float32)]),
        "image_height": np.int64(48),
        "image_width": np.int64(64),
        "num_boxes": 2,
        "objects": np.array([16, 1599, 0]),
        "cls_prob": np.concatenate([probabilities(with_background=False), np.zeros((1, 1600), np.float32)]),
        "bbox": np.concatenate([BOXES, np.zeros((1, 4), np.float32)]),
    }


def h5_item() -> dict:  # volta's h5_to_lmdb.py
    return {
        "img_id": "9",
        "img_h": np.int64(48),
        "img_w": np.int64(64),
        "features": FEATURES,
        "boxes": BOXES,
        "objects_id": np.array([16, 1599]),
        "objects_conf": np.array([0.375, 1.0], np.float32),
        "attrs_id": np.array([1, 2]),
        "attrs_conf": np.array([0.5, 0.5], np.float32),
    }


def write_database(folder: Path, values: dict[str, bytes]) -> Path:
    environment = lmdb.open(str(folder), map_size=1 << 24)
    with environment.begin(write=True) as transaction:
        for name, value in values.items():
            transaction.put(name.encode(), value)
        transaction.put(b"keys", pickle.dumps([name.encode() for name in values]))
    environment.close()
    return folder


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("make", [volta_item, twelve_in_one_item, mmf_item, h5_item])
def test_a_database_goes_round(tmp_path, make, protocol):
    path = write_database(tmp_path / "db", {"COCO_train2014_000000000009": pickle.dumps(make(), protocol)})
    summary = import_features(path, tmp_path / "store")
    assert (summary.format, summary.images, summary.regions, summary.notes()) == ("volta-lmdb", 1, 2, [])
    store = RegionStore.open(tmp_path / "store")
    regions = store["coco:9"]
    assert np.array_equal(regions.features, FEATURES.astype(np.float16))
    assert np.array_equal(regions.boxes_xyxy_px, BOXES)
    assert regions.image_wh_px == (64, 48)
    assert [store.class_names[number] for number in regions.object_ids] == ["stop sign", "buoy"]
    assert regions.object_conf.tolist() == [0.375, 1.0]
    expected = [1, 2] if make is h5_item else [-1, -1]
    assert regions.attribute_ids.tolist() == expected


def test_keys_that_are_numbers_take_the_data_set_that_is_named(tmp_path):
    path = write_database(tmp_path / "db", {"391895": pickle.dumps(volta_item())})
    import_features(path, tmp_path / "store", dataset="coco")
    assert list(RegionStore.open(tmp_path / "store")) == ["coco:391895"]


def test_a_database_without_classes_gives_regions_without_tags(tmp_path):
    item = {key: value for key, value in volta_item().items() if key not in ("objects", "cls_prob")}
    path = write_database(tmp_path / "db", {"vg_1": pickle.dumps(item)})
    assert not import_features(path, tmp_path / "store").has_classes


class Trap:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickle_that_would_run_code_is_listed_and_runs_nothing(tmp_path):
    mark = tmp_path / "mark"
    trap = pickle.dumps({**volta_item(), "features": Trap(mark)})
    path = write_database(tmp_path / "db", {"vg_1": trap, "vg_2": pickle.dumps(volta_item())})
    summary = import_features(path, tmp_path / "store")
    assert (summary.images, summary.failed) == (1, 1)
    assert not mark.exists()
    assert "the pickle asks for io.open" in (tmp_path / "store" / "failed.jsonl").read_text()


def test_a_trap_in_the_list_of_keys_is_not_even_read(tmp_path):
    path = write_database(tmp_path / "db", {"vg_1": pickle.dumps(volta_item())})
    mark = tmp_path / "mark"
    environment = lmdb.open(str(path), map_size=1 << 24)
    with environment.begin(write=True) as transaction:
        transaction.put(b"keys", pickle.dumps(Trap(mark)))
    environment.close()
    assert import_features(path, tmp_path / "store").images == 1
    assert not mark.exists()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"features": None}, "it has no features"),
        ({"features": np.zeros(3, np.float32)}, "features has shape (3,)"),
        ({"num_boxes": None}, "it has no num_boxes"),
        ({"boxes": base64.b64encode(BOXES[:1])}, "16 bytes"),
        ({"objects": np.array([16, 5000])}, "object ids go from 16 to 5000"),
        ({"img_h": None}, "neither the file nor the list of sizes"),
        ({"cls_prob": np.zeros((2, 77), np.float32)}, "class probabilities have shape (2, 77)"),
    ],
)
def test_items_that_do_not_fit_say_why(tmp_path, changes, reason):
    path = write_database(tmp_path / "db", {"vg_1": pickle.dumps({**volta_item(), **changes})})
    with pytest.raises(DataError) as caught:
        import_features(path, tmp_path / "store")
    assert reason in caught.value.found
