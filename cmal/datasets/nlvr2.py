"""NLVR2 JSON lines: a sentence about two photos, and whether it is true of them.

A row's `identifier` is SPLIT-SET-PAIR-SENTENCE ("dev-850-0-1"); its photos are SPLIT-SET-PAIR-img0.png (left) and -img1.png.
Source: Suhr et al. 2019, arXiv:1811.00491; files from github.com/lil-lab/nlvr.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cmal.data.records import PairRecord
from cmal.datasets.job import Job
from cmal.io.rows import UniqueIds, get_text, iterate_lines, json_line, parse_rows
from cmal.regions.image_ids import nlvr2_image_id

_IDENTIFIER = re.compile(r"^[a-z0-9]+-\d+-\d+-\d+$")


NLVR2_FILES = {"train": "train.json", "dev": "dev.json", "test-P": "test1.json"}


def write_nlvr2(job: Job) -> None:
    """All splits that are there; test1 is the public test set, test-P."""
    paths = {split: job.raw.find(name) for split, name in NLVR2_FILES.items()}
    if not any(paths.values()):
        raise job.raw.missing("train.json, dev.json or test1.json")
    for split, path in paths.items():
        if path:
            for record in read_nlvr2(path, job.dataset, job.dropped):
                job.write(split, record)


def read_nlvr2(path: Path, dataset: str, dropped: Counter[str]) -> Iterator[PairRecord]:
    """One record per line, ids `DATASET:<identifier>`.

    Args:
        path: train.json, dev.json or test1.json.
        dataset: the record ids' prefix.
        dropped: counts blank lines and repeated rows.

    Raises:
        DataError: the file cannot be read, or some lines are invalid (all reported together).
    """
    unique = UniqueIds()

    def parse(line: bytes) -> PairRecord:
        row = json_line(line)
        identifier, sentence = get_text(row, "identifier"), get_text(row, "sentence")
        label = get_text(row, "label") if "label" in row else ""
        if not _IDENTIFIER.match(identifier):
            raise ValueError(f'"identifier" should be like dev-850-0-1, found "{identifier[:40]}"')
        if label not in ("True", "False", ""):
            raise ValueError(f'"label" should be "True" or "False", found "{label[:40]}"')
        if not sentence:
            raise ValueError('"sentence" is empty')
        unique.check(identifier, sentence, label)
        pair = identifier.rpartition("-")[0]
        left, right = (nlvr2_image_id(f"{pair}-img{side}.png") for side in (0, 1))
        return PairRecord(f"{dataset}:{identifier}", left, right, sentence, identifier, label)

    return parse_rows(path, "NLVR2 lines", iterate_lines(path), parse, dropped, "line")
