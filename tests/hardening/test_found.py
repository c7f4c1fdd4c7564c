"""Inputs that the fuzzing found and that the readers were mended for; each one by name, as small as it can be."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
from hardening import seeds
from hardening.fuzzing import Reader, write_files
from hardening.readers import all_readers

from cmal.data.example import ExampleBuilder
from cmal.data.records import ImageTextRecord, parse_record
from cmal.data.text import WordPieces
from cmal.errors import CheckpointError, CmalError, DataError, RecipeError, StoreError
from cmal.io.isolated import iterate_isolated
from cmal.io.lmdb_files import lmdb_entries
from cmal.io.pickles import read_pickle
from cmal.regions.imports.foreign import BadRow, ForeignImage, Tally, to_regions
from cmal.regions.store.store import RegionStore
from cmal.runs.building import load_word_pieces
from cmal.runs.folder import read_metrics
from cmal.runs.recipe import PretrainRecipe, load_recipe
from cmal.runs.results import read_result
from cmal.training.checkpoint import load_weights
from cmal.training.state import load_progress, validation_at


def reader(name: str) -> Reader:
    return next(one for one in all_readers() if one.name == name)


def refuses(name: str, folder: Path, changes: dict[str, bytes]) -> str:
    """The message with which a reader refuses its valid input with some files changed."""
    files = reader(name).files
    assert set(changes) <= set(files)
    with pytest.raises(CmalError) as caught:
        reader(name).read(write_files(folder, {**files, **changes}))
    return str(caught.value)


def with_json(name: str, file: str, **changes: object) -> bytes:
    return json.dumps({**json.loads(reader(name).files[file]), **changes}).encode()


def test_half_a_character_in_a_record():
    with pytest.raises(ValueError, match='"caption" should be a text'):
        parse_record('{"id": "a", "image_id": "b", "caption": "\\ud800"}', ImageTextRecord)


@pytest.mark.parametrize(
    "value",
    ["!!bool maybe", "!!int ''", "!!float ''", "!!timestamp x", "1" + "0" * 400, "[" * 600, "{? [a] : b}", "&a [*a]"],
)
def test_tagged_and_endless_values_in_a_recipe(tmp_path, value):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"optimizer: {{lr: {value}}}\n")
    with pytest.raises(RecipeError):
        load_recipe(PretrainRecipe, path)
    with pytest.raises(RecipeError):
        load_recipe(
            PretrainRecipe, write_files(tmp_path, {"good.yaml": b"out: x\n"}) / "good.yaml", [f"optimizer.lr={value}"]
        )


def test_an_endless_key_does_not_make_an_endless_message(tmp_path):
    (tmp_path / "recipe.yaml").write_text("k" * 100_000 + ": 1\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(PretrainRecipe, tmp_path / "recipe.yaml")
    assert len(str(caught.value)) < 2_000


@pytest.mark.parametrize(
    "metric", [{"value": "0.5"}, {"value": float("nan")}, {"value": True}, {"value": 1, "low": 2, "high": 1}]
)
def test_a_metric_that_is_no_number_is_not_read_back(tmp_path, metric):
    row = json.loads(seeds.RESULT)
    row["metrics"] = {"accuracy": metric}
    (tmp_path / "r.json").write_text(json.dumps(row))
    with pytest.raises(DataError, match="cannot read the result"):
        read_result(tmp_path / "r.json")


def test_a_version_that_is_no_number_is_not_read_back(tmp_path):
    row = json.loads(seeds.RESULT) | {"versions": {"python": float("inf")}}
    (tmp_path / "r.json").write_text(json.dumps(row))
    with pytest.raises(DataError, match="cannot read the result"):
        read_result(tmp_path / "r.json")


def test_a_class_name_of_half_a_character(tmp_path):
    text = reader("import vinvl predictions").files["predictions.tsv"].replace(b'"dog"', b'"\\ud800"')
    assert "not a text" in refuses("import vinvl predictions", tmp_path, {"predictions.tsv": text})


def test_a_metrics_line_that_a_kill_cut_is_left_out_and_a_damaged_one_told(tmp_path):
    lines = seeds.METRICS.splitlines(keepends=True)
    (tmp_path / "m.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:20])
    assert [row["step"] for row in read_metrics(tmp_path / "m.jsonl")] == [1, 2]
    (tmp_path / "m.jsonl").write_bytes(lines[0] + b'{"step": 2}\n')
    with pytest.raises(DataError, match="line 2"):
        read_metrics(tmp_path / "m.jsonl")


@pytest.mark.parametrize(
    "text", [b"", b"[1]", b"[" * 5000, b'{"model": 5}', b'{"model": {"vocab": {"a": "x"}}}', b"\xff"]
)
def test_a_damaged_tokenizer_is_a_message(tmp_path, text):
    (tmp_path / "tokenizer.json").write_bytes(text)
    with pytest.raises(DataError):
        WordPieces.from_pretrained(tmp_path)


def test_lines_that_name_lists_as_images(tmp_path):
    assert "image id is no text" in refuses("manifest, split lists", tmp_path, {"set/val.jsonl": b'{"image_id": []}\n'})


@pytest.mark.parametrize("name", ["..", "", ".hidden", "a/b", {"x": 1}, None])
def test_a_shard_name_that_is_no_plain_file_name(tmp_path, name):
    index = json.loads(reader("store index").files["index.json"])
    index["shards"][0]["name"] = name
    assert "plain file name" in refuses("store index", tmp_path, {"index.json": json.dumps(index).encode()})


def shard_with(file: str, **columns: np.ndarray) -> bytes:
    """A shard of the fuzzing's store with some datasets replaced."""
    out = io.BytesIO(reader("store shards").files[file])
    with h5py.File(out, "r+") as opened:
        for name, value in columns.items():
            del opened[name]
            opened[name] = value
    return out.getvalue()


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("boxes_xyxy_px", np.full((3, 4), np.nan, np.float32), "reversed, outside"),
        ("boxes_xyxy_px", np.array([[5, 5, 1, 1]] * 3, np.float32), "reversed, outside"),
        ("boxes_xyxy_px", np.array([[5, 5, 9000, 9]] * 3, np.float32), "reversed, outside"),
        ("object_ids", np.array([0, 1, 7], np.int16), "object_ids go from 0 to 7; there are 3 names"),
        ("attribute_ids", np.array([0, 1, -2], np.int16), "attribute_ids go from -2"),
        ("object_conf", np.array([0.5, np.nan, 0.5], np.float16), "object_conf go from nan"),
        ("class_top_probs", np.full((3, 10), 3, np.float16), "class_top_probs go from"),
        ("sizes_wh_px", np.array([[0, 480]], np.int32), "without width or height"),
        ("image_ids", np.array([7], np.int64), "image_ids is int64"),
        ("offsets", np.array([0.0, 3.0]), "offsets is float64"),
    ],
)
def test_numbers_in_a_store_that_cannot_be(tmp_path, column, value, says):
    (tmp_path / "part.h5").write_bytes(shard_with("part-00001.h5", **{column: value}))
    with pytest.raises(StoreError, match=says):
        RegionStore.open(tmp_path / "part.h5")["coco:3"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_reach_no_model(tmp_path, bad):
    features = np.zeros((3, 3), np.float16)
    features[1, 2] = bad
    (tmp_path / "part.h5").write_bytes(shard_with("part-00001.h5", features=features))
    pieces = WordPieces.from_vocab(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"])
    builder = ExampleBuilder(pieces, RegionStore.open(tmp_path / "part.h5"), 8)
    with pytest.raises(StoreError, match="not finite"):
        builder.build("x", "coco:3", "a")


def test_a_compressed_dataset_that_unpacks_without_end(tmp_path):
    path = tmp_path / "part.h5"
    path.write_bytes(reader("store shards").files["part-00001.h5"])
    with h5py.File(path, "r+") as file:
        del file["header"]
        file.create_dataset("header", (1 << 40,), "u1", chunks=(1 << 20,), compression="gzip")
    with pytest.raises(StoreError, match="bytes of memory"):
        RegionStore.open(path)


def test_an_image_in_two_shards(tmp_path):
    files = reader("store shards").files
    index = json.loads(files["index.json"])
    index["shards"][1] = {**index["shards"][0], "name": "part-00001.h5"}
    changes = {"index.json": json.dumps(index).encode(), "part-00001.h5": files["part-00000.h5"]}
    with pytest.raises(StoreError, match="another shard has too"):
        RegionStore.open(write_files(tmp_path, {**files, **changes}))


def foreign(**changes: object) -> ForeignImage:
    whole = {
        "features": np.zeros((2, 3), np.float32),
        "boxes_xyxy": np.array([[0, 0, 5, 5], [1, 1, 9, 9]], np.float32),
        "image_wh_px": (10, 10),
        "object_ids": np.array([0, 1]),
        "object_conf": np.array([0.5, 0.25]),
    }
    return ForeignImage("k", "line 1", **{**whole, **changes})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"object_conf": np.array([0.5, 1e5])}, "object confidences go from 0.5 to 1e"),
        ({"object_conf": np.array([-0.5, 0.5])}, "object confidences go from -0.5"),
        ({"object_conf": np.array([0.5, 1e308])}, "object confidences"),
        ({"boxes_xyxy": np.array([[5, 5, 1, 1], [1, 1, 9, 9]])}, "reversed"),
        ({"boxes_xyxy": np.array([[50, 50, 60, 60], [1, 1, 9, 9]])}, "outside of the image of 10 x 10"),
        ({"boxes_xyxy": np.array([[1, 1, 1e300, 9], [1, 1, 9, 9]])}, "not finite"),
        ({"image_wh_px": (2**40, 10)}, "image's size is"),
        ({"features": np.zeros((2, 3), complex)}, "type complex128"),
    ],
)
def test_an_import_refuses_what_a_store_could_not_hold_rightly(changes, says):
    with pytest.raises(BadRow, match=says):
        to_regions(foreign(**changes), "coco:1", 2, 0, {}, Tally())


