"""The commands that write, each as a job that can be started, cut short and started again; and what they read.

A job runs in a folder of its own in which `in` leads to the inputs that `build_inputs` made and everything it writes lies
below `out`. `result_of` gives what has to be the same whether it was cut short or not.
"""

from __future__ import annotations

import base64
import csv
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from hardening.stage import Stage
from safetensors.torch import load_file
from toy_world import build_toy_world
from toys import HEADER, regions

from cmal.regions.store.shards import StoreWriter

IMAGES = 48  # of each import
SHARD = {"cmal.regions.imports.convert:SHARD_IMAGES": 6}
STEPS = 8
TRAINING = ("--device", "cpu", "--set", f"train.steps={STEPS}", "--set", "train.save_every=2")
LXMERT_FIELDS = "img_id img_h img_w objects_id objects_conf attrs_id attrs_conf num_boxes boxes features".split()
BOXES = np.array([[1, 2, 30, 40], [0, 0, 64, 48]], np.float32)


@dataclass(frozen=True)
class Job:
    """One command.

    Attributes:
        arguments: of `cmal`, run where `in` and `out` are.
        folder: what it writes into, which a second command may not write into meanwhile.
        patches: plain values that make a small input behave like a large one (see `Stage.start`).
        is_run: a training, whose weights and losses count and not its bytes: metrics hold times.
    """

    arguments: tuple[str, ...]
    folder: str = "out"
    patches: Mapping[str, Any] = field(default_factory=dict)
    is_run: bool = False

    def fresh(self, place: Path, inputs: Path) -> Path:
        """An empty folder to run in."""
        place.mkdir(parents=True)
        (place / "in").symlink_to(inputs)
        return place

    def start(self, stage: Stage, place: Path, **how: Any):
        return stage.start(self.arguments, place, patches=dict(self.patches), **how)

    def run(self, stage: Stage, place: Path, timeout_s: float = 120, **how: Any) -> tuple[int, str]:
        return stage.run(self.arguments, place, timeout_s, patches=dict(self.patches), **how)


def training(command: str, recipe: str, *changes: str) -> Job:
    sets = [word for change in ("out=out/run", *changes) for word in ("--set", change)]
    return Job((command, f"in/{recipe}", *TRAINING, *sets), "out/run", is_run=True)


def imports(source: str) -> Job:
    return Job(("extract-regions", "--import", f"in/{source}", "--out", "out/store"), "out/store", SHARD)


JOBS = {
    "prepare scenes": Job(
        ("prepare", "scenes", "--images", "16", "--out", "out", "--workers", "1"), "out/scenes/official"
    ),
    "prepare scenes, two workers": Job(
        ("prepare", "scenes", "--images", "16", "--out", "out", "--workers", "2"), "out/scenes/official"
    ),
    "prepare coco-captions": Job(("prepare", "coco-captions", "--raw", "in/coco", "--out", "out"), "out/coco-captions"),
    "prepare vqa": Job(("prepare", "vqa", "--raw", "in/vqa", "--out", "out"), "out/vqa"),
    "extract": Job(
        ("extract-regions", "in/images", "--out", "out/store", "--shard-size", "2", "--batch-size", "2"), "out/store"
    ),
    "import tsv": imports("features.tsv"),
    "import lmdb": imports("features.lmdb"),
    "import npy": imports("features"),
    "merge": Job(("extract-regions", "--out", "out/store", "--merge"), "out/store"),
    "pretrain": training("pretrain", "pretrain.yaml", "model.dropout=0.1", "train.validate_every=4"),
    "pretrain, two loaders": training("pretrain", "pretrain.yaml", "model.dropout=0.1", "data.workers=2"),
    "finetune": training("finetune", "finetune.yaml", "dropout=0.1", "train.validate_every=4"),
}


