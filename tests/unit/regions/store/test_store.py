"""The store gives back what was written, by image id, in every process; and says what is wrong with a file."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from toys import numbered_regions as regions

from cmal.errors import ShapeError, StoreError
from cmal.io.files import sha256_of
from cmal.regions.store.layout import COLUMNS, StoreHeader, read_index
from cmal.regions.store.shards import StoreWriter, write_index, write_shard
from cmal.regions.store.store import RegionStore

HEADER = StoreHeader("toy", "abc", 3, ("dog", "tree"), ("red",))


def small_store(folder: Path) -> RegionStore:
    """Two shards: a (2 regions), b (none) | c (3 regions)."""
    first = write_shard(folder / "part-00000.h5", [("coco:1", regions(2)), ("coco:2", regions(0, 5))], HEADER)
    second = write_shard(folder / "part-00001.h5", [("coco:3", regions(3, 10))], HEADER)
    write_index(folder, HEADER, [second, first])
    return RegionStore.open(folder)


def test_what_was_written_comes_back_under_its_image_id(tmp_path):
    store = small_store(tmp_path)
    third = store["coco:3"]
    assert third.features.tolist() == [[10, 10, 10], [11, 11, 11], [12, 12, 12]]
    assert third.boxes_xyxy_px[0].tolist() == [10, 10, 15, 17]
    assert third.object_ids.tolist() == [0, 1, 0]
    assert third.attribute_ids.tolist() == [-1, -1, -1]
    assert third.class_top_ids[1].tolist() == [0, 1] * 5
    assert third.image_wh_px == (650, 480)
    assert len(store["coco:2"]) == 0 and store["coco:2"].features.shape == (0, 3)
    assert store.image_ids == ["coco:1", "coco:2", "coco:3"] and len(store) == 3
    assert "coco:3" in store and "coco:4" not in store
    assert store.regions_of("coco:1") == 2 and store.size_wh_px("coco:3") == (650, 480)
    assert (store.feature_size, store.class_names, store.attribute_names) == (3, ("dog", "tree"), ("red",))
    assert (store.detector, store.weights_sha256) == ("toy", "abc")


def test_columns_have_the_documented_types(tmp_path):
    one = small_store(tmp_path)["coco:1"]
    types = {name: getattr(one, name).dtype for name in COLUMNS}
    assert types["features"] == np.float16 and types["boxes_xyxy_px"] == np.float32
    assert types["object_ids"] == types["class_top_ids"] == np.int16 and types["object_conf"] == np.float16


def test_a_read_array_is_the_callers_own(tmp_path):
    store = small_store(tmp_path)
    store["coco:1"].features[:] = 99
    assert store["coco:1"].features.max() == 1


def test_a_missing_image_is_told_with_what_the_store_holds_and_what_to_run(tmp_path):
    store = small_store(tmp_path)
    with pytest.raises(StoreError) as error:
        store["coco:391895"]
    assert str(error.value).splitlines() == [
        'cannot load regions of the image "coco:391895"',
        f'  {tmp_path} has no image "coco:391895"; it holds 3 images',
        f"  extract the missing ones: cmal extract-regions IMAGES --out {tmp_path}",
    ]


def test_the_same_input_gives_the_same_bytes(tmp_path):
    items = [("a:1", regions(2)), ("a:2", regions(4, 3))]
    first = write_shard(tmp_path / "one" / "part-00000.h5", items, HEADER)
    second = write_shard(tmp_path / "two" / "part-00000.h5", iter(items), HEADER)
    assert first == second
    assert first.sha256 == sha256_of(tmp_path / "one" / "part-00000.h5")


def test_a_single_file_opens_like_a_folder(tmp_path):
    small_store(tmp_path)
    store = RegionStore.open(tmp_path / "part-00001.h5")
    assert store.image_ids == ["coco:3"] and store["coco:3"].features[2, 0] == 12


def test_chunked_and_compressed_files_are_read_too(tmp_path):
    small_store(tmp_path)
    with h5py.File(tmp_path / "part-00001.h5", "r") as plain, h5py.File(tmp_path / "packed.h5", "w") as packed:
        for name in plain:
            packed.create_dataset(name, data=plain[name][()], compression="gzip")
    store = RegionStore.open(tmp_path / "packed.h5")
    assert store["coco:3"].features.tolist() == RegionStore.open(tmp_path)["coco:3"].features.tolist()
    assert _read_in_child(store) == [10, 10, 10]


def _read_in_child(store: RegionStore) -> list[float]:
    return _in_child(lambda: store["coco:3"].features[0].tolist())


def _in_child(work: Callable[[], object]) -> object:
    context = multiprocessing.get_context("fork")
    parent, child = context.Pipe()
    process = context.Process(target=lambda: child.send(work()))
    process.start()
    assert parent.poll(20), "the child process did not answer"
    process.join()
    return parent.recv()


def test_an_open_store_survives_a_fork_and_pickling(tmp_path):
    store = small_store(tmp_path)
    assert store["coco:3"].features[0].tolist() == [10, 10, 10]
    assert _read_in_child(store) == [10, 10, 10]
    assert store["coco:3"].features[0].tolist() == [10, 10, 10]
    assert pickle.loads(pickle.dumps(store))["coco:1"].features[1].tolist() == [1, 1, 1]


def test_reading_on_with_few_files_and_little_memory_gives_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("cmal.regions.store.store.MAX_OPEN_FILES", 1)
    monkeypatch.setattr("cmal.regions.store.store.MAX_MAPPED_BYTES", 1)
    monkeypatch.setattr("cmal.regions.store.store.MAX_MAPPED_BYTES_ALONE", 1)
    store = small_store(tmp_path)
    values = [store[name].features[0, 0] for name in ("coco:1", "coco:3", "coco:1", "coco:3")]
    assert values == [0, 10, 0, 10]


def test_a_worker_lets_go_of_pages_that_a_process_alone_keeps(tmp_path, monkeypatch):
    monkeypatch.setattr("cmal.regions.store.store.MAX_MAPPED_BYTES", 1)
    released = []
    monkeypatch.setattr(
        "cmal.regions.store.shard_file.ShardFile.release", lambda file, everything: released.append(file)
    )
    store = small_store(tmp_path)

    def read_three_times() -> int:
        for _ in range(3):
            store["coco:3"]
        return len(released)

    assert read_three_times() == 0
    assert _in_child(read_three_times) == 3


def test_features_too_large_for_half_precision_are_cut_and_not_finite_ones_refused(tmp_path):
    large = regions(1)
    large.features[0] = [1e9, -1e9, 1]
    write_shard(tmp_path / "a.h5", [("a:1", large)], HEADER)
    assert RegionStore.open(tmp_path / "a.h5")["a:1"].features.tolist() == [[65504, -65504, 1]]
    large.features[0, 0] = np.nan
    with pytest.raises(StoreError, match="not finite"):
        write_shard(tmp_path / "b.h5", [("a:1", large)], HEADER)
    assert not (tmp_path / "b.h5").exists() and list(tmp_path.glob(".*")) == []


def test_arrays_that_disagree_are_refused_with_their_image(tmp_path):
    wrong = StoreHeader("toy", "", 4, ("dog", "tree"), ())
    with pytest.raises(ShapeError, match=r'image "a:1"\n  features has shape \(2, 3\)'):
        write_shard(tmp_path / "a.h5", [("a:1", regions(2))], wrong)


def test_an_image_given_twice_is_refused(tmp_path):
    with pytest.raises(StoreError, match='"a:1" comes twice'):
        write_shard(tmp_path / "a.h5", [("a:1", regions(1)), ("a:1", regions(1))], HEADER)


def test_the_stream_writer_cuts_shards_and_writes_the_index_last(tmp_path):
    with StoreWriter(tmp_path / "s", HEADER, shard_size=2) as writer:
        for number in range(5):
            writer.add(f"a:{number}", regions(1, number))
        assert not (tmp_path / "s" / "index.json").exists()
    header, shards = read_index(tmp_path / "s")
    assert header == HEADER and [shard.images for shard in shards] == [2, 2, 1]
    assert RegionStore.open(tmp_path / "s")["a:4"].features[0, 0] == 4
    with pytest.raises(StoreError, match="it holds one already"):
        StoreWriter(tmp_path / "s", HEADER)


def test_a_stream_that_breaks_off_leaves_no_store(tmp_path):
    with pytest.raises(ZeroDivisionError), StoreWriter(tmp_path / "s", HEADER) as writer:
        writer.add("a:1", regions(1))
        _ = 1 / 0
    with pytest.raises(StoreError, match=r"no index\.json"):
        RegionStore.open(tmp_path / "s")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda file: file.__delitem__("boxes_xyxy_px"), "no dataset 'boxes_xyxy_px'"),
        (lambda file: _replace(file, "object_ids", np.zeros(3, np.int32)), r"object_ids is int32 \(3,\)"),
        (lambda file: _replace(file, "features", np.zeros((2, 3), np.float16)), r"features is float16 \(2, 3\)"),
        (lambda file: _replace(file, "offsets", np.array([3, 0])), "offsets do not rise"),
        (lambda file: _link(file, h5py.SoftLink("/object_ids")), "not a dataset in the file itself"),
        (lambda file: _link(file, h5py.ExternalLink("other.h5", "/x")), "not a dataset in the file itself"),
    ],
)
def test_a_file_of_another_shape_is_refused_by_name(tmp_path, damage, says):
    small_store(tmp_path)
    with h5py.File(tmp_path / "part-00001.h5", "r+") as file:
        damage(file)
    with pytest.raises(StoreError, match=says):
        RegionStore.open(tmp_path / "part-00001.h5")


def _replace(file: h5py.File, name: str, value: np.ndarray) -> None:
    del file[name]
    file[name] = value


def _link(file: h5py.File, link: h5py.SoftLink | h5py.ExternalLink) -> None:
    del file["attribute_ids"]
    file["attribute_ids"] = link


def test_data_kept_in_another_file_is_refused(tmp_path):
    small_store(tmp_path)
    with h5py.File(tmp_path / "part-00001.h5", "r+") as file:
        del file["object_ids"]
        file.create_dataset("object_ids", (3,), "<i2", external=[("/etc/hostname", 0, 6)])
    with pytest.raises(StoreError, match="not a dataset in the file itself"):
        RegionStore.open(tmp_path / "part-00001.h5")


@pytest.mark.parametrize("keep_bytes", [0, 100, 5000])
def test_a_cut_file_is_refused(tmp_path, keep_bytes):
    small_store(tmp_path)
    path = tmp_path / "part-00001.h5"
    path.write_bytes(path.read_bytes()[:keep_bytes])
    with pytest.raises(StoreError, match=r"cannot open .*part-00001\.h5"):
        RegionStore.open(tmp_path)["coco:3"]


def test_what_is_no_store_is_told_so(tmp_path):
    with pytest.raises(StoreError, match="there is no such file or folder"):
        RegionStore.open(tmp_path / "nowhere")
    with pytest.raises(StoreError, match=r"no index\.json"):
        RegionStore.open(tmp_path)
    (tmp_path / "index.json").write_text('{"format": "cmal-regions", "version": 2}')
    with pytest.raises(StoreError, match="version 2 of the format; this program reads version 1"):
        RegionStore.open(tmp_path)
    (tmp_path / "index.json").write_text('{"format": "other"}')
    with pytest.raises(StoreError, match="its format is 'other'"):
        RegionStore.open(tmp_path)


def test_shards_of_two_detectors_do_not_mix(tmp_path):
    small_store(tmp_path)
    other = StoreHeader("other", "def", 3, ("dog", "tree"), ("red",))
    info = write_shard(tmp_path / "part-00001.h5", [("coco:3", regions(3))], other)
    write_index(tmp_path, HEADER, [*read_index(tmp_path)[1][:1], info])
    with pytest.raises(StoreError, match=r"part-00001\.h5 comes from other"):
        RegionStore.open(tmp_path)
