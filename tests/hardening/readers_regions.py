"""Readers of region stores, imports of features, and images; see `readers.py`."""

from __future__ import annotations

import base64
import io
import json
import pickle
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from hardening.formats import (
    FEATURE_ROWS,
    H5,
    JSON,
    JSON_LINES,
    KEYED_JSON,
    LINES,
    MSGPACK,
    NPY,
    NPZ,
    PICKLE,
    lmdb_of,
    write_lmdb,
)
from hardening.fuzzing import Reader
from PIL import Image
from toys import numbered_regions

from cmal.data.example import ExampleBuilder
from cmal.data.text import WordPieces
from cmal.errors import CmalError
from cmal.regions.extract import read_failures
from cmal.regions.images import read_image
from cmal.regions.imports import import_features
from cmal.regions.store.layout import StoreHeader
from cmal.regions.store.plan import Plan, load_plan, save_plan
from cmal.regions.store.shards import write_index, write_shard
from cmal.regions.store.store import RegionStore
from cmal.regions.store.verify import merge_store, verify_store

HEADER = StoreHeader("toy", "abc", 3, ("dog", "tree", "cat"), ("red",))
PIECES = WordPieces.from_vocab(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog"])
BOXES = np.array([[1, 2, 30, 40], [0, 0, 64, 48]], np.float32)
FEATURES = np.arange(8, dtype=np.float32).reshape(2, 4) / 8
UNIT = np.array([[0, 0, 0.5, 0.25, 0.5, 0.25], [0.25, 0.5, 1, 1, 0.75, 0.5]], np.float32)


def check_store(store: RegionStore) -> None:
    """What a store promises of every image: shapes, finite numbers, ids that have names, boxes within the picture."""
    builder = ExampleBuilder(PIECES, store, 8)
    for image_id in store:
        assert isinstance(image_id, str)
        one = store[image_id]
        count, (width, height) = len(one), one.image_wh_px
        assert one.features.shape == (count, store.feature_size)
        assert np.isfinite(builder.build("x", image_id, "a dog").features).all()  # looked at where they are used
        assert one.boxes_xyxy_px.shape == (count, 4) and np.isfinite(one.boxes_xyxy_px).all()
        assert width > 0 and height > 0
        assert (one.boxes_xyxy_px[:, 2:] >= one.boxes_xyxy_px[:, :2]).all(), "a reversed box"
        assert (one.boxes_xyxy_px >= -1).all() and (one.boxes_xyxy_px <= [width + 1, height + 1] * 2).all(), (
            "a box outside"
        )
        assert ((one.object_ids >= 0) & (one.object_ids < len(store.class_names))).all()
        assert ((one.attribute_ids >= -1) & (one.attribute_ids < max(len(store.attribute_names), 1))).all()
        assert ((one.class_top_ids >= 0) & (one.class_top_ids < max(len(store.class_names), 1))).all()
        for shares in (one.object_conf, one.attribute_conf, one.class_top_probs):
            assert ((shares >= 0) & (shares <= 1)).all(), shares


def _store_files() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        shards = [
            write_shard(
                folder / "part-00000.h5", [("coco:1", numbered_regions(2)), ("coco:2", numbered_regions(0))], HEADER
            ),
            write_shard(folder / "part-00001.h5", [("coco:3", numbered_regions(3, 10))], HEADER),
        ]
        write_index(folder, HEADER, shards)
        plan = Plan(1000, (("coco:1", "coco:2"), ("coco:3",)))
        save_plan(folder, plan, HEADER, {"regions": "36"})
        (folder / "failed.jsonl").write_text('{"image_id": "coco:4", "path": "4.jpg", "reason": "empty"}\n')
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def _read_store(originals: dict[str, bytes], folder: Path) -> None:
    """Reads a store; where a shard was changed, `--verify` finds it, whether or not reading did."""
    is_changed = {name for name, data in originals.items() if (folder / name).read_bytes() != data}
    if any(name.endswith(".h5") for name in is_changed):
        copy = Path(shutil.copytree(folder, folder / "copy"))
        assert {name for name, _ in verify_store(copy)} == is_changed, "--verify passed over a damaged shard"
        shutil.rmtree(copy)
    store = RegionStore.open(folder)
    check_store(store)
    merged = RegionStore.open(merge_store(folder, folder / "merged.h5"))
    check_store(merged)
    assert list(merged) == list(store)


def _read_plan(folder: Path) -> None:
    plan = load_plan(folder, HEADER, {"regions": "36"})
    images = [image for shard in plan.shards() for image in shard]
    assert all(isinstance(image, str) for image in images) and plan.shard_size > 0
    assert all(isinstance(line["reason"], str) for line in read_failures(folder))


def _import(path: str, folder: Path, format: str | None = None, dataset: str = "coco", sizes: str = "") -> None:
    """An import; a store with as many images as it says, or none."""
    out = folder / "store"
    options = {"format": format, "dataset": dataset, "sizes": folder / sizes if sizes else None}
    try:
        summary = import_features(folder / path, out, **options)
    except CmalError:
        assert not (out / "index.json").exists()
        raise
    store = RegionStore.open(out)
    assert len(store) == summary.images > 0
    check_store(store)


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()


def _tsv_files() -> tuple[bytes, bytes]:
    """LXMERT's ten fields, and bottom-up-attention's six."""
    lxmert, butd = b"", b""
    for number in (9, 25):
        cells = (
            f"COCO_train2014_{number:012d}", 48, 64, _base64(np.array([number, 1599])),
            _base64(np.array([0.75, 0.5], np.float32)), _base64(np.array([0, 399])),
            _base64(np.array([0.25, 0.125], np.float32)), 2, _base64(BOXES), _base64(FEATURES),
        )  # fmt: skip
        lxmert += "\t".join(map(str, cells)).encode() + b"\r\n"
        cells = (number, 64, 48, 2, _base64(BOXES), _base64(FEATURES))
        butd += "\t".join(map(str, cells)).encode() + b"\r\n"
    return lxmert, butd


def _vinvl_files() -> dict[str, bytes]:
    both = _base64(np.concatenate([FEATURES, UNIT], axis=1))
    lines = [f"{number}\t2\t{both}\n" for number in (9, 25)]
    objects = [
        {"class": "dog", "conf": 0.75, "rect": [0.0, 0.0, 32.0, 12.0], "attributes": ["brown"], "attr_scores": [0.5]},
        {"class": "cat", "conf": 0.5, "rect": [16.0, 24.0, 64.0, 48.0]},
    ]
    labels = json.dumps({"image_h": 48, "image_w": 64, "objects": objects})
    return {
        "features.tsv": "".join(lines).encode(),
        "features.lineidx": f"0\n{len(lines[0])}\n".encode(),
        "predictions.tsv": "".join(f"{number}\t{labels}\n" for number in (9, 25)).encode(),
    }


def _vinvl_whole() -> bytes:
    """A predictions.tsv that holds the features too."""
    one = {"class": "dog", "conf": 0.75, "rect": [0.0, 0.0, 32.0, 12.0], "feature": _base64(FEATURES[0])}
    return "".join(
        f"{number}\t{json.dumps({'image_h': 48, 'image_w': 64, 'objects': [one, one]})}\n" for number in (9, 25)
    ).encode()


def _uniter_image() -> dict[str, np.ndarray]:
    soft_labels = np.zeros((2, 1601), np.float16)
    soft_labels[0, [0, 17]], soft_labels[1, 1600] = [0.5, 0.5], 1.0
    return {
        "features": FEATURES.astype(np.float16),
        "norm_bb": UNIT.astype(np.float16),
        "conf": np.array([0.25, 1.0], np.float16),
        "soft_labels": soft_labels,
    }


def _volta_tables() -> dict[str, dict[str, Any]]:
    probs = np.zeros((2, 1600), np.float32)
    probs[0, 16], probs[1, 1599] = 0.5, 1.0
    boxes, features = base64.b64encode(BOXES), base64.b64encode(FEATURES)
    volta = {"img_h": 48, "img_w": 64, "num_boxes": 2, "objects": np.array([16, 1599]), "cls_prob": probs}
    mmf = {"image_height": 48, "image_width": 64, "num_boxes": 2, "objects": np.array([16, 1599]), "cls_prob": probs}
    return {
        "COCO_train2014_000000000009": {**volta, "boxes": boxes, "features": features},
        "COCO_train2014_000000000025": {**mmf, "bbox": BOXES, "features": FEATURES},
        "139": {"image_id": "139", "image_h": "48", "image_w": "64", "num_boxes": "2", "boxes": boxes, "features": features},
    }  # fmt: skip


def _mmf_files() -> dict[str, bytes]:
    table = {**_volta_tables()["COCO_train2014_000000000025"]}
    features = table.pop("features")
    return {
        "f/COCO_train2014_000000000009.npy": NPY.build({"": features}),
        "f/COCO_train2014_000000000009_info.npy": NPY.build(table),
        "f/COCO_train2014_000000000025.npy": NPY.build({"": features}),
        "f/COCO_train2014_000000000025_info.npy": NPY.build(table),
    }


def _pictures() -> dict[str, bytes]:
    """One small picture in each format."""
    y, x = np.mgrid[:24, :32]
    colour = Image.fromarray(np.stack([x * 8, y * 8, x + y], 2).astype(np.uint8))
    grey16 = Image.fromarray((x * 2000).astype(np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    ways = {
        "rgb.png": (colour, {}),
        "grey16.png": (grey16, {}),
        "palette.png": (colour.quantize(8), {"transparency": 0}),
        "photo.jpg": (colour, {"exif": exif.tobytes()}),
        "cmyk.jpg": (colour.convert("CMYK"), {}),
        "moving.gif": (colour, {"save_all": True, "append_images": [colour.rotate(90)]}),
        "plain.bmp": (colour, {}),
        "plain.tif": (colour, {"compression": "tiff_lzw"}),
        "grey16.tif": (grey16, {}),
        "plain.webp": (colour, {}),
        "plain.ppm": (colour, {}),
        "plain.jp2": (colour, {}),
    }
    files = {}
    for name, (picture, options) in ways.items():
        out = io.BytesIO()
        kind = {"jpg": "JPEG", "tif": "TIFF", "jp2": "JPEG2000"}.get(name[-3:], name.rsplit(".", 1)[1].upper())
        picture.save(out, kind, **options)
        files[name] = out.getvalue()
    return files


def _read_image(originals: dict[str, bytes], folder: Path) -> None:
    changed = [name for name, data in originals.items() if (folder / name).read_bytes() != data]
    for name in changed or ["rgb.png"]:
        pixels = read_image(folder / name, folder)
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.size


def region_readers() -> list[Reader]:
    """Stores, imports, images."""
    store, (lxmert, butd), vinvl = _store_files(), _tsv_files(), _vinvl_files()
    sizes = {"sizes.json": b'{"coco:9": [640, 480], "coco:25": [64, 48]}'}
    uniter, tables, pictures = _uniter_image(), _volta_tables(), _pictures()
    names = ("coco_train2014_000000000009.npz", "coco_train2014_000000000025.npz")
    msgpack = write_lmdb({name.encode(): MSGPACK.build(uniter) for name in names} | {b"__keys__": b"[]"})
    npz = write_lmdb({name.encode(): NPZ.build(uniter) for name in names})
    volta = write_lmdb(
        {key.encode(): pickle.dumps(table, 2) for key, table in tables.items()} | {b"keys": pickle.dumps([])}
    )
    mmf, h5 = _mmf_files(), {name: H5 for name in store if name.endswith(".h5")}
    given = partial(_import, dataset="coco")
    return [
        Reader("store shards", store, h5, partial(_read_store, store), 4.0),
        Reader("store index", store, {"index.json": JSON}, partial(_read_store, store)),
        Reader("store plan, failures", store, {"plan.json": JSON, "failed.jsonl": JSON_LINES}, _read_plan),
        Reader("import lxmert-tsv", {"f.tsv": lxmert}, {"f.tsv": FEATURE_ROWS}, partial(given, "f.tsv"), 2.0),
        Reader("import butd-tsv", {"f.tsv": butd}, {"f.tsv": FEATURE_ROWS}, partial(given, "f.tsv")),
        Reader(
            "import vinvl-tsv",
            vinvl,
            {"features.tsv": FEATURE_ROWS, "features.lineidx": LINES, "predictions.tsv": KEYED_JSON},
            partial(given, "features.tsv", format="vinvl-tsv"),
            2.0,
        ),
        Reader(
            "import vinvl predictions",
            {"predictions.tsv": _vinvl_whole()},
            {"predictions.tsv": KEYED_JSON},
            partial(given, "predictions.tsv", format="vinvl-tsv"),
        ),
        Reader(
            "import uniter msgpack",
            {"db/data.mdb": msgpack},
            {"db/data.mdb": lmdb_of(MSGPACK)},
            partial(given, "db"),
            2.0,
        ),
        Reader(
            "import uniter npz",
            {"db/data.mdb": npz, **sizes},
            {"db/data.mdb": lmdb_of(NPZ)},
            partial(given, "db", sizes="sizes.json"),
        ),
        Reader(
            "import sizes",
            {"db/data.mdb": npz, **sizes},
            {"sizes.json": JSON},
            partial(given, "db", sizes="sizes.json"),
            0.5,
        ),
        Reader(
            "import volta-lmdb",
            {"db/data.mdb": volta},
            {"db/data.mdb": lmdb_of(PICKLE)},
            partial(given, "db", format="volta-lmdb"),
            2.0,
        ),
        Reader("import mmf-npy", mmf, dict.fromkeys(mmf, NPY), partial(given, "f"), 2.0),
        Reader("images", pictures, dict.fromkeys(pictures), partial(_read_image, pictures), 3.0),
    ]
