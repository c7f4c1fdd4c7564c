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
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cmal.regions.detectors import Detector, build_detector
from cmal.regions.extract import extract_regions
from cmal.regions.images import read_image
from cmal.scenes.drawing import encode_jpeg, make_scene

BATCH, REPEATS = 16, 8  # an even number: each goes first as often as the other


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock, and of the processor (all threads of this process)."""
    clock, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - cpu


def detect_all(detector: Detector, pictures: list[np.ndarray]) -> None:
    for first in range(0, len(pictures), BATCH):
        detector.detect(pictures[first : first + BATCH])


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
            out = folder / f"store{turn}"
            works = [
                (bare, lambda: detect_all(detector, pictures)),
                (whole, lambda out=out: extract_regions(files, detector, out, batch_size=BATCH)),
            ]
            for times, work in works if turn % 2 else reversed(works):
                times.append(timed(work))
    finally:
        shutil.rmtree(folder)
    ratios = [[w[kind] / b[kind] for w, b in zip(whole, bare)] for kind in (0, 1)]
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "images": count,
        "bare_images_a_second": round(count / statistics.median(clock for clock, _ in bare), 1),
        "extraction_images_a_second": round(count / statistics.median(clock for clock, _ in whole), 1),
        "extraction_over_bare": round(statistics.median(ratios[0]), 3),
        "processor_time_over_bare": round(statistics.median(ratios[1]), 3),
        "each_turn": [round(ratio, 3) for ratio in ratios[0]],
        "each_turn_processor_time": [round(ratio, 3) for ratio in ratios[1]],
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
