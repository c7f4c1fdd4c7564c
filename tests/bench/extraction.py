"""What extraction adds to the bare detector: `python tests/bench/extraction.py [IMAGES]` prints JSON.

The same pictures in the same batches, taking turns in one process: the detector's `detect` on decoded pictures, and
`extract_regions` from JPEG files to a finished store. Goal (issue 4): at most 10% more.
"""

from __future__ import annotations

import json
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path

from cmal.data.scenes.drawing import encode_jpeg, make_scene
from cmal.regions.detectors import build_detector
from cmal.regions.extract import extract_regions
from cmal.regions.images import read_image

BATCH, REPEATS = 16, 3


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
        bare, whole = [], []
        for turn in range(REPEATS):
            started = time.perf_counter()
            for first in range(0, count, BATCH):
                detector.detect(pictures[first : first + BATCH])
            bare.append(time.perf_counter() - started)
            whole.append(extract_regions(files, detector, folder / f"store{turn}", batch_size=BATCH).seconds)
    finally:
        shutil.rmtree(folder)
    result = {
        "machine": platform.processor() or platform.machine(),
        "images": count,
        "bare_images_a_second": round(count / min(bare), 1),
        "extraction_images_a_second": round(count / min(whole), 1),
        "extraction_over_bare": round(min(whole) / min(bare), 3),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
