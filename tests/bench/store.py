"""How fast single images are read from a region store: `python tests/bench/store.py [IMAGES [NUMBERS]]` prints JSON.

Random single-image reads, page cache warm, all in one process and taking turns: a raw numpy memory map of the features
alone (one copy an image), ours (nine arrays an image), and LMDB holding the same nine arrays as one packed value. Goals: at
least 60% of the memory map's rate, and at least LMDB's. Then four loader workers read the whole store in random order and
hand over batches of features; the resident memory of all five processes together, looked at again and again, should stay
under 1.5 GB at 100,000 images.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import lmdb
import numpy as np
import torch
from torch.utils.data import DataLoader

from cmal.regions.store.layout import COLUMNS, StoreHeader
from cmal.regions.store.shards import StoreWriter
from cmal.regions.store.store import RegionStore
from cmal.regions.types import Regions

REGIONS, FEATURES, REPEATS, READS = 36, 2048, 15, 2000
BATCH, LOOK_EVERY = 64, 25
HEADER = StoreHeader("bench", "", FEATURES, tuple(map(str, range(1600))), tuple(map(str, range(400))))


def make_regions(rng: np.random.Generator, features: int) -> Regions:
    return Regions(
        rng.standard_normal((REGIONS, features), np.float32).astype(np.float16),
        np.sort(rng.random((REGIONS, 2, 2), np.float32), axis=1).reshape(REGIONS, 4),  # x1 y1 x2 y2, upper left first
        rng.integers(1600, size=REGIONS),
        rng.random(REGIONS),
        rng.integers(400, size=REGIONS),
        rng.random(REGIONS),
        rng.integers(1600, size=(REGIONS, 10)),
        rng.random((REGIONS, 10)),
        (640, 480),
    )


def rates(readers: dict[str, Callable[[int], object]], count: int, rng: np.random.Generator) -> dict[str, float]:
    """Images a second of each reader: the best of several turns, each over the same random images."""
    best = dict.fromkeys(readers, 0.0)
    for _ in range(REPEATS):
        order = rng.integers(count, size=READS).tolist()
        for name, read in readers.items():
            started = time.perf_counter()
            for number in order:
                read(number)
            best[name] = max(best[name], READS / (time.perf_counter() - started))
    return best


def reading(folder: Path, count: int) -> dict[str, float]:
    """Rates of the memory map, ours and LMDB."""
    rng = np.random.default_rng(0)
    environment = lmdb.open(str(folder / "lmdb"), map_size=1 << 36)
    raw = np.memmap(folder / "raw", np.float16, "w+", shape=(count, REGIONS, FEATURES))
    with StoreWriter(folder / "store", HEADER) as writer, environment.begin(write=True) as transaction:
        for number in range(count):
            one = make_regions(rng, FEATURES)
            writer.add(f"bench:{number}", one)
            raw[number] = one.features
            packed = [np.asarray(getattr(one, name), dtype).tobytes() for name, (dtype, _) in COLUMNS.items()]
            transaction.put(f"bench:{number}".encode(), b"".join(packed))
    raw = np.memmap(folder / "raw", np.float16, "r", shape=(count, REGIONS, FEATURES))
    store, names = RegionStore.open(folder / "store"), [f"bench:{number}" for number in range(count)]
    with environment.begin(buffers=True) as transaction:

        def from_lmdb(number: int) -> list[np.ndarray]:
            value, place, arrays = transaction.get(names[number].encode()), 0, []
            for column, (dtype, tail) in COLUMNS.items():
                shape = (REGIONS, *((FEATURES,) if column == "features" else tail))
                arrays.append(np.ndarray(shape, dtype, value, place).copy())
                place += arrays[-1].nbytes
            return arrays

        readers = {"memory_map": lambda n: np.array(raw[n]), "ours": lambda n: store[names[n]], "lmdb": from_lmdb}
        found = rates(readers, count, rng)
    found["ours_over_memory_map"] = found["ours"] / found["memory_map"]
    found["ours_over_lmdb"] = found["ours"] / found["lmdb"]
    return {name: round(value, 3) for name, value in found.items()}


class Images:
    """A dataset of a store's images."""

    def __init__(self, path: Path):
        self.store = RegionStore.open(path)
        self.names = self.store.image_ids

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, number: int) -> tuple[np.ndarray, int]:
        return self.store[self.names[number]].features, os.getpid()


def together(rows: list[tuple[np.ndarray, int]]) -> tuple[torch.Tensor, int]:
    """Features of a batch, as a loader of training hands them on, and the process that read them."""
    return torch.from_numpy(np.stack([features for features, _ in rows])), rows[0][1]


def resident_bytes(processes: Iterable[int]) -> int:
    """Of all of them now; a page that several hold counts as their shares of it (PSS), so that the sum is true."""
    texts = [Path(f"/proc/{process}/smaps_rollup").read_text() for process in processes]
    return sum(int(line.split()[1]) for text in texts for line in text.splitlines() if line.startswith("Pss:")) * 1024


def loading(folder: Path, count: int, features: int) -> dict[str, float]:
    """Peak resident memory of four workers and their parent over one random pass, and the images a second."""
    rng = np.random.default_rng(1)
    some = [make_regions(rng, features) for _ in range(50)]
    header = StoreHeader("bench", "", features, HEADER.class_names, HEADER.attribute_names)
    with StoreWriter(folder / "large", header) as writer:
        for number in range(count):
            writer.add(f"bench:{number}", some[number % len(some)])
    loader = DataLoader(Images(folder / "large"), BATCH, shuffle=True, num_workers=4, collate_fn=together)
    peak, processes = 0, {os.getpid()}
    started = time.perf_counter()
    for number, (_, process) in enumerate(loader):
        processes.add(process)
        if number % LOOK_EVERY == LOOK_EVERY - 1:
            peak = max(peak, resident_bytes(processes))
    seconds = time.perf_counter() - started
    return {
        "images": count,
        "numbers": features,
        "images_a_second": round(count / seconds, 1),
        "resident_gb": round(peak / 1e9, 3),
    }


def in_its_own_process(folder: Path, count: int, features: int) -> dict[str, float]:
    """So that what the first measurement left in memory is not counted."""
    command = [sys.executable, __file__, "--loading", str(folder), str(count), str(features)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def main() -> None:
    count, features = (int(text) for text in (*sys.argv[1:3], *("100000", "256")[len(sys.argv[1:3]) :]))
    folder = Path(tempfile.mkdtemp())
    try:
        result = {
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "random_reads_a_second": reading(folder, 2000),
            "four_workers": in_its_own_process(folder, count, features),
        }
    finally:
        shutil.rmtree(folder)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--loading"]:
        print(json.dumps(loading(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))))
    else:
        main()
