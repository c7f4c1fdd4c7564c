"""SNLI-VE JSON lines: an image, a hypothesis (`sentence2`), a label (`gold_label`).

Both releases are read: the key of the image is `Flickr30K_ID` ("36979") in the later one and `Flikr30kID` ("36979.jpg") in
the first. Rows whose annotators did not agree (label "-") are left out, as in SNLI. Source: Xie et al. 2019,
arXiv:1901.06706.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cmal.data.records import EntailmentRecord
from cmal.datasets.job import Job
from cmal.io.rows import LeaveOut, UniqueIds, get_name, get_text, iterate_lines, json_line, parse_rows
from cmal.regions.image_ids import flickr30k_image_id, image_id_for_file

LABELS = ("contradiction", "entailment", "neutral")
IMAGE_KEYS = ("Flickr30K_ID", "Flikr30kID", "Flickr30kID")


def write_snli_ve(job: Job) -> None:
    """All three splits that are there."""
    paths = {split: job.raw.find(f"snli_ve_{split}.jsonl") for split in ("train", "dev", "test")}
    if not any(paths.values()):
        raise job.raw.missing("snli_ve_train.jsonl, snli_ve_dev.jsonl or snli_ve_test.jsonl")
    for split, path in paths.items():
        if path:
            for record in read_snli_ve(path, job.dataset, job.image_ids, job.dropped):
                job.write(split, record)


def read_snli_ve(path: Path, dataset: str, image_ids: str, dropped: Counter[str]) -> Iterator[EntailmentRecord]:
    """One record per line, ids `DATASET:<pairID>`.

    Args:
        path: snli_ve_{train,dev,test}.jsonl.
        dataset: the record ids' prefix.
        image_ids: "flickr30k", or "scenes".
        dropped: counts rows without an agreed label, blank lines and repeated rows.

    Raises:
        DataError: the file cannot be read, or some lines are invalid (all reported together).
    """
    unique = UniqueIds()

    def parse(line: bytes) -> EntailmentRecord:
        row = json_line(line)
        pair, hypothesis, label = get_text(row, "pairID"), get_text(row, "sentence2"), get_text(row, "gold_label")
        name = get_name(row, *IMAGE_KEYS)
        image_id = flickr30k_image_id(name) if image_ids == "flickr30k" else image_id_for_file(image_ids, name)
        if label == "-":
            raise LeaveOut('rows without an agreed label ("-")')
        if label not in LABELS:
            raise ValueError(f'"gold_label" should be one of {", ".join(LABELS)}, found "{label[:40]}"')
        if not pair or not hypothesis:
            raise ValueError('"pairID" or "sentence2" is empty')
        unique.check(pair, image_id, hypothesis, label)
        return EntailmentRecord(f"{dataset}:{pair}", image_id, hypothesis, label)

    return parse_rows(path, "SNLI-VE lines", iterate_lines(path), parse, dropped, "line")