def test_a_box_that_reaches_out_of_its_image_is_cut():
    image = foreign(boxes_xyxy=np.array([[-3, 0, 5, 5], [1, 1, 12, 9]]))
    assert to_regions(image, "coco:1", 2, 0, {}, Tally()).boxes_xyxy_px.tolist() == [[0, 0, 5, 5], [1, 1, 10, 9]]


@pytest.mark.parametrize("size", [[640], [640, 0], [640.5, 480], [1e400, 1], [10**30, 480], "ab"])
def test_sizes_that_are_none(tmp_path, size):
    text = json.dumps({"coco:9": size}).encode()
    assert "cannot read image sizes" in refuses("import sizes", tmp_path, {"sizes.json": text})


def test_an_lmdb_that_is_cut_or_leads_nowhere_is_told_and_ends_no_process(tmp_path):
    whole = reader("import uniter msgpack").files["db/data.mdb"]
    path = tmp_path / "data.mdb"
    for keep in (0, 100, 4096, 8192, len(whole) - 4096):
        path.write_bytes(whole[:keep])
        with pytest.raises(DataError, match=r"cannot import|cannot read"):
            list(iterate_isolated(path, lambda: lmdb_entries(path)))
    for place in range(0, len(whole), 389):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            list(iterate_isolated(path, lambda: lmdb_entries(path)))
        except DataError as error:
            assert "LMDB" in str(error) or "crashed" in str(error)


