"""What extraction adds to the bare detector: `python tests/bench/extraction.py [IMAGES]` prints JSON.

The same pictures in the same batches, taking turns in one process: the detector's `detect` on decoded pictures, and
`extract_regions` from JPEG files to a finished store. Goal: at most 10% more, the median of the turns' ratios.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from cmal.data.scenes.drawing import encode_jpeg, make_scene
from cmal.regions.detectors import Detector, build_detector
from cmal.regions.extract import extract_regions
from cmal.regions.images import read_image

BATCH, REPEATS = 16, 7


def bare_seconds(detector: Detector, pictures: list[np.ndarray]) -> float:
    started = time.perf_counter()
    for first in range(0, len(pictures), BATCH):
        detector.detect(pictures[first : first + BATCH])
    return time.perf_counter() - started


def whole_seconds(detector: Detector, files: list[tuple[str, Path]], out: Path) -> float:
    return extract_regions(files, detector, out, batch_size=BATCH).seconds


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 320
    folder = Path(tempfile.mkdtemp())
    try:
        files = []
        for number in range(count):
            files.append((f"bench:{number}", folder / f"{number}.jpg"))
            files[-1][1].write_bytes(encode_jpeg(make_scene(3, "train", number)[0]))
        pictures = [read_image(path) for _, path in sorted(files)]
        detector = build_detector("scenes", device="cpu")
        detector.detect(pictures[:BATCH])  # the first forward is slower
        bare, whole = [], []
        for turn in range(REPEATS):
            for work in (bare_seconds, whole_seconds) if turn % 2 else (whole_seconds, bare_seconds):
                if work is bare_seconds:
                    bare.append(bare_seconds(detector, pictures))
                else:
                    whole.append(whole_seconds(detector, files, folder / f"store{turn}"))
    finally:
        shutil.rmtree(folder)
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "images": count,
        "bare_images_a_second": round(count / statistics.median(bare), 1),
        "extraction_images_a_second": round(count / statistics.median(whole), 1),
        "extraction_over_bare": round(statistics.median(w / b for w, b in zip(whole, bare)), 3),
        "each_turn": [round(w / b, 3) for w, b in zip(whole, bare)],
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
