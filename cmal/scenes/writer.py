"""Writes scenes in the official formats of COCO, VQA v2, SNLI-VE and RefCOCO.

`scene_rows` encodes one scene and its texts as rows of several tables. `Tables` collects the rows in temporary files
and assembles the official files at the end. Memory use does not depend on the number of images.

Ids depend only on split, index and k, the number of the row within its image (or ref):
image = 10,000,000 (train), 20,000,000 (val) or 30,000,000 (test) + index; caption = image * 10 + k;
instance = image * 100 + k; ref = image * 10 + k; sentence = ref * 10 + k; question = image * 1000 + k.
"""

from __future__ import annotations

import json
import pickle
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cmal.io.files import atomic_path, cannot_write
from cmal.scenes.language.expressions import Reference
from cmal.scenes.language.gold import Sentence
from cmal.scenes.language.hypotheses import Hypothesis
from cmal.scenes.language.questions import Question
from cmal.scenes.scene import Scene
from cmal.scenes.world import KINDS, PEOPLE

SPLITS = ("train", "val", "test")
FIRST_IMAGE_ID = {"train": 10_000_000, "val": 20_000_000, "test": 30_000_000}
SNLI_VE_SPLIT = {"train": "train", "val": "dev", "test": "test"}
TABLES = ("images", "captions", "instances", "refs", "questions", "answers", "snli_ve", "karpathy", "gold")
INFO = {
    "description": "Generated scenes with generated language",
    "version": "1.0",
    "year": 2025,
    "contributor": "cmal",
    "url": "",
    "date_created": "2025/01/01",
}
LICENCE = {"id": 1, "name": "CC0 1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}
CATEGORIES = [{"id": i, "name": kind, "supercategory": ""} for i, kind in enumerate(KINDS, start=1)]

Rows = dict[str, bytes]


@dataclass(frozen=True)
class SceneTexts:
    """The generated texts of one scene."""

    captions: tuple[Sentence, ...]
    references: tuple[Reference, ...]
    questions: tuple[Question, ...]
    hypotheses: tuple[Hypothesis, ...]


def image_id_of(scene: Scene) -> int:
    """The integer image id of the COCO-like files."""
    return FIRST_IMAGE_ID[scene.split] + scene.index


def tokens_of(text: str) -> list[str]:
    """Lower-case words without punctuation, as in the REFER and Karpathy files."""
    return re.findall(r"[a-z0-9']+", text.lower())


def scene_rows(scene: Scene, texts: SceneTexts, imgid: int) -> Rows:
    """One scene's encoded rows: {name in TABLES: bytes}.

    Args:
        scene: content of the picture.
        texts: its texts.
        imgid: index of the picture over all splits, for the Karpathy file.
    """
    width, height = scene.size_wh_px
    image_id, file_name = image_id_of(scene), f"{scene.name}.jpg"
    image = {"id": image_id, "file_name": file_name, "width": width, "height": height, "license": 1}
    captions = [
        {"id": image_id * 10 + k, "image_id": image_id, "caption": c.text} for k, c in enumerate(texts.captions)
    ]
    questions = [
        {"image_id": image_id, "question": q.text, "question_id": image_id * 1000 + k}
        for k, q in enumerate(texts.questions)
    ]
    return {
        "images": _json_rows([image]),
        "captions": _json_rows(captions),
        "instances": _json_rows(_instances(scene)),
        "refs": b"".join(_pickled(ref) for ref in _refs(scene, texts.references)),
        "questions": _json_rows(questions),
        "answers": _json_rows(_answers(image_id, texts.questions)),
        "snli_ve": _lines(_snli_ve(scene, texts)),
        "karpathy": _json_rows([_karpathy(scene, captions, imgid)]),
        "gold": _lines(_gold(scene, texts.captions)),
    }


def _json_rows(rows: Iterable[dict]) -> bytes:
    """Each row preceded by a comma. `_write_json` skips the first comma of a list."""
    return b"".join(b",\n" + json.dumps(row).encode() for row in rows)


def _lines(rows: Iterable[dict]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def _pickled(value: object) -> bytes:
    """The value as an item of a pickled list: its protocol 2 pickle without header and STOP, followed by APPEND."""
    return pickle.dumps(value, protocol=2)[2:-1] + b"a"


def _instances(scene: Scene) -> Iterator[dict]:
    image_id = image_id_of(scene)
    for k, thing in enumerate(scene.things):
        x1, y1, x2, y2 = thing.box_xyxy_px
        yield {
            "id": image_id * 100 + k,
            "image_id": image_id,
            "category_id": KINDS.index(thing.kind) + 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": 0,
            "segmentation": [],
            "attributes": {"colour": thing.colour, "size": thing.size, "visible_share": round(thing.visible_share, 3)},
        }


def _refs(scene: Scene, references: Sequence[Reference]) -> Iterator[dict]:
    image_id = image_id_of(scene)
    for k, reference in enumerate(references):
        kind, ref_id = scene.things[reference.thing].kind, image_id * 10 + k
        sentences = [
            {"sent_id": ref_id * 10 + n, "sent": s.text.lower(), "raw": s.text, "tokens": tokens_of(s.text)}
            for n, s in enumerate(reference.sentences)
        ]
        yield {
            "ref_id": ref_id,
            "ann_id": image_id * 100 + reference.thing,
            "image_id": image_id,
            "file_name": f"{scene.name}.jpg",
            "category_id": KINDS.index(kind) + 1,
            "split": scene.split if scene.split != "test" else "testA" if kind in PEOPLE else "testB",
            "sentences": sentences,
            "sent_ids": [s["sent_id"] for s in sentences],
        }


def _answers(image_id: int, questions: Sequence[Question]) -> Iterator[dict]:
    for k, question in enumerate(questions):
        yield {
            "question_type": question.question_type,
            "multiple_choice_answer": question.answer,
            "answers": [
                {"answer": a, "answer_confidence": "yes" if a == question.answer else "maybe", "answer_id": n}
                for n, a in enumerate(question.answers, start=1)
            ],
            "image_id": image_id,
            "answer_type": question.answer_type,
            "question_id": image_id * 1000 + k,
        }


def _snli_ve(scene: Scene, texts: SceneTexts) -> Iterator[dict]:
    for k, hypothesis in enumerate(texts.hypotheses):
        caption = k % len(texts.captions)
        yield {
            "annotator_labels": [hypothesis.label] * 5,
            "captionID": f"{scene.name}.jpg#{caption}",
            "gold_label": hypothesis.label,
            "pairID": f"{scene.name}.jpg#{caption}r{k + 1}{hypothesis.label[0]}",
            "sentence1": texts.captions[caption].text,
            "sentence2": hypothesis.text,
            "Flickr30K_ID": scene.name,
        }


def _karpathy(scene: Scene, captions: Sequence[dict], imgid: int) -> dict:
    sentences = [
        {"tokens": tokens_of(c["caption"]), "raw": c["caption"], "imgid": imgid, "sentid": c["id"]} for c in captions
    ]
    return {
        "filepath": scene.split,
        "sentids": [s["sentid"] for s in sentences],
        "filename": f"{scene.index:06d}.jpg",
        "imgid": imgid,
        "split": scene.split,
        "sentences": sentences,
        "cocoid": image_id_of(scene),
    }


def _gold(scene: Scene, captions: Sequence[Sentence]) -> Iterator[dict]:
    for k, caption in enumerate(captions):
        anchors = [
            {
                "role": anchor.role,
                "span": list(anchor.span),
                "concept": anchor.concept,
                "box_xyxy_px": list(scene.things[anchor.thing].box_xyxy_px),
            }
            for anchor in caption.anchors
        ]
        yield {
            "id": f"scenes:{image_id_of(scene) * 10 + k}",
            "image_id": f"scenes:{scene.name}",
            "caption": caption.text,
            "anchors": anchors,
        }


class Tables:
    """Collects rows in one unnamed temporary file per (table, split) until `write_files` assembles the official files.

    A context manager. The temporary files disappear when it exits or the process is killed.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._stack = ExitStack()
        self._spools: dict[tuple[str, str], BinaryIO] = {}

    def __enter__(self) -> Tables:
        self.folder.mkdir(parents=True, exist_ok=True)
        for table in TABLES:
            for split in SPLITS:
                self._spools[table, split] = self._stack.enter_context(tempfile.TemporaryFile(dir=self.folder))
        return self

    def __exit__(self, *error: object) -> None:
        # Closing can fail on a full disk. By then all rows have been read back, or the block has raised an error.
        with suppress(OSError):
            self._stack.close()

    def add(self, split: str, rows: Rows) -> None:
        """Appends one scene's rows.

        Raises:
            CmalError: the disk is full.
        """
        try:
            for table, data in rows.items():
                self._spools[table, split].write(data)
        except OSError as error:
            raise cannot_write(self.folder, error) from error

    def write_files(self, official: Path, gold: Path) -> None:
        """Writes all official files, each atomically."""
        coco = {"info": INFO, "licenses": [LICENCE]}
        with_kinds = {**coco, "categories": CATEGORIES}
        for split in SPLITS:
            path = official / f"captions_{split}.json"
            self._write_json(path, coco, [split], images="images", annotations="captions")
            path = official / f"instances_{split}.json"
            self._write_json(path, with_kinds, [split], images="images", annotations="instances")
            vqa = {"info": INFO, "task_type": "Open-Ended", "data_type": "scenes", "license": LICENCE}
            vqa["data_subtype"] = split
            path = official / f"v2_OpenEnded_scenes_{split}_questions.json"
            self._write_json(path, vqa, [split], questions="questions")
            self._write_json(official / f"v2_scenes_{split}_annotations.json", vqa, [split], annotations="answers")
            self._write_lines(official / f"snli_ve_{SNLI_VE_SPLIT[split]}.jsonl", "snli_ve", split)
            self._write_lines(gold / f"{split}.jsonl", "gold", split)
        self._write_json(official / "instances.json", with_kinds, SPLITS, images="images", annotations="instances")
        self._write_json(official / "dataset_scenes.json", {"dataset": "scenes"}, SPLITS, images="karpathy")
        with atomic_path(official / "refs(scenes).p") as path, path.open("wb") as file:
            file.write(b"\x80\x02]")  # protocol 2, an empty list; each row appends one item
            for split in SPLITS:
                self._copy("refs", split, file)
            file.write(b".")

    def _write_json(self, path: Path, head: dict, splits: Sequence[str], **lists: str) -> None:
        """Writes one JSON object: the keys of `head`, then each list (key=table) with one row per line."""
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            file.write(json.dumps(head).encode()[:-1])
            for key, table in lists.items():
                file.write(f',\n"{key}": ['.encode())
                skip = 1  # byte: the comma before the first row of the list
                for split in splits:
                    self._copy(table, split, file, skip)
                    skip = 0 if self._spools[table, split].tell() else skip
                file.write(b"\n]")
            file.write(b"}\n")

    def _write_lines(self, path: Path, table: str, split: str) -> None:
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            self._copy(table, split, file)

    def _copy(self, table: str, split: str, file: BinaryIO, skip: int = 0) -> None:
        spool = self._spools[table, split]
        spool.seek(0, 2)
        if spool.tell():
            spool.seek(skip)
            shutil.copyfileobj(spool, file, 1 << 20)
