"""Verifying the shards of a store against its index, and merging them into one file."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import h5py

from cmal.errors import StoreError
from cmal.io.files import atomic_path, remove_left_overs, sha256_of
from cmal.io.locks import hold_folder
from cmal.regions.store.layout import COLUMNS, read_index
from cmal.regions.store.shards import IMAGES_A_WRITE, largest_size, new_file, write_head, write_index
from cmal.regions.store.store import RegionStore


def verify_store(
    folder: Path, report: Callable[[int, int, str], None] = lambda done, total, name: None
) -> list[tuple[str, str]]:
    """Compares each shard with the index and removes damaged ones, so that the next extraction writes them again.

    Args:
        folder: a store folder.
        report: called after each shard with its number, the number of shards, and its name.

    Returns:
        (name, what is wrong) of each damaged shard.

    Raises:
        StoreError: not a store folder.
        CmalError: another command works in it.
    """
    folder = Path(folder)
    if folder.is_file():
        raise StoreError(
            f"cannot verify {folder}",
            "it is one file; hashes are kept in the index of a store folder",
            "verify the folder it was merged from, then merge again",
        )
    header, shards = read_index(folder)
    damaged: list[tuple[str, str]] = []
    with hold_folder(folder):
        for number, shard in enumerate(shards, start=1):
            path = folder / shard.name
            if not path.is_file():
                damaged.append((shard.name, "is missing"))
            elif path.stat().st_size != shard.bytes:
                damaged.append((shard.name, f"has {path.stat().st_size:,} bytes, not {shard.bytes:,}"))
            elif sha256_of(path) != shard.sha256:
                damaged.append((shard.name, "has other bytes than were written"))
            report(number, len(shards), shard.name)
        bad = {name for name, _ in damaged}
        if bad:
            write_index(folder, header, [shard for shard in shards if shard.name not in bad])
            for name in bad:
                (folder / name).unlink(missing_ok=True)
    return damaged


def merge_store(folder: Path, out: Path, report: Callable[[int, int], None] = lambda done, total: None) -> Path:
    """Copies a store folder into one file that `RegionStore.open` reads; holds a few images in memory.

    Returns:
        `out`.

    Raises:
        StoreError: the folder is no store or holds no image, or `out` lies where a folder is.
        CmalError: the disk is full, or another command works in the folder.
    """
    folder, out = Path(folder), Path(out)
    with hold_folder(folder) if folder.is_dir() else contextlib.nullcontext():
        return _merge(RegionStore.open(folder), out, report)


def _merge(store: RegionStore, out: Path, report: Callable[[int, int], None]) -> Path:
    ids = store.image_ids
    if not ids:
        raise StoreError(f"cannot merge {store.path}", "it holds no image yet", "finish the extraction first")
    if out.is_dir():
        raise StoreError(f"cannot merge into {out}", "it is a folder", "name a file, e.g. regions.h5")
    offsets = [0]
    for image_id in ids:
        offsets.append(offsets[-1] + store.regions_of(image_id))
    remove_left_overs(out.parent, out.name)
    with atomic_path(out) as temporary:
        try:
            with new_file(temporary, largest_size(store.header, ids, offsets[-1])) as file:
                write_head(file, store.header, ids, offsets, [store.size_wh_px(image_id) for image_id in ids])
                _copy_columns(store, file, offsets, report)
        except RuntimeError as error:  # HDF5's error for a full disk on closing
            raise OSError(str(error)) from error
    return out


def _copy_columns(store: RegionStore, file: h5py.File, offsets: list[int], report: Callable[[int, int], None]) -> None:
    paths = store.shard_paths
    for name, dtype, tail in store.header.columns():
        file.create_dataset(name, (offsets[-1], *tail), dtype, track_times=False)
    start = 0
    for number, path in enumerate(paths, start=1):
        with h5py.File(path, "r") as shard:
            rows = len(shard["object_ids"])
            for name in COLUMNS:
                for first in range(0, rows, 36 * IMAGES_A_WRITE):
                    last = min(first + 36 * IMAGES_A_WRITE, rows)
                    file[name][start + first : start + last] = shard[name][first:last]
        start += rows
        report(number, len(paths))