def test_negative_counts_in_a_table_of_features(tmp_path):
    from hardening.formats import PICKLE, lmdb_of

    form = lmdb_of(PICKLE)
    tables = form.parse(reader("import volta-lmdb").files["db/data.mdb"])
    tables = {key: {**table, "num_boxes": -1} for key, table in tables.items()}
    assert "num_boxes is -1" in refuses("import volta-lmdb", tmp_path, {"db/data.mdb": form.build(tables)})


@pytest.mark.parametrize(
    ("name", "value"), [("width", 7), ("width", 10**12), ("width", -8), ("heads", 3), ("id", 1), ("dropout", "x")]
)
def test_model_sizes_that_cannot_be_built(tmp_path, name, value):
    config = json.loads(reader("checkpoint facts").files["config.json"])
    config["sizes"][name] = value
    message = refuses("checkpoint facts", tmp_path, {"config.json": json.dumps(config).encode()})
    assert "config.json" in message


@pytest.mark.parametrize(
    "text", ["[]", '{"step": -1, "skipped": 0}', '{"step": 1e400, "skipped": 0}', "[" * 9999, '{"step": true}']
)
def test_progress_that_cannot_be(tmp_path, text):
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(CheckpointError):
        load_progress(tmp_path)


@pytest.mark.parametrize("text", ["[]", "{", '{"main": "x"}', '{"main": null}', "[" * 9999])
def test_measures_that_are_none(tmp_path, text):
    (tmp_path / "validation.json").write_text(text)
    with pytest.raises(CheckpointError):
        validation_at(tmp_path)


@pytest.mark.parametrize("place", [300, -1])
def test_one_changed_bit_of_a_checkpoints_weights_is_noticed(tmp_path, place):
    files = dict(reader("checkpoint, hashed").files)
    weights = bytearray(files["model.safetensors"])
    weights[place] ^= 1
    write_files(tmp_path, {**files, "model.safetensors": bytes(weights)})
    with pytest.raises(CheckpointError, match="other bytes than were written"):
        load_weights(tmp_path)