def build_inputs(folder: Path, stage: Stage) -> Path:
    """Everything that the jobs read, below a folder."""
    build_toy_world(folder)
    for name in ("pretrain.yaml", "finetune.yaml"):
        text = (folder / name).read_text().replace("data/toy", "in/data/toy").replace("runs/toy", "in/runs/toy")
        (folder / name).write_text(text)
    (folder / "in").symlink_to(".")
    write_coco(folder / "coco")
    write_vqa(folder / "vqa")
    write_tsv(folder / "features.tsv")
    write_lmdb(folder / "features.lmdb")
    write_npy(folder / "features")
    write_large_store(folder / "store")
    for words in (("prepare", "scenes", "--images", "6", "--out", "made"), ("pretrain", "pretrain.yaml", "--quiet")):
        status, said = stage.run(words, folder)
        assert status == 0, said
    (folder / "images").symlink_to("made/scenes/images")
    return folder


def put_inputs(job: Job, place: Path) -> None:
    """What a job changes of its inputs is a copy of its own."""
    if "--merge" in job.arguments:
        shutil.copytree(place / "in/store", place / "out/store")


def write_coco(folder: Path, images: int = 1500) -> None:
    """captions_train2014.json."""
    folder.mkdir()
    rows = [{"id": n, "file_name": f"COCO_train2014_{n:012d}.jpg"} for n in range(1, images + 1)]
    captions = [
        {"id": 10 * n + k, "image_id": n, "caption": f"a dog number {n} runs {k}"}
        for n in range(1, images + 1)
        for k in range(5)
    ]
    (folder / "captions_train2014.json").write_text(json.dumps({"images": rows, "annotations": captions}))


