"""The records of a downstream task's splits, and its answer vocabulary, as `cmal prepare` wrote them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

import numpy as np

from cmal.data.records import read_records
from cmal.errors import DataError
from cmal.runs.evaluation_inputs import how_to_prepare
from cmal.tasks import NEEDS_ANSWERS
from cmal.tasks.base import RecordT, Task

Item = TypeVar("Item")


def read_splits(task: Task[RecordT], root: Path, splits: str) -> list[RecordT]:
    """The records of several splits, as in "train+val". Raises DataError as `read_split`."""
    return [record for split in splits.split("+") for record in read_split(task, root, split.strip())]


def read_split(task: Task[RecordT], root: Path, split: str) -> list[RecordT]:
    """The task's records in ROOT/SPLIT.jsonl.

    Raises:
        DataError: there is no such split; the message lists those that exist.
    """
    path = root / f"{split}.jsonl"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in root.glob("*.jsonl")))
        raise DataError(
            f'cannot read split "{split}" of {task.name}',
            f"{root} holds {there or 'nothing'}",
            ("take one of these, or " if there else "") + f"make it: {how_to_prepare(task.name)}",
        )
    return read_records(path, task.record_kind)


def take_few(records: list[Item], count: int, seed: int) -> list[Item]:
    """A random subset of `count` records in file order; all of them if count is 0.

    With the same seed, a larger subset contains every smaller one.
    """
    if not count or count >= len(records):
        return records
    order = np.random.default_rng([seed, len(records)]).permutation(len(records))
    return [records[i] for i in sorted(order[:count].tolist())]


def read_answers(task: str, root: Path) -> tuple[str, ...]:
    """The answer vocabulary in ROOT/answers.json; empty for tasks without one.

    Raises:
        DataError: the file is missing or damaged.
    """
    if task not in NEEDS_ANSWERS:
        return ()
    path = root / "answers.json"
    try:
        answers = json.loads(path.read_bytes())
        if not isinstance(answers, list) or not answers or not all(isinstance(answer, str) for answer in answers):
            raise ValueError("it is no list of texts")
        if len(set(answers)) != len(answers):
            raise ValueError("an answer is in it twice")
    except (OSError, ValueError, RecursionError) as error:
        hint = f"prepare the data set again: {how_to_prepare(task)}"
        raise DataError(f"cannot read {path}", str(error), hint) from error
    return tuple(answers)
