"""How fast and in what memory official files become records: `python tests/bench/prepare.py [SHARE]` prints JSON.

Writes files of the official layout at full size below a temporary folder (SHARE 0.01 makes them a hundredth), prepares them
in a process of their own, and reads that process's peak memory. Goals (each within 2 GB): COCO captions, 616,767 rows on
123,287 images, in 60 s; Visual Genome regions, 5.4 million rows on 108,077 images in a file of 700 MB or more, in 5 minutes.
An evaluation set (RefCOCO's) is prepared beside, so that the leakage audit is at work.
"""

from __future__ import annotations

import json
import multiprocessing
import pickle
import platform
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

from cmal.datasets.prepare import prepare_dataset

COCO_IMAGES, COCO_ROWS = {"train": 82_783, "val": 40_504}, 616_767
VG_IMAGES, VG_ROWS = 108_077, 5_408_689
EVALUATION_IMAGES = 3_000
GOALS = {"coco-captions": {"seconds": 60, "peak_gb": 2}, "vg-captions": {"seconds": 300, "peak_gb": 2}}
NAMES = "a man a woman two dogs the cat a red kite a table with food a street a large tree people".split(" a ")
DOINGS = "standing near|sitting on|looking at|in front of|holding|next to|on top of|behind".split("|")


def write_coco(folder: Path, share: float) -> int:
    """captions_{train,val}2014.json with every key of the official rows. Returns the number of captions."""
    rng, written = random.Random(1), 0
    for split, count in COCO_IMAGES.items():
        numbers = [n + (0 if split == "train" else 300_000) for n in range(1, int(count * share) + 1)]
        images = [
            {
                "license": 3,
                "file_name": f"COCO_{split}2014_{number:012d}.jpg",
                "coco_url": f"http://images.cocodataset.org/{split}2014/COCO_{split}2014_{number:012d}.jpg",
                "height": 480,
                "width": 640,
                "date_captured": "2013-11-18 02:55:37",
                "flickr_url": f"http://farm9.staticflickr.com/8035/{8_000_000_000 + number}_1ed99af07a_z.jpg",
                "id": number,
            }
            for number in numbers
        ]
        captions = [
            {"image_id": number, "id": (written := written + 1), "caption": sentence(rng)}
            for number in numbers
            for _ in range(5 + (number % 370 == 0))
        ]
        whole = {"info": {"year": 2014}, "images": images, "licenses": [], "annotations": captions}
        (folder / f"captions_{split}2014.json").write_text(json.dumps(whole), encoding="utf-8")
    return written


def write_visual_genome(folder: Path, share: float) -> int:
    """region_descriptions.json and image_data.json, row by row. Returns the number of regions."""
    rng, written, images = random.Random(2), 0, int(VG_IMAGES * share)
    with (folder / "region_descriptions.json").open("w", encoding="utf-8") as file:
        file.write("[")
        for image in range(1, images + 1):
            count = VG_ROWS * image // VG_IMAGES - VG_ROWS * (image - 1) // VG_IMAGES
            rows = []
            for _ in range(count):
                written += 1
                box = {"y": rng.randrange(400), "x": rng.randrange(400), "width": 120, "height": 90}
                rows.append(box | {"phrase": sentence(rng), "region_id": written, "image_id": image})
            file.write(("" if image == 1 else ", ") + json.dumps({"id": image, "regions": rows}))
        file.write("]")
    data = [
        {
            "width": 800,
            "url": f"https://cs.stanford.edu/people/rak248/VG_100K/{image}.jpg",
            "height": 600,
            "image_id": image,
            "coco_id": image * 3 if image % 2 else None,
            "flickr_id": None,
        }
        for image in range(1, images + 1)
    ]
    (folder / "image_data.json").write_text(json.dumps(data), encoding="utf-8")
    return written


def write_evaluation_set(folder: Path) -> None:
    """A RefCOCO whose testA images are among those of both sets."""
    numbers = range(3, 3 + 6 * EVALUATION_IMAGES, 6)
    folder.mkdir()
    images = [{"id": n, "file_name": f"COCO_train2014_{n:012d}.jpg", "width": 640, "height": 480} for n in numbers]
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [1, 1, 50, 50]} for n in numbers]
    instances = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "person"}]}
    (folder / "instances.json").write_text(json.dumps(instances))
    refs = [
        {
            "ref_id": n,
            "ann_id": n,
            "image_id": n,
            "split": "testA",
            "sentences": [{"sent_id": n, "sent": "the man on the left"}],
        }
        for n in numbers
    ]
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, 2))


def sentence(rng: random.Random) -> str:
    return f"{rng.choice(NAMES)} {rng.choice(DOINGS)} {rng.choice(NAMES)} {rng.randrange(1000)}"


def run(dataset: str, raw: Path, out: Path) -> dict[str, object]:
    """In a process of its own: seconds, peak memory, and what the manifest says."""
    started = time.perf_counter()
    (prepared,) = prepare_dataset(dataset, raw, out)
    exclusions = prepared.manifest["exclusions"]
    return {
        "seconds": round(time.perf_counter() - started, 1),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "records": sum(split["records"] for split in prepared.splits.values()),
        "excluded_records": exclusions["records"],
        "dropped": prepared.manifest["dropped"],
    }


def measure(dataset: str, raw: Path, out: Path, rows: int) -> dict[str, object]:
    """`run` in a fresh process, with the number of rows that went in and whether none was lost and the goals are met."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(run, (dataset, raw, out))
    accounted = found["records"] + found["excluded_records"] + sum(found["dropped"].values())
    goal = GOALS[dataset]
    return found | {
        "rows": rows,
        "rows_a_second": round(rows / found["seconds"]),
        "input_mb": round(sum(file.stat().st_size for file in raw.iterdir()) / 1e6),
        "every_row_accounted_for": accounted == rows,
        "goal": goal,
        "goal_met": all(found[name] <= most for name, most in goal.items()),
    }


def main() -> None:
    share = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    result: dict[str, object] = {"share": share, "machine": platform.machine(), "python": platform.python_version()}
    writers = {"coco-captions": write_coco, "vg-captions": write_visual_genome}
    with tempfile.TemporaryDirectory(prefix="official-bench-") as name:
        work = Path(name)
        write_evaluation_set(work / "refcoco")
        prepare_dataset("refcoco", work / "refcoco", work / "data")
        for dataset, write in writers.items():
            raw = work / dataset
            raw.mkdir()
            result[dataset] = measure(dataset, raw, work / "data", write(raw, share))
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
