"""A toy world to train on: 24 images of four kinds of things in two colours, regions given, records of all tasks."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
from toys import ATTRIBUTES, CLASSES, HEADER, regions, write_store

from cmal.data.records import (
    EntailmentRecord,
    ImageTextRecord,
    PairRecord,
    Record,
    ReferringRecord,
    VqaRecord,
    record_line,
)
from cmal.regions.types import Regions

IMAGES, SIDE_PX, FEATURES = 24, 100, 8
LABELS = ("entailment", "neutral", "contradiction")
ANSWERS = ("yes", "no", *CLASSES)
PRETRAIN = """
out: runs/toy
model: {width: 16, heads: 2, inner: 32, text_layers: 1, visual_layers: 1, unified_layers: 1, dropout: 0.0,
        max_tokens: 16, vocabulary_size: 100}
data: {records: [data/toy/train.jsonl], regions: data/toy/regions, validation: data/toy/val.jsonl}
objectives: {itc: 0.5}
optimizer: {lr: 3e-3, warmup_steps: 1, clip_norm: 1.0}
train: {steps: 3, batch_size: 16, micro_batch_size: 8, report_every: 1, save_every: 3}
"""
FINETUNE = """
task: scenes-vqa
out: runs/scenes-vqa
init_from: runs/toy/last
dropout: 0.0
data: {root: data/toy-vqa, regions: data/toy/regions}
optimizer: {lr: 3e-3, warmup_steps: 1, clip_norm: 1.0}
train: {steps: 3, batch_size: 8, micro_batch_size: 8, report_every: 1, save_every: 3}
"""
ROOTS = {"scenes-vqa": "vqa", "scenes-ve": "ve", "scenes-rec": "rec", "scenes-retrieval": "retrieval", "nlvr2": "nlvr2"}


@dataclasses.dataclass(frozen=True)
class Scene:
    """Things of one image: (colour, kind, box xyxy)."""

    id: str
    things: tuple[tuple[str, str, tuple[int, int, int, int]], ...]


def draw_scene(number: int, generator: np.random.Generator) -> Scene:
    """Two or three different kinds, side by side."""
    kinds = generator.permutation(len(CLASSES))[: 2 + number % 2]
    things = []
    for place, kind in enumerate(kinds.tolist()):
        left, top = 32 * place, int(generator.integers(0, 40))
        colour = ATTRIBUTES[int(generator.integers(2))]
        things.append((colour, CLASSES[kind], (left, top, left + 30, top + 30 + int(generator.integers(20)))))
    return Scene(f"toy:{number:02d}", tuple(things))


def regions_of(scene: Scene, generator: np.random.Generator) -> Regions:
    """What a good detector would say; features tell kind and colour, with some noise."""
    colours, kinds, boxes = zip(*scene.things)
    found = regions(kinds, boxes, colours, size=(SIDE_PX, SIDE_PX))
    features = generator.normal(0, 0.2, (len(kinds), FEATURES)).astype(np.float16)
    features[np.arange(len(kinds)), [CLASSES.index(kind) for kind in kinds]] += 2
    features[np.arange(len(kinds)), [4 + ATTRIBUTES.index(colour) for colour in colours]] += 2
    return dataclasses.replace(found, features=features)


def records_of(scene: Scene, other: Scene) -> dict[str, list[Record]]:
    """One image's records of every kind of task."""
    id, (first, second) = scene.id, scene.things[:2]
    captions = [f"a {first[0]} {first[1]} is near a {second[1]}", f"the {second[0]} {second[1]} and the {first[1]}"]
    box = [float(v) for v in (*first[2][:2], first[2][2] - first[2][0], first[2][3] - first[2][1])]
    absent = next(kind for kind in CLASSES if kind not in [thing[1] for thing in scene.things])
    said = {LABELS[0]: first[1], LABELS[1]: f"{first[1]} near a house", LABELS[2]: absent}
    return {
        "": [ImageTextRecord(f"{id}-{n}", id, caption) for n, caption in enumerate(captions)],
        "-vqa": [
            VqaRecord(f"{id}-q", id, f"is there a {first[1]}?", ("yes",) * 10, "is there", "yes/no"),
            VqaRecord(f"{id}-w", id, f"what is {first[0]}?", (first[1],) * 7 + (second[1],) * 3, "what", "other"),
        ],
        "-ve": [EntailmentRecord(f"{id}-{label}", id, f"there is a {text}", label) for label, text in said.items()],
        "-rec": [ReferringRecord(f"{id}-r", f"{id}-r", id, f"the {first[0]} {first[1]}", tuple(box))],
        "-nlvr2": [
            PairRecord(f"{id}-t", id, other.id, f"left is a {first[1]}", f"dev-{id[-2:]}-0-0", "True"),
            PairRecord(f"{id}-f", id, other.id, f"left is a {absent}", f"dev-{id[-2:]}-0-1", "False"),
        ],
    }


def build_toy_world(folder: Path) -> Path:
    """Puts data/toy and data/toy-TASK into a folder, as `cmal prepare` would leave them, and two recipes."""
    generator = np.random.default_rng(0)
    scenes = [draw_scene(number, generator) for number in range(IMAGES)]
    header = dataclasses.replace(HEADER, feature_size=FEATURES)
    write_store(folder / "data/toy/regions", {s.id: regions_of(s, generator) for s in scenes}, header)
    lines: dict[Path, list[str]] = {}
    for number, scene in enumerate(scenes):
        split = "train" if number < IMAGES * 2 // 3 else "val"
        for kind, records in records_of(scene, scenes[number - 1]).items():
            lines.setdefault(folder / f"data/toy{kind}" / f"{split}.jsonl", []).extend(map(record_line, records))
    for path, rows in lines.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(rows), encoding="utf-8")
    (folder / "data/toy-vqa/answers.json").write_text(json.dumps(ANSWERS))
    (folder / "data/toy-retrieval").symlink_to("toy")
    (folder / "pretrain.yaml").write_text(PRETRAIN)
    (folder / "finetune.yaml").write_text(FINETUNE)
    return folder