def write_vqa(folder: Path, questions: int = 1500) -> None:
    """Questions and annotations of train2014."""
    folder.mkdir()
    head = {"data_subtype": "train2014", "task_type": "Open-Ended"}
    asked = [{"question_id": n, "image_id": 1 + n // 3, "question": f"is it {n}?"} for n in range(questions)]
    reported = [
        {
            "question_id": n,
            "image_id": 1 + n // 3,
            "question_type": "is it",
            "answer_type": "yes/no",
            "multiple_choice_answer": "yes",
            "answers": [{"answer": "yes", "answer_confidence": "yes", "answer_id": k} for k in range(1, 11)],
        }
        for n in range(questions)
    ]
    name = "v2_OpenEnded_mscoco_train2014_questions.json"
    (folder / name).write_text(json.dumps(head | {"questions": asked}))
    (folder / "v2_mscoco_train2014_annotations.json").write_text(json.dumps(head | {"annotations": reported}))


def write_tsv(path: Path) -> None:
    """As LXMERT's extractor writes it; one row is damaged."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, LXMERT_FIELDS, delimiter="\t")
        for number in range(IMAGES):
            arrays = {
                "objects_id": np.array([number, 1599]),
                "objects_conf": np.array([0.75, 0.5], np.float32),
                "attrs_id": np.array([0, 399]),
                "attrs_conf": np.array([0.25, 0.125], np.float32),
                "boxes": BOXES,
                "features": np.full((2, 512), number, np.float32),
            }
            row = {key: base64.b64encode(array).decode() for key, array in arrays.items()}
            size = "nothing" if number == 5 else 48
            writer.writerow(
                {"img_id": f"COCO_train2014_{number:012d}", "img_h": size, "img_w": 64, "num_boxes": 2, **row}
            )


def write_lmdb(folder: Path) -> None:
    """As UNITER has it: npz values under names."""
    import io

    import lmdb

    environment = lmdb.open(str(folder), map_size=1 << 24)
    names = [f"coco_train2014_{number:012d}.npz" for number in range(IMAGES)]
    with environment.begin(write=True) as transaction:
        for number, name in enumerate(names):
            labels = np.zeros((2, 1601), np.float16)
            labels[:, 1 + number] = 1
            unit = np.array([[0, 0, 0.5, 0.25, 0.5, 0.25], [0.25, 0.5, 1, 1, 0.75, 0.5]], np.float16)
            with io.BytesIO() as value:
                np.savez_compressed(
                    value,
                    features=np.full((2, 512), number, np.float16),
                    norm_bb=unit,
                    conf=np.array([0.25, 1.0], np.float16),
                    soft_labels=labels,
                )
                transaction.put(name.encode(), value.getvalue())
        transaction.put(b"__keys__", json.dumps(names).encode())
    environment.close()


def write_npy(folder: Path) -> None:
    """As MMF's extractor: an array and a table an image."""
    folder.mkdir()
    for number in range(IMAGES):
        probs = np.zeros((2, 1600), np.float32)
        probs[:, number] = 0.75
        info = {"bbox": BOXES, "num_boxes": 2, "objects": np.array([number] * 2), "cls_prob": probs}
        name = f"COCO_train2014_{number:012d}"
        np.save(folder / f"{name}.npy", np.full((2, 512), number, np.float32))
        np.save(folder / f"{name}_info.npy", info | {"image_width": 64, "image_height": 48})


def write_large_store(folder: Path, images: int = 400) -> None:
    """Twenty shards, to be merged."""
    import dataclasses

    header = dataclasses.replace(HEADER, feature_size=512)
    found = dataclasses.replace(regions(["dog", "cat"]), features=np.ones((2, 512), np.float16))
    with StoreWriter(folder, header, shard_size=images // 20) as writer:
        for number in range(images):
            writer.add(f"toy:{number:04d}", found)


def result_of(job: Job, place: Path) -> dict[str, Any]:
    """What must be the same: every file's bytes; of a training its weights, losses and what lies where."""
    files = sorted(path for path in (place / "out").rglob("*") if path.is_file())
    if not job.is_run:
        return {str(path.relative_to(place)): path.read_bytes() for path in files}
    run = place / "out/run"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found: dict[str, Any] = {str(path.relative_to(place)): None for path in files}
    found["losses"] = [(row["step"], row.get("losses"), row.get("validation")) for row in rows]
    for name in ("last", "best"):
        found[name] = (run / name).resolve().name if (run / name).exists() else None
    for folder in sorted((run / "checkpoints").iterdir()):
        for name, tensor in load_file(folder / "model.safetensors").items():
            found[f"{folder.name} {name}"] = tensor.numpy().tobytes()
        found[f"{folder.name} optimizer"] = (folder / "optimizer.pt").read_bytes()
    return found


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of what two results do not have in common, with the values where they are short."""
    names = sorted(name for name in one | other if one.get(name, ...) != other.get(name, ...))
    return [f"{name}: {one.get(name, 'missing')!r:.400} against {other.get(name, 'missing')!r:.400}" for name in names]


def half_files(place: Path) -> list[str]:
    """Files and folders under temporary names, and files under final names that cannot be read as what they are."""
    bad = [str(path.relative_to(place)) for path in (place / "out").rglob("*") if path.name.endswith(".tmp")]
    return bad + broken_files(place)


def broken_files(place: Path) -> list[str]:
    """Files under their final names that are not whole."""
    import h5py

    from cmal.regions.store.shard_file import Shard

    bad = []
    for path in sorted((place / "out").rglob("*")):
        name = str(path.relative_to(place))
        if path.name.startswith(".") or not path.is_file() or ".tmp/" in name:
            continue
        try:
            if path.suffix == ".h5":
                with h5py.File(path, "r"):
                    Shard(path)
            elif path.suffix == ".safetensors":
                load_file(path)
            elif path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".jsonl" and path.name != "metrics.jsonl":
                text = path.read_text()
                assert not text or text.endswith("\n"), "its last line is cut"
                [json.loads(line) for line in text.splitlines()]
            elif path.suffix in (".jpg", ".png"):
                from PIL import Image

                with Image.open(path) as image:
                    image.load()
        except Exception as error:
            bad.append(f"{name}: {error}")
    return bad
