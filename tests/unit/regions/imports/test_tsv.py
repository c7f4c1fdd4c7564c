"""Bottom-up-attention and LXMERT tsv files, written here exactly as their extractors write them."""

from __future__ import annotations

import base64
import csv
from pathlib import Path

import numpy as np
import pytest

from cmal.errors import DataError, StoreError
from cmal.regions.imports import import_features
from cmal.regions.imports.tsv import count_fields
from cmal.regions.store.store import RegionStore

LXMERT_FIELDS = "img_id img_h img_w objects_id objects_conf attrs_id attrs_conf num_boxes boxes features".split()
BUTD_FIELDS = ["image_id", "image_w", "image_h", "num_boxes", "boxes", "features"]
BOXES = np.array([[1, 2, 30, 40], [0, 0, 64, 48]], np.float32)


def features_of(number: int, regions: int = 2) -> np.ndarray:
    return np.arange(regions * 4, dtype=np.float32).reshape(regions, 4) / 8 + number


def lxmert_row(name: str, number: int) -> dict:
    """One row as airsplay's extractor makes it: int64 ids, float32 numbers, base64 of the bytes."""
    arrays = {
        "objects_id": np.array([number, 1599]),
        "objects_conf": np.array([0.75, 0.5], np.float32),
        "attrs_id": np.array([0, 399]),
        "attrs_conf": np.array([0.25, 0.125], np.float32),
        "boxes": BOXES,
        "features": features_of(number),
    }
    encoded = {key: base64.b64encode(array).decode() for key, array in arrays.items()}
    return {"img_id": name, "img_h": 48, "img_w": 64, "num_boxes": 2, **encoded}


def write_rows(path: Path, fields: list[str], rows: list[dict]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fields, delimiter="\t")  # ends its lines with \r\n
        writer.writerows(rows)
    return path


def test_an_lxmert_file_goes_round(tmp_path):
    names = ["COCO_train2014_000000391895", "COCO_val2014_000000000139"]
    path = write_rows(tmp_path / "f.tsv", LXMERT_FIELDS, [lxmert_row(name, n) for n, name in enumerate(names)])
    summary = import_features(path, tmp_path / "store")
    assert (summary.format, summary.images, summary.regions, summary.notes()) == ("lxmert-tsv", 2, 4, [])
    store = RegionStore.open(tmp_path / "store")
    assert list(store) == ["coco:391895", "coco:139"]
    assert store.detector == "import:lxmert-tsv"
    second = store["coco:139"]
    assert np.array_equal(second.features, features_of(1).astype(np.float16))
    assert np.array_equal(second.boxes_xyxy_px, BOXES)
    assert second.image_wh_px == (64, 48)  # the file has the height first
    assert second.object_ids.tolist() == [1, 1599]
    assert [store.class_names[number] for number in second.object_ids] == ["goal", "buoy"]
    assert second.object_conf.tolist() == [0.75, 0.5]
    assert second.attribute_ids.tolist() == [0, 399]
    assert second.attribute_conf.tolist() == [0.25, 0.125]
    assert second.class_top_ids[:, 0].tolist() == [1, 1599]
    assert second.class_top_probs[0].tolist() == [0.75] + [0.0] * 9


def butd_row(image_id: int, regions: int = 2) -> dict:
    return {
        "image_id": image_id,
        "image_w": 64,
        "image_h": 48,
        "num_boxes": regions,
        "boxes": base64.b64encode(BOXES[:regions]).decode(),
        "features": base64.b64encode(features_of(0, regions)).decode(),
    }


def test_a_bottom_up_attention_file_has_the_width_first_and_no_classes(tmp_path):
    path = write_rows(tmp_path / "f.tsv", BUTD_FIELDS, [butd_row(150367), butd_row(9, 1), butd_row(10, 0)])
    summary = import_features(path, tmp_path / "store", dataset="coco")
    assert summary.format == "butd-tsv" and not summary.has_classes
    assert "no anchors will be found" in " ".join(summary.notes())
    store = RegionStore.open(tmp_path / "store")
    assert list(store) == ["coco:150367", "coco:9", "coco:10"]
    assert store["coco:150367"].image_wh_px == (64, 48)
    assert store.class_names == ("unknown",)
    assert store["coco:10"].features.shape == (0, 4)


def test_numbers_alone_do_not_tell_the_data_set(tmp_path):
    path = write_rows(tmp_path / "f.tsv", BUTD_FIELDS, [butd_row(150367)])
    with pytest.raises(DataError, match='the data set of the image "150367"') as caught:
        import_features(path, tmp_path / "store")
    assert "--dataset" in caught.value.hint


