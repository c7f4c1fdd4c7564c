"""Measures how many pairs per second get anchors, on one core: `python -m tests.bench.anchors [PAIRS]` prints JSON.

Captions are composed of thesaurus names; each image has 36 regions with classes and attributes drawn from it. The goal
(DESIGN 2.1) is 50,000 pairs per second for `find_anchors`, with words and tags already mapped to concepts.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time

import numpy as np

from cmal.anchors.finder import AnchorFinder
from cmal.anchors.thesaurus import Thesaurus
from cmal.regions.types import Regions

REGIONS, REPEATS = 36, 5
FILLERS = ("a", "the", "on", "in", "next", "to", "with", "and", "standing", "near", "several", "of", "his", "at")


def make_captions(thesaurus: Thesaurus, common: list[str], count: int, rng: np.random.Generator) -> list[list[str]]:
    """Captions of 8 or more words, about three of them names of objects."""
    colours = ["red", "white", "black", "wooden", "large"]
    captions = []
    for _ in range(count):
        words: list[str] = []
        while len(words) < rng.integers(8, 14):
            words += [FILLERS[rng.integers(len(FILLERS))], FILLERS[rng.integers(len(FILLERS))]]
            words += [colours[rng.integers(len(colours))]] if rng.random() < 0.4 else []
            words += common[rng.integers(len(common))].split(" ")
        captions.append(words)
    return captions


def make_regions(classes: int, attributes: int, common: np.ndarray, rng: np.random.Generator) -> Regions:
    corners = rng.uniform(0, 300, (REGIONS, 2)).astype(np.float32)
    ids = np.where(rng.random(REGIONS) < 0.5, rng.choice(common, REGIONS), rng.integers(classes, size=REGIONS))
    return Regions(
        features=np.zeros((REGIONS, 1), np.float16),
        boxes_xyxy_px=np.hstack([corners, corners + rng.uniform(10, 200, (REGIONS, 2)).astype(np.float32)]),
        object_ids=ids,
        object_conf=rng.random(REGIONS).astype(np.float16),
        attribute_ids=rng.integers(-1, attributes, size=REGIONS),
        attribute_conf=rng.random(REGIONS).astype(np.float16),
        class_top_ids=np.zeros((REGIONS, 10), np.int16),
        class_top_probs=np.zeros((REGIONS, 10), np.float16),
        image_wh_px=(500, 500),
    )


def best_rate(work, count: int) -> float:
    """Items a second, best of five passes."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return count / min(times)


def main(count: int) -> None:
    rng = np.random.default_rng(0)
    thesaurus = Thesaurus.load()
    classes = list(thesaurus.concept_names[: thesaurus.attribute_start])
    attributes = list(thesaurus.concept_names[thesaurus.attribute_start :])
    finder = AnchorFinder(thesaurus, classes, attributes)
    common = rng.choice(len(classes), 60, replace=False)
    captions = make_captions(thesaurus, [classes[i] for i in common], count, rng)
    images = [make_regions(len(classes), len(attributes), common, rng) for _ in range(count)]
    mentions = [finder.find_mentions(words) for words in captions]
    concepts = [finder.region_concepts(regions) for regions in images]
    anchors = [finder.find_anchors(m, c) for m, c in zip(mentions, concepts)]
    report = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "pairs": count,
        "regions": REGIONS,
        "mentions_per_caption": round(sum(map(len, mentions)) / count, 2),
        "anchors_per_pair": round(sum(map(len, anchors)) / count, 2),
        "find_anchors_per_s": round(
            best_rate(lambda: [finder.find_anchors(m, c) for m, c in zip(mentions, concepts)], count)
        ),
        "find_mentions_per_s": round(best_rate(lambda: [finder.find_mentions(words) for words in captions], count)),
        "region_concepts_per_s": round(
            best_rate(lambda: [finder.region_concepts(regions) for regions in images], count)
        ),
        "goal_find_anchors_per_s": 50_000,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5_000)
