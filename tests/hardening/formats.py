"""Files as trees and back, for mutations that know a format's structure: `parse(build(tree))` is `tree`."""

from __future__ import annotations

import base64
import csv
import io
import json
import pickle
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml
from hardening.mutate import Raw
from toys import pack_arrays


@dataclass(frozen=True)
class Format:
    """How a file becomes a tree and a tree a file; `allows_raw` where `Raw` text can be written."""

    parse: Callable[[bytes], Any]
    build: Callable[[Any], bytes]
    allows_raw: bool = False


def json_text(tree: Any) -> str:
    """JSON of a tree, `Raw` texts unquoted."""
    raws: list[str] = []

    def marked(value: Any) -> Any:
        if isinstance(value, Raw):
            raws.append(value)
            return f"\x01{len(raws) - 1}\x01"
        if isinstance(value, dict):
            return {key: marked(item) for key, item in value.items()}
        return [marked(item) for item in value] if isinstance(value, list | tuple) else value

    text = json.dumps(marked(tree))
    for number, raw in enumerate(raws):
        text = text.replace(f'"\\u0001{number}\\u0001"', raw)
    return text


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


JSON = Format(json.loads, lambda tree: _encode(json_text(tree)), allows_raw=True)
JSON_LINES = Format(
    lambda data: [json.loads(line) for line in data.splitlines()],
    lambda rows: b"".join(_encode(json_text(row)) + b"\n" for row in rows),
    allows_raw=True,
)
LINES = Format(lambda data: data.decode().split("\n"), lambda lines: _encode("\n".join(map(str, lines))))
PICKLE = Format(pickle.loads, lambda tree: pickle.dumps(tree, len(repr(tree)[:5000]) % 6))

_YAML_RAW = (
    "!!bool maybe",
    "!!int ''",
    "!!float ''",
    "!!timestamp x",
    "!!set {a, b}",
    "!!omap [a: 1]",
    "!!binary '?'",
    "!!python/object/apply:os.system [id]",
    "&a [*a]",
    "*nowhere",
    "{<<: {a: 1}}",
    "2001-99-99",
    "1:99:99",
    "0x",
    "? [a]",
    "'unfinished",
    "|",
    "1" + "0" * 400,
    "[" * 600,
    "@",
    "\t",
)


def _yaml_text(tree: Any) -> bytes:
    """YAML in flow style, which is JSON's, with raw texts that YAML alone knows in place of half of JSON's."""

    def swapped(value: Any) -> Any:
        if isinstance(value, Raw):
            return Raw(_YAML_RAW[len(value) % len(_YAML_RAW)]) if len(value) % 2 else value
        if isinstance(value, dict):
            return {key: swapped(item) for key, item in value.items()}
        return [swapped(item) for item in value] if isinstance(value, list | tuple) else value

    if not isinstance(tree, dict):
        return _encode(json_text(swapped(tree)))
    return _encode("".join(f"{json_text(key)}: {json_text(swapped(value))}\n" for key, value in tree.items()))


YAML = Format(lambda data: yaml.safe_load(data), _yaml_text, allows_raw=True)


def table(delimiter: str) -> Format:
    """Rows of cells; cells that would break a .tsv are written as they are."""

    def build(rows: Any) -> bytes:
        if delimiter == "\t":
            return _encode("\n".join("\t".join(map(str, row)) for row in rows) + "\n")
        out = io.StringIO()
        csv.writer(out).writerows([str(cell) for cell in row] for row in rows)
        return _encode(out.getvalue())

    return Format(lambda data: list(csv.reader(io.StringIO(data.decode()), delimiter=delimiter)), build)


CSV, TSV = table(","), table("\t")


def _parse_feature_rows(data: bytes) -> list:
    """A feature tsv: cells that are base64 of at least a few bytes become arrays."""
    return [[_as_array(cell) for cell in line.split("\t")] for line in data.decode().splitlines()]


def _as_array(cell: str) -> Any:
    if len(cell) >= 8 and not cell.isdigit() and not cell.startswith(("{", "[", "COCO")):
        return np.frombuffer(base64.b64decode(cell), np.float32 if len(cell) % 16 or len(cell) > 40 else np.int64)
    return cell


def _build_feature_rows(rows: Any) -> bytes:
    def cell(value: Any) -> str:
        return base64.b64encode(value.tobytes()).decode() if isinstance(value, np.ndarray) else str(value)

    return _encode("".join("\t".join(map(cell, row)) + "\n" for row in rows))


FEATURE_ROWS = Format(_parse_feature_rows, _build_feature_rows)


def _parse_keyed_json(data: bytes) -> list:
    return [[line.partition("\t")[0], json.loads(line.partition("\t")[2])] for line in data.decode().splitlines()]


KEYED_JSON = Format(
    _parse_keyed_json,
    lambda rows: b"".join(_encode(f"{row[0]}\t{json_text(row[1])}\n") for row in rows),
    allows_raw=True,
)


def _parse_npy(data: bytes) -> Any:
    value = np.load(io.BytesIO(data), allow_pickle=True)
    return value.item() if value.dtype.hasobject else {"": value}


