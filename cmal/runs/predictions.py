"""`cmal eval --predictions`: every answer in the format the task's evaluator or server takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cmal.io.files import write_json
from cmal.runs.evaluate import Evaluation
from cmal.tasks.shortlist import seen_from

RANKED_CAPTIONS = 10


def write_predictions(task: str, evaluation: Evaluation, path: Path) -> None:
    """Writes the answers.

    VQA: [{"question_id", "answer"}] for all questions, as the evaluation server takes it. REC: one row a sentence with its
    boxes in the order of their scores (x, y, width, height in pixels). Retrieval: the ten best captions of each image and
    images of each caption. Others: [{"id", "answer"}].
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
    images = list(dict.fromkeys(r.image_id for r in evaluation.records))
    for_captions, for_images = seen_from(evaluation.answers)
    return {
        "captions_of_image": {image: _best(row, captions) for image, row in zip(images, for_images)},
        "images_of_caption": {id: _best(column, images) for id, column in zip(captions, for_captions.T)},
    }


def _best(scores: np.ndarray, names: Sequence[str]) -> list[str]:
    """The names of the ten best, those outside a shortlist left out."""
    return [names[i] for i in np.argsort(-scores, kind="stable")[:RANKED_CAPTIONS].tolist() if scores[i] > -np.inf]