def test_text_that_python_3_wrapped_in_b_and_quotes_is_read(tmp_path):
    row = butd_row(1)
    row["boxes"], row["features"] = f"b'{row['boxes']}'", f"b'{row['features']}'"
    path = write_rows(tmp_path / "f.tsv", BUTD_FIELDS, [row])
    import_features(path, tmp_path / "store", dataset="vg")
    assert np.array_equal(RegionStore.open(tmp_path / "store")["vg:1"].boxes_xyxy_px, BOXES)


def test_damaged_lines_are_listed_with_their_line_and_the_rest_is_taken(tmp_path):
    rows = [lxmert_row(f"COCO_val2014_{n:012d}", n) for n in range(1, 8)]
    rows[1]["features"] = rows[1]["features"][:-12]  # 24 bytes of 32: three numbers a region
    rows[2]["objects_id"] = base64.b64encode(np.array([5, 1600])).decode()
    rows[3]["boxes"] = "!!" + rows[3]["boxes"]
    rows[4]["num_boxes"] = "two"
    rows[5]["features"] = base64.b64encode(np.full((2, 4), np.nan, np.float32)).decode()
    path = write_rows(tmp_path / "f.tsv", LXMERT_FIELDS, rows)
    with path.open("ab") as file:
        file.write(b"COCO_val2014_000000000099\t48\t64\tAAAA")  # the download broke off
    summary = import_features(path, tmp_path / "store")
    assert (summary.images, summary.failed) == (2, 6)
    assert list(RegionStore.open(tmp_path / "store")) == ["coco:1", "coco:7"]
    failed = (tmp_path / "store" / "failed.jsonl").read_text().splitlines()
    for line, (place, reason) in zip(
        failed,
        [
            ("line 2", "3 features per region"),
            ("line 3", "object ids go from 5 to 1600; there are 1,600 object names"),
            ("line 4", "boxes is not base64"),
            ("line 5", "invalid literal"),
            ("line 6", "hold NaN"),
            ("line 8", "4 fields instead of 10: cut short?"),
        ],
    ):
        assert f"f.tsv: {place}" in line and reason in line


def test_features_beyond_float16_are_cut_and_counted(tmp_path):
    row = lxmert_row("COCO_val2014_000000000001", 0)
    wild = np.array([[1, 70000, -1e30, 65504], [np.inf, 2, 3, 4]], np.float32)
    row["features"] = base64.b64encode(wild).decode()
    path = write_rows(tmp_path / "f.tsv", LXMERT_FIELDS, [row, lxmert_row("COCO_val2014_000000000002", 0)])
    summary = import_features(path, tmp_path / "store")
    assert (summary.clipped_numbers, summary.clipped_images) == (3, 1)
    assert "3 feature numbers in 1 images were beyond float16" in str(summary)
    stored = RegionStore.open(tmp_path / "store")["coco:1"].features
    assert stored.tolist() == [[1, 65504, -65504, 65504], [65504, 2, 3, 4]]


def test_boxes_are_cut_to_the_image(tmp_path):
    row = lxmert_row("COCO_val2014_000000000001", 0)
    row["boxes"] = base64.b64encode(np.array([[-3, 2, 70, 40], [0, 0, 1, 1]], np.float32)).decode()
    import_features(write_rows(tmp_path / "f.tsv", LXMERT_FIELDS, [row]), tmp_path / "store")
    assert RegionStore.open(tmp_path / "store")["coco:1"].boxes_xyxy_px[0].tolist() == [0, 2, 64, 40]


def test_an_image_that_comes_twice_counts_once(tmp_path):
    rows = [lxmert_row(name, n) for n, name in enumerate(["COCO_val2014_000000000001", "COCO_val2014_000000000001"])]
    summary = import_features(write_rows(tmp_path / "f.tsv", LXMERT_FIELDS, rows), tmp_path / "store")
    assert (summary.images, summary.repeated) == (1, 1)
    assert RegionStore.open(tmp_path / "store")["coco:1"].object_ids[0] == 0  # the first


def test_a_file_of_another_kind_is_refused_and_leaves_no_store(tmp_path):
    path = tmp_path / "f.tsv"
    path.write_text("a\tb\tc\td\te\n")
    with pytest.raises(DataError, match="none of the known feature formats"):
        import_features(path, tmp_path / "store")
    with pytest.raises(DataError, match="its first line has 5 tab-separated fields"):
        import_features(path, tmp_path / "store", format="lxmert-tsv")
    assert not (tmp_path / "store" / "index.json").exists()
    path.write_bytes(b"")
    assert count_fields(path) == 0


