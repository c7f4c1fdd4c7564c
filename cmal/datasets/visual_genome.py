"""Visual Genome: region descriptions, question-answer pairs, and which COCO and Flickr photo each image is.

All three are one JSON list each, an entry an image. Source: Krishna et al. 2017, arXiv:1602.07332.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cmal.data.records import ImageTextRecord, VqaRecord
from cmal.datasets.job import Job
from cmal.io.json_stream import iterate_array
from cmal.io.rows import LeaveOut, RowErrors, UniqueIds, as_object, get_id, get_list, get_text, parse_rows
from cmal.regions.image_ids import coco_image_id, vg_image_id

MAX_ANSWER_WORDS = 5


def write_vg_captions(job: Job) -> None:
    """Every region description is a caption of its image."""
    path = job.raw.need("region_descriptions.json")
    _begin_vg_audit(job, "image_data.json" if job.options.allow_leakage else "")
    for record in read_regions(path, job.dataset, job.dropped):
        job.write("train", record, training=True)


def _begin_vg_audit(job: Job, optional: str) -> None:
    """The audit by the COCO and Flickr numbers of image_data.json, which may be missing where it is `optional`."""
    path = job.raw.find(optional) if optional else job.raw.need("image_data.json")
    aliases = read_image_data(path, job.dropped) if path else {}
    job.begin_audit(aliases, ("coco_id and flickr_id of image_data.json",) if path else ())


def write_vg_questions(job: Job) -> None:
    """Visual Genome's questions as further training data, without those of evaluation images."""
    path = job.raw.find("question_answers.json")
    if path is None:
        return
    _begin_vg_audit(job, "image_data.json" if job.options.allow_leakage else "")
    before = job.output.splits["train"].records if "train" in job.output.splits else 0
    for record in read_question_answers(path, job.dataset, job.dropped):
        job.write("train", record, training=True)
    job.notes["questions of Visual Genome in train"] = job.output.split("train").records - before


def _image_number(entry: dict, rows: list) -> int:
    """The entry's image: its own key, or that of its rows (releases differ)."""
    for name in ("id", "image_id"):
        if name in entry:
            return get_id(entry, name)
    return get_id(as_object(rows[0]) if rows else {}, "image_id")


def _iterate_rows(path: Path, what: str, key: str, dropped: Counter[str], parse) -> Iterator:
    """`parse(row, image number)` for the rows under `key` of every image's entry; see `parse_rows`."""
    errors = RowErrors(path, what)
    for entry_number, entry in enumerate(iterate_array(path), start=1):
        entry_name = f"image entry {entry_number:,}"
        try:
            rows = get_list(as_object(entry), key)
            image = _image_number(entry, rows) if rows else 0
        except ValueError as error:
            errors.add(entry_name, error)
            continue
        for row_number, row in enumerate(rows, start=1):
            try:
                value = parse(as_object(row), image)
            except LeaveOut as reason:
                dropped[str(reason)] += 1
            except ValueError as error:
                errors.add(f"{entry_name}, row {row_number}", error)
            else:
                yield value
    errors.raise_if_any()


def read_regions(path: Path, dataset: str, dropped: Counter[str]) -> Iterator[ImageTextRecord]:
    """One record per region description, ids `DATASET:<region_id>`; the region's box is not kept.

    Args:
        path: region_descriptions.json.
        dataset: the record ids' prefix.
        dropped: counts empty phrases and repeated rows.

    Raises:
        DataError: the file is not of this form, or some rows are invalid (all reported together).
    """
    unique = UniqueIds()

    def parse(row: dict, image: int) -> ImageTextRecord:
        number, phrase = get_id(row, "region_id", "id"), get_text(row, "phrase")
        if row.get("image_id", image) != image:
            raise ValueError(f"its image {row['image_id']} is not its entry's, {image}")
        unique.check(number, str(image), phrase)
        if not phrase:
            raise LeaveOut("empty phrases")
        return ImageTextRecord(f"{dataset}:{number}", vg_image_id(image), phrase)

    return _iterate_rows(path, "Visual Genome regions", "regions", dropped, parse)


def read_question_answers(path: Path, dataset: str, dropped: Counter[str]) -> Iterator[VqaRecord]:
    """One record per question, ids `DATASET:vg-<qa_id>`, with ten times its one answer, as VQA v2 has ten annotators.

    Args:
        path: question_answers.json.
        dataset: the record ids' prefix.
        dropped: counts answers longer than five words (none is in a VQA vocabulary), empty ones, repeated rows.

    Raises:
        DataError: as `read_regions`.
    """
    unique = UniqueIds()

    def parse(row: dict, image: int) -> VqaRecord:
        number, question, answer = get_id(row, "qa_id"), get_text(row, "question"), get_text(row, "answer")
        if row.get("image_id", image) != image:
            raise ValueError(f"its image {row['image_id']} is not its entry's, {image}")
        unique.check(number, str(image), question, answer)
        answer = answer.removesuffix(".")
        if not question or not answer:
            raise LeaveOut("Visual Genome questions without question or answer")
        if len(answer.split()) > MAX_ANSWER_WORDS:
            raise LeaveOut(f"Visual Genome answers of more than {MAX_ANSWER_WORDS} words")
        return VqaRecord(f"{dataset}:vg-{number}", vg_image_id(image), question, (answer,) * 10)

    return _iterate_rows(path, "Visual Genome questions", "qas", dropped, parse)


def read_image_data(path: Path, dropped: Counter[str]) -> dict[str, tuple[str, ...]]:
    """Other ids of Visual Genome's images: "vg:1" -> ("coco:139", "flickr30k:36979"); images without any are absent.

    Raises:
        DataError: the file is not of this form, or some rows are invalid (all reported together).
    """

    def parse(row: object) -> tuple[str, tuple[str, ...]]:
        row = as_object(row)
        image_id = vg_image_id(get_id(row, "image_id", "id"))
        coco = [coco_image_id(get_id(row, "coco_id"))] if row.get("coco_id") is not None else []
        flickr = [f"flickr30k:{get_id(row, 'flickr_id')}"] if row.get("flickr_id") is not None else []
        return image_id, (*coco, *flickr)

    found = parse_rows(path, "Visual Genome images", iterate_array(path), parse, dropped, "row")
    return {image_id: others for image_id, others in found if others}
