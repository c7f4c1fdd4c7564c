"""UNITER databases, written here as `convert_imgdir.py` writes them: msgpack by msgpack-numpy's hooks, or npz."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from toys import pack_arrays

from cmal.errors import DataError
from cmal.regions.imports import import_features
from cmal.regions.store.store import RegionStore

lmdb = pytest.importorskip("lmdb")
msgpack = pytest.importorskip("msgpack")

NORM_BB = np.array([[0, 0, 0.5, 0.25, 0.5, 0.25], [0.25, 0.5, 1, 1, 0.75, 0.5]], np.float16)


def an_image(number: int) -> dict[str, np.ndarray]:
    soft_labels = np.zeros((2, 1601), np.float16)
    soft_labels[0, [0, 17, 3]] = [0.625, 0.25, 0.125]  # background first, then class 16: "stop sign"
    soft_labels[1, 1600] = 1.0
    features = (np.arange(8, dtype=np.float16).reshape(2, 4) + number).astype(np.float16)
    return {
        "features": features,
        "norm_bb": NORM_BB,
        "conf": np.array([0.25, 1.0], np.float16),
        "soft_labels": soft_labels,
    }


def as_npz(arrays: dict[str, np.ndarray]) -> bytes:
    with io.BytesIO() as writer:
        np.savez_compressed(
            writer, **arrays, allow_pickle=True
        )  # UNITER's own slip: an array "allow_pickle" is saved too
        return writer.getvalue()


def write_database(folder: Path, values: dict[str, bytes]) -> Path:
    environment = lmdb.open(str(folder), map_size=1 << 24)
    with environment.begin(write=True) as transaction:
        for name, value in values.items():
            transaction.put(name.encode(), value)
        transaction.put(b"__keys__", json.dumps(list(values)).encode())
    environment.close()
    return folder


NAMES = ("coco_train2014_000000000009.npz", "flickr30k_000000036979.npz", "nlvr2_dev-850-0-img0.npz")


@pytest.mark.parametrize("pack", [pack_arrays, as_npz])
def test_a_database_goes_round(tmp_path, pack):
    path = write_database(tmp_path / "feat_th0.2_max100_min10", {n: pack(an_image(k)) for k, n in enumerate(NAMES)})
    sizes = tmp_path / "sizes.json"
    sizes.write_text(json.dumps({"coco:9": [640, 480], "flickr30k:36979": [100, 80], "nlvr2:dev-850-0-img0": [10, 20]}))
    summary = import_features(path, tmp_path / "store", sizes=sizes)
    assert (summary.format, summary.images, summary.notes()) == ("uniter-lmdb", 3, [])
    store = RegionStore.open(tmp_path / "store")
    assert set(store) == {"coco:9", "flickr30k:36979", "nlvr2:dev-850-0-img0"}
    regions = store["flickr30k:36979"]
    assert np.array_equal(regions.features, an_image(1)["features"])
    assert regions.boxes_xyxy_px.tolist() == [[0, 0, 50, 20], [25, 40, 100, 80]]
    assert [store.class_names[number] for number in regions.object_ids] == ["stop sign", "buoy"]
    assert regions.object_conf.tolist() == [0.25, 1.0]
    assert regions.class_top_ids[0, :2].tolist() == [16, 2]
    assert regions.class_top_probs[0, :2].tolist() == [0.25, 0.125]  # the background's .625 is no class


def test_without_sizes_the_boxes_are_in_a_frame_of_1000_and_it_is_said(tmp_path):
    path = write_database(tmp_path / "db", {NAMES[0]: pack_arrays(an_image(0))})
    summary = import_features(path, tmp_path / "store")
    assert summary.unknown_sizes == 1 and "1000 x 1000" in str(summary)
    assert RegionStore.open(tmp_path / "store")["coco:9"].boxes_xyxy_px[0].tolist() == [0, 0, 500, 250]


def test_a_coco_file_gives_the_sizes(tmp_path):
    path = write_database(tmp_path / "db", {NAMES[0]: pack_arrays(an_image(0))})
    coco = tmp_path / "instances.json"
    row = {"id": 9, "file_name": "COCO_train2014_000000000009.jpg", "width": 640, "height": 480}
    coco.write_text(json.dumps({"images": [row]}))
    import_features(path, tmp_path / "store", sizes=coco)
    assert RegionStore.open(tmp_path / "store")["coco:9"].image_wh_px == (640, 480)
    coco.write_text("[1, 2]")
    with pytest.raises(DataError, match="cannot read image sizes"):
        import_features(path, tmp_path / "other", sizes=coco)


def test_a_database_without_soft_labels_gives_regions_without_tags(tmp_path):
    arrays = {name: array for name, array in an_image(0).items() if name != "soft_labels"}
    path = write_database(tmp_path / "db", {NAMES[0]: pack_arrays(arrays)})
    summary = import_features(path, tmp_path / "store")
    assert not summary.has_classes
    assert RegionStore.open(tmp_path / "store").class_names == ("unknown",)


def test_damaged_values_are_listed_and_object_arrays_are_refused(tmp_path):
    good = an_image(0)
    evil = {**good, "features": np.array([[{}, {}]], dtype=object)}
    short = pack_arrays(good)[:-300]
    lying = pack_arrays(good).replace(b"\xa3<f2", b"\xa3<f4")
    no_boxes = {name: array for name, array in good.items() if name != "norm_bb"}
    values = {
        "a": as_npz(evil),
        "b": short,
        "c": lying,
        "d": pack_arrays(no_boxes),
        "e": b"\x93\x01\x02\x03",
        "f": as_npz(good),
    }
    path = write_database(tmp_path / "db", {f"vg_{name}": value for name, value in zip("123456", values.values())})
    summary = import_features(path, tmp_path / "store")
    assert (summary.images, summary.failed) == (1, 5)
    reported = (tmp_path / "store" / "failed.jsonl").read_text()
    for reason in (
        "Object arrays cannot be loaded",
        "do not fit its shape (2, 4)",
        "it has no norm_bb",
        "holds a list",
    ):
        assert reason in reported


def test_an_npz_that_unpacks_without_bounds_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("cmal.regions.imports.uniter.MAX_VALUE_BYTES", 1000)
    path = write_database(tmp_path / "db", {NAMES[0]: as_npz(an_image(0))})
    with pytest.raises(DataError, match="unpacks to more than"):
        import_features(path, tmp_path / "store")


def test_a_folder_that_is_no_database_is_told(tmp_path):
    (tmp_path / "data.mdb").write_bytes(b"\0" * 16 + b"\xde\xc0\xef\xbe" + b"\0" * 5000)
    with pytest.raises(DataError, match="not an LMDB"):
        import_features(tmp_path, tmp_path / "store")
