"""What extraction adds to the bare detector: `python tests/bench/extraction.py [IMAGES] [PHOTOS]` prints JSON.

The same pictures in the same batches, taking turns in one process: the detector's `detect` on decoded pictures, and
`extract_regions` from JPEG files to a finished store. Goal: at most 10% more, the median of the turns' ratios. The pictures
are drawn scenes for the detector `scenes`; or those of the folder PHOTOS for `nanodet`, whose network alone, on batches
that are prepared beforehand, then takes a turn as well.
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
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from cmal.regions.detectors import Detector, build_detector
from cmal.regions.detectors.nanodet import CPU_IMAGES, NanodetDetector
from cmal.regions.detectors.nanodet_input import letterbox, normalise
from cmal.regions.extract import extract_regions
from cmal.regions.images import find_images, read_image
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


def network_alone(detector: NanodetDetector, squares: torch.Tensor) -> None:
    with torch.inference_mode():
        for batch in squares.split(CPU_IMAGES):
            detector.net(normalise(batch))


def pictures_in(folder: Path, photos: Path | None, count: int) -> list[tuple[str, Path]]:
    """Image ids and files: the first photographs of a folder, or scenes drawn into `folder`."""
    if photos is not None:
        return [(f"bench:{path.stem}", path) for path in islice(find_images(photos), count)]
    files = [(f"bench:{number}", folder / f"{number}.jpg") for number in range(count)]
    for number, (_, path) in enumerate(files):
        path.write_bytes(encode_jpeg(make_scene(3, "train", number)[0]))
    return files


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 320
    photos = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    folder = Path(tempfile.mkdtemp())
    try:
        files = pictures_in(folder, photos, count)
        pictures = [read_image(path) for _, path in sorted(files)]
        detector = build_detector("nanodet" if photos else "scenes", device="cpu")
        detector.detect(pictures[:BATCH])  # the first forward is slower
        works: dict[str, Callable[[], object]] = {
            "detect": lambda: detect_all(detector, pictures),
            "extraction": lambda: extract_regions(
                files, detector, Path(tempfile.mkdtemp(dir=folder)) / "store", batch_size=BATCH
            ),
        }
        if isinstance(detector, NanodetDetector):
            squares = letterbox(pictures)[0]
            works["network"] = lambda: network_alone(detector, squares)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
        for turn in range(REPEATS):
            for name in works if turn % 2 else reversed(works):
                times[name].append(timed(works[name]))
    finally:
        shutil.rmtree(folder)
    print(json.dumps(figures(len(files), times), indent=2))


def figures(count: int, times: dict[str, list[tuple[float, float]]]) -> dict[str, object]:
    """Medians over the turns: pictures per second, by the clock and by processor time, and the ratios to extraction."""
    result: dict[str, object] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "images": count,
    }
    for name, spent in times.items():
        clock, cpu = (round(count / statistics.median(kind), 1) for kind in zip(*spent))
        result[name] = {"images_per_second": clock, "images_per_processor_second": cpu}
        if name != "extraction":
            ratios = [[e / b for e, b in zip(*turn)] for turn in zip(times["extraction"], spent)]
            result[f"extraction_over_{name}"] = round(statistics.median(clock for clock, _ in ratios), 3)
            result[f"extraction_over_{name}_processor_time"] = round(statistics.median(cpu for _, cpu in ratios), 3)
            result[f"extraction_over_{name}_each_turn"] = [[round(ratio, 3) for ratio in turn] for turn in ratios]
    return result


if __name__ == "__main__":
    main()
