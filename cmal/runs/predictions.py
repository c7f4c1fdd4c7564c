"""`cmal eval --predictions`: all answers in the format of the task's official evaluator or server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cmal.data.records import ImageTextRecord
from cmal.io.files import write_json
from cmal.runs.evaluate import Evaluation
from cmal.tasks.shortlist import seen_from

RANKED_CAPTIONS = 10


def write_predictions(task: str, evaluation: Evaluation, path: Path) -> None:
    """Writes the answers of an evaluation as JSON.

    VQA: [{"question_id", "answer"}] for all questions, the evaluation server's format. Referring expressions: one row per
    sentence with its boxes (x, y, width, height in pixels), highest score first. Retrieval: the ten best captions of each
    image and the ten best images of each caption. Others: [{"id", "answer"}].
    """
    answers = evaluation.answers
    if task.endswith("vqa"):
        rows: object = [{"question_id": _question_id(id), "answer": answer} for id, answer in answers.items()]
    elif task.endswith("rec") or task.startswith("refcoco"):
        rows = [{"id": id, "boxes_xywh_px": [_xywh(box) for box in boxes]} for id, boxes in answers.items()]
    elif "scores" in answers:
        rows = _rankings(evaluation)
    else:
        rows = [{"id": id, "answer": answer} for id, answer in answers.items()]
    write_json(path, rows)


def _question_id(id: str) -> int | str:
    number = id.rsplit(":", 1)[-1]
    return int(number) if number.isdecimal() else id


def _xywh(box: list[float]) -> list[float]:
    x1, y1, x2, y2 = box
    return [round(v, 3) for v in (x1, y1, x2 - x1, y2 - y1)]


def _rankings(evaluation: Evaluation) -> dict[str, object]:
    captions = [r.id for r in evaluation.records]
    images = list(dict.fromkeys(r.image_id for r in evaluation.records if isinstance(r, ImageTextRecord)))
    for_captions, for_images = seen_from(evaluation.answers)
    return {
        "captions_of_image": {image: _best(row, captions) for image, row in zip(images, for_images)},
        "images_of_caption": {id: _best(column, images) for id, column in zip(captions, for_captions.T)},
    }


def _best(scores: np.ndarray, names: Sequence[str]) -> list[str]:
    """The names of the ten best, without those outside a shortlist (-inf)."""
    return [names[i] for i in np.argsort(-scores, kind="stable")[:RANKED_CAPTIONS].tolist() if scores[i] > -np.inf]
