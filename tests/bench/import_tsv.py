"""How fast a BUTD/LXMERT tsv becomes a store: `python tests/bench/import_tsv.py [MEGABYTES]` prints JSON.

The peer is the plain loop that such files are read with: `csv.DictReader`, `base64.b64decode`, `np.frombuffer`; it writes
nothing. Ours reads, checks, halves, writes, syncs and hashes. Each run is a process of its own, so that its peak memory
is its own; the two take turns. The goal (DESIGN 8): at least as fast, and under 1 GB of memory.
"""

from __future__ import annotations

import base64
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

REGIONS, FEATURES, REPEATS = 36, 2048, 3
FIELDS = "img_id img_h img_w objects_id objects_conf attrs_id attrs_conf num_boxes boxes features".split()
DISTINCT_ROWS = 64


def write_file(path: Path, megabytes: int) -> int:
    """A file of rows as LXMERT's extractor writes them (LXMERT rows take 0.4 MB); gives the number of images."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(DISTINCT_ROWS):
        corners = rng.uniform(0, 300, (REGIONS, 2)).astype(np.float32)
        boxes = np.concatenate([corners, corners + rng.uniform(10, 100, (REGIONS, 2)).astype(np.float32)], axis=1)
        arrays = (
            rng.integers(1600, size=REGIONS),
            rng.random(REGIONS, dtype=np.float32),
            rng.integers(400, size=REGIONS),
            rng.random(REGIONS, dtype=np.float32),
        )
        features = np.maximum(rng.standard_normal((REGIONS, FEATURES), dtype=np.float32), 0)
        ids = "\t".join(base64.b64encode(array).decode() for array in arrays)
        tail = "\t".join(base64.b64encode(array).decode() for array in (boxes, features))
        rows.append(f"480\t640\t{ids}\t{REGIONS}\t{tail}\r\n")
    count = 0
    with path.open("w", newline="") as file:
        while file.tell() < megabytes * 1_000_000:
            file.write(f"COCO_train2014_{count:012d}\t{rows[count % DISTINCT_ROWS]}")
            count += 1
    return count


def plain_loop(path: Path) -> int:
    """What LXMERT's and bottom-up-attention's readers do, one row at a time and keeping nothing."""
    import csv

    csv.field_size_limit(sys.maxsize)
    count = 0
    with path.open() as file:
        for item in csv.DictReader(file, FIELDS, delimiter="\t"):
            regions = int(item["num_boxes"])
            shapes = [(regions,)] * 4 + [(regions, 4), (regions, -1)]
            dtypes = [np.int64, np.float32, np.int64, np.float32, np.float32, np.float32]
            for name, shape, dtype in zip(FIELDS[3:7] + FIELDS[8:], shapes, dtypes):
                item[name] = np.frombuffer(base64.b64decode(item[name]), dtype=dtype).reshape(shape)
            count += 1
    return count


def our_import(path: Path, out: Path) -> int:
    from cmal.regions.imports import import_features

    return import_features(path, out).images


def run_once(kind: str, path: Path) -> dict[str, float]:
    """Seconds and peak resident megabytes of one run in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", kind, str(path)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def one(kind: str, path: Path) -> None:
    out = path.with_name("store")
    shutil.rmtree(out, ignore_errors=True)
    if kind == "ours":
        import cmal.regions.imports  # noqa: F401  loading the program is not part of the conversion
    started, cpu = time.perf_counter(), time.process_time()
    count = plain_loop(path) if kind == "plain" else our_import(path, out)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    shutil.rmtree(out, ignore_errors=True)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mb": peak_mb, "images": count}))


def main(megabytes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.tsv"
        images = write_file(path, megabytes)
        runs: dict[str, list[dict[str, float]]] = {"plain": [], "ours": []}
        for repeat in range(REPEATS):
            for kind in ("plain", "ours") if repeat % 2 == 0 else ("ours", "plain"):
                runs[kind].append(run_once(kind, path))
                assert runs[kind][-1]["images"] == images
        best = {kind: min(run["seconds"] for run in these) for kind, these in runs.items()}
        print(
            json.dumps(
                {
                    "file_mb": path.stat().st_size / 1e6,
                    "images": images,
                    "plain_seconds": best["plain"],
                    "import_seconds": best["ours"],
                    "times_as_fast": best["plain"] / best["ours"],
                    "import_mb_a_second": path.stat().st_size / 1e6 / best["ours"],
                    "import_peak_mb": max(run["peak_mb"] for run in runs["ours"]),
                    "runs": runs,
                    "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                    "python": platform.python_version(),
                    "numpy": np.__version__,
                },
                indent=2,
            )
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2], Path(sys.argv[3]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
