"""MMF feature folders, written here as its extractors write them: `NAME.npy` and a pickled table in `NAME_info.npy`."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from cmal.errors import DataError
from cmal.io.pickles import PickleRefused
from cmal.regions.imports import import_features
from cmal.regions.imports.mmf import read_npy
from cmal.regions.store.store import RegionStore

BOXES = np.array([[1, 2, 30, 40], [0, 0, 64, 48]], np.float32)
FEATURES = np.arange(16, dtype=np.float32).reshape(2, 8)


def an_info(**changes) -> dict:
    cls_prob = np.zeros((2, 1600), np.float32)
    cls_prob[0, 16], cls_prob[1, 1599] = 0.75, 0.5
    info = {"bbox": BOXES, "num_boxes": 2, "objects": np.array([16, 1599]), "cls_prob": cls_prob}
    return {**info, "image_width": 64, "image_height": 48, **changes}


def write_pair(folder: Path, name: str, features: np.ndarray, info: dict) -> None:
    """extract_features_vmb.py: np.save of the array, and of the dictionary, which numpy pickles."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{name}.npy", features)
    np.save(folder / f"{name}_info.npy", info)


def test_a_folder_goes_round(tmp_path):
    folder = tmp_path / "features"
    write_pair(folder, "train/COCO_train2014_000000000009", FEATURES, an_info())
    write_pair(folder, "COCO_val2014_000000000139", FEATURES + 1, an_info())
    summary = import_features(folder, tmp_path / "store")
    assert (summary.format, summary.images, summary.notes()) == ("mmf-npy", 2, [])
    store = RegionStore.open(tmp_path / "store")
    assert list(store) == ["coco:139", "coco:9"]
    regions = store["coco:9"]
    assert np.array_equal(regions.features, FEATURES.astype(np.float16))
    assert np.array_equal(regions.boxes_xyxy_px, BOXES)
    assert [store.class_names[number] for number in regions.object_ids] == ["stop sign", "buoy"]
    assert regions.object_conf.tolist() == [0.75, 0.5]
    assert regions.image_wh_px == (64, 48)


def test_rows_behind_num_boxes_are_padding(tmp_path):
    write_pair(tmp_path / "f", "vg_1", FEATURES, an_info(num_boxes=1))
    import_features(tmp_path / "f", tmp_path / "store")
    assert len(RegionStore.open(tmp_path / "store")["vg:1"]) == 1


def test_a_confidence_in_place_of_the_distribution_is_read(tmp_path):  # frcnn/extract_features_frcnn.py
    info = an_info(cls_prob=np.array([0.25, 0.125], np.float32), num_boxes=100)
    write_pair(tmp_path / "f", "vg_1", FEATURES, info)
    import_features(tmp_path / "f", tmp_path / "store")
    assert RegionStore.open(tmp_path / "store")["vg:1"].object_conf.tolist() == [0.25, 0.125]


def test_vinvl_features_from_mmf_lose_the_box_that_they_repeat(tmp_path):  # extract_features_vinvl.py
    unit = np.array([[0, 0, 0.5, 0.25, 0.5, 0.25], [0.25, 0.5, 1, 1, 0.75, 0.5]], np.float32)
    info = {"bbox": unit, "image_width": 64, "image_height": 48, "scores": np.array([0.5, 0.25], np.float32)}
    write_pair(tmp_path / "f", "vg_1", np.concatenate([FEATURES, unit], axis=1), info)
    summary = import_features(tmp_path / "f", tmp_path / "store")
    regions = RegionStore.open(tmp_path / "store")["vg:1"]
    assert np.array_equal(regions.features, FEATURES.astype(np.float16))
    assert regions.boxes_xyxy_px.tolist() == [[0, 0, 32, 12], [16, 24, 64, 48]]
    assert not summary.has_classes


def test_one_file_that_holds_all_is_read(tmp_path):  # 12-in-1
    (tmp_path / "f").mkdir()
    info = {**an_info(), "image_id": "COCO_val2014_000000000139", "features": FEATURES}
    np.save(tmp_path / "f" / "whatever.npy", info)
    import_features(tmp_path / "f", tmp_path / "store")
    assert list(RegionStore.open(tmp_path / "store")) == ["coco:139"]


class Trap:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_table_that_would_run_code_is_refused_and_runs_nothing(tmp_path):
    mark = tmp_path / "mark"
    write_pair(tmp_path / "f", "vg_1", FEATURES, an_info(objects=Trap(mark)))
    write_pair(tmp_path / "f", "vg_2", FEATURES, an_info())
    summary = import_features(tmp_path / "f", tmp_path / "store")
    assert (summary.images, summary.failed) == (1, 1)
    assert not mark.exists()
    with pytest.raises(PickleRefused):
        read_npy(tmp_path / "f" / "vg_1_info.npy")


def test_damaged_files_are_listed(tmp_path):
    folder = tmp_path / "f"
    for number in range(1, 6):
        write_pair(folder, f"vg_{number}", FEATURES, an_info())
    (folder / "vg_1_info.npy").unlink()
    (folder / "vg_2.npy").write_bytes(b"")
    (folder / "vg_3_info.npy").write_bytes((folder / "vg_3_info.npy").read_bytes()[:-20])
    np.save(folder / "vg_4_info.npy", np.array([{}, {}], dtype=object))
    summary = import_features(folder, tmp_path / "store")
    assert (summary.images, summary.failed) == (1, 4)
    reported = (tmp_path / "store" / "failed.jsonl").read_text()
    for reason in (
        "vg_1_info.npy is missing",
        "vg_2.npy is not a .npy file",
        "the pickle is damaged",
        "an array of objects",
    ):
        assert reason in reported


def test_an_empty_folder_is_told(tmp_path):
    with pytest.raises(DataError, match="none of the known feature formats"):
        import_features(tmp_path, tmp_path / "store")
    with pytest.raises(DataError, match=r"it has no \.npy file"):
        import_features(tmp_path, tmp_path / "store", format="mmf-npy")


def test_a_table_of_python_2_is_read(tmp_path):
    info = {key: value for key, value in an_info().items() if key != "cls_prob"}
    np.save(tmp_path / "vg_1.npy", FEATURES)
    with (tmp_path / "vg_1_info.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        pickle.dump(np.array(info, dtype=object), file, protocol=2)
    assert import_features(tmp_path, tmp_path.with_name("store")).images == 1
