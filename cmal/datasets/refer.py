"""RefCOCO, RefCOCO+, RefCOCOg: `refs(...).p` with `instances.json`, and lists of detected boxes.

A ref is one object with several sentences; a record is one sentence. A ref of split `testAB` counts for both test sets.
Source: Yu et al. 2016, arXiv:1608.00272; files from github.com/lichengunc/refer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cmal.data.records import ReferringRecord
from cmal.datasets.detections import read_detections
from cmal.datasets.job import Job
from cmal.errors import DataError
from cmal.io.pickles import read_pickle
from cmal.io.rows import LeaveOut, UniqueIds, as_object, clean_text, get_id, get_list, get_text, parse_rows
from cmal.regions.coco_instances import InstanceImage, Instances, read_instances

SPLITS_OF = {
    "train": ("train",),
    "val": ("val",),
    "test": ("test",),
    "testA": ("testA",),
    "testB": ("testB",),
    "testAB": ("testA", "testB"),
}


DETECTIONS = "detections.json"
REF_SPLITS = {
    "refcoco": ("unc", "google"),
    "refcoco+": ("unc",),
    "refcocog": ("umd", "google"),
    "scenes-rec": ("scenes",),
}


def write_referring(job: Job) -> None:
    """RefCOCO, RefCOCO+, RefCOCOg and scenes: one record a sentence, with all annotated boxes as candidates."""
    split_by = job.options.split_by or REF_SPLITS[job.dataset][0]
    refs = job.raw.need(f"refs({split_by}).p")
    instances = read_instances(job.raw.need("instances.json"))
    for split, record in read_refs(refs, instances, job.dataset, job.image_ids, job.dropped):
        job.write(split, record)
    job.notes["split by"] = split_by
    if job.options.detections:
        detections = read_detections(job.options.detections, instances, job.dropped)
        job.output.others[DETECTIONS] = detections
        job.notes["detections"] = {
            "file": DETECTIONS,
            "boxes": len(detections["annotations"]),
            "images": len(detections["images"]),
            "use": f"cmal extract-regions IMAGES --detector boxes:{job.output.folder / DETECTIONS}",
        }


def read_refs(
    path: Path, instances: Instances, dataset: str, image_ids: str, dropped: Counter[str]
) -> Iterator[tuple[str, ReferringRecord]]:
    """One (split, record) per sentence, in the file's order; record ids `DATASET:<sent_id>`.

    The candidate boxes are those of all annotations of the image, in the order of `instances`.

    Args:
        path: refs(unc).p, refs(google).p, refs(umd).p or refs(scenes).p.
        instances: what `read_instances` gave for the instances.json beside it.
        dataset: the record ids' prefix.
        image_ids: "coco", or "scenes".
        dropped: counts empty expressions.

    Raises:
        DataError: the pickle is refused or is no list, or some refs are invalid (all reported together).
    """
    refs = read_pickle(path)
    if not isinstance(refs, list):
        raise DataError(
            f"cannot use {path} as refs", f"it holds a {type(refs).__name__}, not a list", "download the file again"
        )
    parser = _RefParser(instances, dataset, image_ids, dropped)
    for found in parse_rows(path, "refs", refs, parser.parse, dropped, "ref"):
        yield from found


class _RefParser:
    """One ref -> its (split, record) pairs."""

    def __init__(self, instances: Instances, dataset: str, image_ids: str, dropped: Counter[str]):
        self.instances, self.dataset, self.image_ids, self.dropped = instances, dataset, image_ids, dropped
        self.unique = UniqueIds()

    def parse(self, ref: object) -> list[tuple[str, ReferringRecord]]:
        ref = as_object(ref)
        ref_id, split = get_id(ref, "ref_id"), get_text(ref, "split")
        if split not in SPLITS_OF:
            raise ValueError(f'"split" should be one of {", ".join(SPLITS_OF)}, found "{split[:40]}"')
        image, box = self._object_of(get_id(ref, "image_id"), get_id(ref, "ann_id"))
        candidates = tuple(b.box_xywh_px for b in image.boxes)
        found = []
        for sentence in map(as_object, get_list(ref, "sentences")):
            number, expression = get_id(sentence, "sent_id"), self._expression(sentence)
            self.unique.check(number, str(ref_id), expression)
            if not expression:
                self.dropped["empty expressions"] += 1
                continue
            record = ReferringRecord(
                f"{self.dataset}:{number}", str(ref_id), image.image_id(self.image_ids), expression, box, candidates
            )
            found += [(name, record) for name in SPLITS_OF[split]]
        if not found and not get_list(ref, "sentences"):
            raise LeaveOut("refs without a sentence")
        return found

    def _object_of(self, image_number: int, annotation: int) -> tuple[InstanceImage, tuple]:
        image = self.instances.images.get(image_number)
        if image is None:
            raise ValueError(f"its image {image_number} is not in instances.json")
        for box in image.boxes:
            if box.annotation_id == annotation:
                return image, box.box_xywh_px
        raise ValueError(f"its annotation {annotation} is not among those of image {image_number} in instances.json")

    def _expression(self, sentence: dict) -> str:
        name = "sent" if "sent" in sentence else "raw"
        return clean_text(_repair(sentence.get(name)), name)


def _repair(text: object) -> object:
    """A Python 2 byte text that was UTF-8, read as Latin-1, put right: "cafÃ©" -> "café"."""
    try:
        return text.encode("latin1").decode("utf-8") if isinstance(text, str) and not text.isascii() else text
    except UnicodeError:
        return text