def test_a_file_without_one_good_line_says_why(tmp_path):
    path = tmp_path / "f.tsv"
    path.write_text("\t".join(["x"] * 10) + "\n")
    with pytest.raises(DataError, match="line 1: invalid literal"):
        import_features(path, tmp_path / "store")
    assert not (tmp_path / "store" / "index.json").exists()


def test_a_line_without_end_is_not_read_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("cmal.regions.imports.tsv.LONGEST_LINE", 5000)
    path = write_rows(tmp_path / "f.tsv", LXMERT_FIELDS, [lxmert_row("COCO_val2014_000000000001", 0)])
    with path.open("ab") as file:
        file.write(b"A" * 20_000)
    with pytest.raises(DataError, match="line 2\n  the line is longer"):
        import_features(path, tmp_path / "store")


def test_progress_is_told_with_an_estimate_of_the_whole(tmp_path):
    rows = [lxmert_row(f"COCO_val2014_{n:012d}", 1) for n in range(250)]
    reports = []
    import_features(write_rows(tmp_path / "f.tsv", LXMERT_FIELDS, rows), tmp_path / "store", report=reports.append)
    assert reports[0].note.startswith("about 250 images, 0.1 MB at about 2 regions an image; ")
    assert [report.done for report in reports] == [0, 100, 200, 250]
    assert [report.total for report in reports] == [250, 250, 250, 250]


def test_a_store_that_the_disk_cannot_hold_is_refused_before_the_first_image_is_written(tmp_path, monkeypatch):
    class Full:
        free = 10_000

    monkeypatch.setattr("cmal.regions.store.shards.shutil.disk_usage", lambda folder: Full)
    rows = [lxmert_row(f"COCO_val2014_{n:012d}", 1) for n in range(250)]
    path = write_rows(tmp_path / "f.tsv", LXMERT_FIELDS, rows)
    with pytest.raises(StoreError, match=r"250 images with about 2 regions need 0\.1 MB; the disk has 0\.0 MB free"):
        import_features(path, tmp_path / "store")
    assert list((tmp_path / "store").iterdir()) == []


# -- the real file -----------------------------------------------------------------------------------------------------


@pytest.fixture
def real_store(real_data, tmp_path) -> RegionStore:
    import_features(real_data / "butd" / "train2014_obj36.tsv", tmp_path / "store")
    return RegionStore.open(tmp_path / "store")


def test_the_real_file_gives_the_numbers_that_its_plain_loop_gives(real_data, real_store):
    csv.field_size_limit(1 << 30)
    count = 0
    with (real_data / "butd" / "train2014_obj36.tsv").open() as file:
        for row in csv.DictReader(file, LXMERT_FIELDS, delimiter="\t"):
            regions = real_store[f"coco:{int(row['img_id'].split('_')[-1])}"]
            features = np.frombuffer(base64.b64decode(row["features"]), np.float32).reshape(36, 2048)
            assert np.array_equal(regions.features, features.astype(np.float16))
            ids = np.frombuffer(base64.b64decode(row["objects_id"]), np.int64)
            assert np.array_equal(regions.object_ids, ids)
            boxes = np.frombuffer(base64.b64decode(row["boxes"]), np.float32).reshape(36, 4)
            np.testing.assert_allclose(regions.boxes_xyxy_px, boxes, atol=0.1)
            count += 1
    assert count == len(real_store) == 5


def test_the_real_files_sizes_are_those_of_its_photographs(real_data, real_store):
    from PIL import Image

    for path in sorted((real_data / "butd" / "images" / "train2014").glob("*.jpg")):
        with Image.open(path) as image:
            assert real_store[f"coco:{int(path.stem.split('_')[-1])}"].image_wh_px == image.size


def test_the_real_object_ids_become_tags_that_are_in_the_photographs(real_store):
    def tags(image_id: str) -> set[str]:
        regions = real_store[image_id]
        return {
            real_store.class_names[number]
            for number, sure in zip(regions.object_ids, regions.object_conf)
            if sure > 0.3
        }

    assert {"cat", "window", "car"} <= tags("coco:573195")
    assert {"helmet", "pants", "dirt"} <= tags("coco:207647")  # a baseball player
    assert {"snow", "trees"} <= tags("coco:494628")


def test_the_real_tags_meet_words_as_anchors(real_store):
    from cmal.anchors.finder import AnchorFinder
    from cmal.anchors.thesaurus import Thesaurus

    finder = AnchorFinder(Thesaurus.load(), real_store.class_names, real_store.attribute_names)
    words = "a black cat sits in the window above a parked car".split()
    anchors = finder.find_anchors(finder.find_mentions(words), real_store["coco:573195"])
    met = {(real_store.class_names[real_store["coco:573195"].object_ids[r]]) for r, _ in anchors.pairs}
    assert {"cat", "window", "car"} <= met
