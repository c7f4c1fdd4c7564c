"""Downstream tasks by name: `TASKS`, and `build_task` that builds one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cmal.errors import RecipeError
from cmal.tasks.base import Task
from cmal.tasks.grounding import PhraseGrounding
from cmal.tasks.nlvr2 import Nlvr2
from cmal.tasks.rec import ReferringExpressions
from cmal.tasks.retrieval import Retrieval
from cmal.tasks.snli_ve import LABELS, SnliVe
from cmal.tasks.vqa import Vqa


@dataclass(frozen=True)
class TaskOptions:
    """Options of all tasks; each builder reads its own: `labels` of the head, the others of `Retrieval`."""

    labels: Sequence[str] = ()
    retrieval_images: int = 0
    captions_per_image: int = 5
    hard_negatives: int = 1


def _vqa(name: str, options: TaskOptions) -> Task:
    return Vqa(name, options.labels)


def _snli_ve(name: str, options: TaskOptions) -> Task:
    return SnliVe(name, options.labels or LABELS)


def _rec(name: str, options: TaskOptions) -> Task:
    return ReferringExpressions(name)


def _retrieval(name: str, options: TaskOptions) -> Task:
    return Retrieval(name, options.retrieval_images, options.captions_per_image, options.hard_negatives)


def _grounding(name: str, options: TaskOptions) -> Task:
    return PhraseGrounding(name)


def _nlvr2(name: str, options: TaskOptions) -> Task:
    return Nlvr2(name)


TASKS: dict[str, Callable[[str, TaskOptions], Task]] = {
    "vqa": _vqa,
    "snli-ve": _snli_ve,
    "refcoco": _rec,
    "refcoco+": _rec,
    "refcocog": _rec,
    "flickr30k-entities": _grounding,
    "flickr30k": _retrieval,
    "coco-retrieval": _retrieval,
    "nlvr2": _nlvr2,
    "scenes-vqa": _vqa,
    "scenes-ve": _snli_ve,
    "scenes-rec": _rec,
    "scenes-retrieval": _retrieval,
}
NEEDS_ANSWERS = ("vqa", "scenes-vqa")


def build_task(name: str, options: TaskOptions) -> Task:
    """The task called `name` in `TASKS`.

    Raises:
        RecipeError: there is no such task.
    """
    if name not in TASKS:
        raise RecipeError(f'there is no task "{name}"', f"known tasks: {', '.join(TASKS)}", "choose one of them")
    return TASKS[name](name, options)