def _build_npy(tree: Any) -> bytes:
    out = io.BytesIO()
    is_array = isinstance(tree, dict) and list(tree) == [""]
    np.save(out, tree[""] if is_array else np.array(tree, dtype=object), allow_pickle=True)
    return out.getvalue()


NPY = Format(_parse_npy, _build_npy)


def _parse_npz(data: bytes) -> dict:
    return dict(np.load(io.BytesIO(data)))


def _build_npz(tree: dict) -> bytes:
    out = io.BytesIO()
    np.savez(out, **{str(name): np.asarray(value) for name, value in tree.items()})
    return out.getvalue()


NPZ = Format(_parse_npz, _build_npz)


def _parse_msgpack(data: bytes) -> dict:
    import msgpack

    def decode(value: dict) -> Any:
        if b"nd" in value:
            return np.frombuffer(value[b"data"], value[b"type"]).reshape(value[b"shape"])
        return value

    return msgpack.unpackb(data, object_hook=decode, strict_map_key=False)


def _build_msgpack(tree: Any) -> bytes:
    return pack_arrays(tree, other=str)


MSGPACK = Format(_parse_msgpack, _build_msgpack)


def _parse_h5(data: bytes) -> dict:
    with h5py.File(io.BytesIO(data), "r") as file:
        return {name: file[name][()] for name in file}


def _build_h5(tree: dict) -> bytes:
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        for number, (name, value) in enumerate(tree.items()):
            array = np.asarray(value)
            array = array.astype("S") if array.dtype.kind == "U" else array
            packed = {"compression": "gzip"} if array.ndim and array.size and (number + array.size) % 3 == 0 else {}
            file.create_dataset(str(name).replace("/", "_") or "_", data=array, **packed)
    return out.getvalue()


def _parse_header(array: np.ndarray) -> Any:
    return json.loads(bytes(array))


def _parse_store(data: bytes) -> dict:
    tree = _parse_h5(data)
    return {**tree, "header": _parse_header(tree["header"])}


def _build_store(tree: dict) -> bytes:
    header = tree.get("header")
    if not isinstance(header, np.ndarray) and "header" in tree:
        tree = {**tree, "header": np.frombuffer(_encode(json_text(header)), np.uint8)}
    return _build_h5(tree)


H5 = Format(_parse_store, _build_store)


def _parse_safetensors(data: bytes) -> dict:
    size = int.from_bytes(data[:8], "little")
    return {"header": json.loads(data[8 : 8 + size]), "data": data[8 + size :]}


def _build_safetensors(tree: dict) -> bytes:
    header = _encode(json_text(tree["header"]))
    return len(header).to_bytes(8, "little") + header + (tree["data"] if isinstance(tree.get("data"), bytes) else b"")


SAFETENSORS = Format(_parse_safetensors, _build_safetensors, allows_raw=True)


def _parse_torch(data: bytes) -> Any:
    import torch

    def plain(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.numpy()
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return type(value)(plain(item) for item in value) if isinstance(value, list | tuple) else value

    return plain(torch.load(io.BytesIO(data), weights_only=True))


def _build_torch(tree: Any) -> bytes:
    import torch

    def tensors(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return torch.from_numpy(np.ascontiguousarray(value))
        if isinstance(value, dict):
            return {key: tensors(item) for key, item in value.items()}
        return type(value)(tensors(item) for item in value) if isinstance(value, list | tuple) else value

    out = io.BytesIO()
    torch.save(tensors(tree), out)
    return out.getvalue()


TORCH = Format(_parse_torch, _build_torch)


def lmdb_of(value: Format) -> Format:
    """A database whose values are of a format; the tree is {key: tree of the value}."""

    def parse(data: bytes) -> dict:
        return {key: value.parse(packed) for key, packed in read_lmdb(data).items() if key not in ("keys", "__keys__")}

    def build(tree: dict) -> bytes:
        entries = {_encode(str(key))[:500] or b"_": value.build(item) for key, item in tree.items()}
        return write_lmdb(entries | {b"keys": pickle.dumps(list(entries))})

    return Format(parse, build, value.allows_raw)


def write_lmdb(entries: dict[bytes, bytes]) -> bytes:
    """An LMDB file's bytes."""
    import lmdb

    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        path = Path(folder) / "data.mdb"
        with (
            lmdb.open(str(path), subdir=False, map_size=1 << 24, sync=False, metasync=False, lock=False) as environment,
            environment.begin(write=True) as transaction,
        ):
            for key, value in entries.items():
                transaction.put(key, value)
        return path.read_bytes()


def read_lmdb(data: bytes) -> dict[str, bytes]:
    """What an LMDB file holds."""
    import lmdb

    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        path = Path(folder) / "data.mdb"
        path.write_bytes(data)
        with (
            lmdb.open(str(path), subdir=False, readonly=True, lock=False) as environment,
            environment.begin() as opened,
        ):
            return {bytes(key).decode(): bytes(value) for key, value in opened.cursor()}


def scratch() -> str | None:
    """A folder in memory where there is one."""
    shared = Path("/dev/shm")
    return str(shared) if shared.is_dir() else None