def test_an_optimizer_state_without_its_means(tmp_path):
    from hardening.formats import TORCH

    state = TORCH.parse(reader("checkpoint optimizer").files["optimizer.pt"])
    del state["state"][0]["exp_avg"]
    assert "parameter 0" in refuses("checkpoint optimizer", tmp_path, {"optimizer.pt": TORCH.build(state)})


def read_data(folder: Path, data: bytes) -> object:
    (folder / "refs(unc).p").write_bytes(data)
    return read_pickle(folder / "refs(unc).p")


def unfolding(kind: type) -> bytes:
    """A pickle of a few hundred bytes that stands for 10 to the 30th values."""
    value: object = kind(range(10))
    for _ in range(29):
        value = kind([value] * 10)
    return pickle.dumps(value, 2)


@pytest.mark.parametrize("kind", [list, tuple])
def test_a_pickle_that_unfolds_without_end(tmp_path, kind):
    data = unfolding(kind)
    assert len(data) < 2_000
    with pytest.raises(DataError, match="unfolds to far more values than it has bytes"):
        read_data(tmp_path, data)


def test_pickles_whose_keys_take_for_ever_to_hash(tmp_path):
    nested: object = (1,)
    for _ in range(200):
        nested = (nested, nested)
    data = b"\x80\x02}" + pickle.dumps(nested, 2)[2:-1] + b"K\x01s."
    with pytest.raises(DataError, match="more than 2 s of processor time"):
        read_data(tmp_path, data)
    count = 100_000  # a megabyte whose wide key is hashed again and again
    wide = b"".join([b"(", b"M\x01\x02" * count, b"tr\x00\x00\x10\x00K\x01s"])
    with pytest.raises(DataError, match="more than 3 s of processor time"):
        read_data(tmp_path, b"\x80\x02}" + wide + b"j\x00\x00\x10\x00K\x01s" * count + b".")


def test_a_pickle_that_holds_itself_or_is_a_hundred_deep(tmp_path):
    ring: list = []
    ring.append(ring)
    with pytest.raises(DataError, match="refers to itself"):
        read_data(tmp_path, pickle.dumps(ring, 2))
    deep: list = []
    for _ in range(100):
        deep = [deep]
    with pytest.raises(DataError, match="60 containers deep"):
        read_data(tmp_path, pickle.dumps(deep, 2))


def test_a_detection_whose_category_is_a_list(tmp_path):
    rows = [{"image_id": 9, "box": [1, 2, 3, 4], "category_id": [1], "score": 0.5}]
    message = refuses("prepare refcoco", tmp_path, {"det/dets.json": json.dumps(rows).encode()})
    assert '"category_id" should be a whole number' in message


def test_a_picture_whose_name_is_too_long_for_any_disk(tmp_path):
    row = json.dumps({"image": "a" * 400 + ".jpg", "caption": "a dog"}).encode()
    message = refuses("prepare pairs jsonl", tmp_path, {"table/captions.jsonl": row})
    assert "cannot be looked for" in message and "free some space" not in message


def test_an_npy_whose_head_is_no_literal(tmp_path):
    from cmal.regions.imports.mmf import read_npy

    for head in (b"{'descr': (", b"{'descr\0", b"{'descr': '<f4", b"(" * 60):
        (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00\x40\x00" + head.ljust(63) + b"\n")
        with pytest.raises(BadRow, match=r"is not a \.npy file"):
            read_npy(tmp_path / "x.npy")


@pytest.mark.parametrize("change", [b"cat\n", b""])
def test_another_vocabulary_beside_a_checkpoint(tmp_path, change):
    files = dict(reader("checkpoint, hashed").files)
    write_files(tmp_path / "a", files | {"vocab.txt": files["vocab.txt"].replace(b"dog\n", change)})
    with pytest.raises(CheckpointError, match=r"vocab\.txt has other bytes than were written"):
        load_word_pieces(tmp_path / "a")
    longer = {"vocab.txt": files["vocab.txt"] + b"more\n"}
    assert "has 10 word pieces, the model 9" in refuses("checkpoint facts", tmp_path / "b", longer)


def test_an_optimizer_state_of_other_parameters(tmp_path):
    from hardening.formats import TORCH

    state = TORCH.parse(reader("checkpoint optimizer").files["optimizer.pt"])
    state["param_groups"][0]["params"][0] = 7
    assert "numbers other parameters" in refuses("checkpoint optimizer", tmp_path, {"optimizer.pt": TORCH.build(state)})
