"""One data set being prepared: the argument of each format's `write_...` function, and the manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cmal.data.records import Record
from cmal.datasets.catalogue import About
from cmal.datasets.inputs import RawFolder, file_facts
from cmal.datasets.leakage import LeakageAudit
from cmal.datasets.output import OutputFolder, images_of
from cmal.regions.image_ids import MANIFEST_FORMAT

VERSION = 1
SPLIT_ORDER = ("train", "val", "dev", "test-dev", "test", "testA", "testB", "test-P")


@dataclass(frozen=True)
class Options:
    """Options of the user.

    Attributes:
        answers: a given answer vocabulary (vqa); None builds one.
        detections: detected boxes (refcoco, refcoco+, refcocog).
        split_by: whose split of RefCOCO(g): "unc", "google" or "umd"; "" takes the usual one.
        allow_leakage: keep evaluation images in pre-training records.
        image_folder: the images of cc3m, sbu and pairs; None looks into the raw folder.
        captions: the captions file of pairs.
        name: the data set that pairs become; OUT/NAME is written.
    """

    answers: Path | None = None
    detections: Path | None = None
    split_by: str = ""
    allow_leakage: bool = False
    image_folder: Path | None = None
    captions: Path | None = None
    name: str = "pairs"


@dataclass
class Job:
    """One data set being prepared.

    Attributes:
        dataset: its name, the prefix of its record ids.
        about: facts for the manifest.
        raw: its official files.
        output: its split files.
        options: see `Options`.
        report: called with one line of progress.
        find_evaluation: returns the evaluation sets for the leakage audit.
        dropped: counts of rows left out, by reason.
        notes: other facts for the manifest.
        audit: the leakage audit; None for evaluation tasks.
        image_ids: the data set in the image ids.
    """

    dataset: str
    about: About
    raw: RawFolder
    output: OutputFolder
    options: Options
    report: Callable[[str], None]
    find_evaluation: Callable[[Job], dict[str, frozenset[str]]]
    dropped: Counter[str] = field(default_factory=Counter)
    notes: dict[str, object] = field(default_factory=dict)
    audit: LeakageAudit | None = None
    image_ids: str = ""

    def __post_init__(self) -> None:
        self.image_ids = self.image_ids or self.about.image_ids

    def begin_audit(
        self, aliases: Mapping[str, tuple[str, ...]] | None = None, matched_by: tuple[str, ...] = ()
    ) -> None:
        """From now on `write(..., training=True)` keeps evaluation images out."""
        sets = self.find_evaluation(self)
        self.audit = LeakageAudit(sets, aliases, self.options.allow_leakage, matched_by)
        if not sets:
            self.report(
                "leakage audit: no evaluation set is prepared yet; prepare the tasks first to have theirs excluded"
            )

    def write(self, split: str, record: Record, training: bool = False) -> None:
        """Writes a record, except a training record that the leakage audit excludes."""
        if not training or self.audit is None or all(self.audit.keeps(image) for image in images_of(record)):
            self.output.split(split).add(record)

    def manifest(self, made_by: str) -> dict[str, object]:
        """The manifest, once all splits are written."""
        splits = sorted(self.output.splits.values(), key=lambda split: SPLIT_ORDER.index(split.name))
        others = (self.options.answers, self.options.detections, self.options.captions)
        given = [file_facts(path, self.raw.folder) for path in others if path is not None]
        return {
            "format": MANIFEST_FORMAT,
            "version": VERSION,
            "dataset": self.dataset,
            "image_ids": self.image_ids,
            "title": self.about.title,
            "made_by": made_by,
            "splits": {split.name: {"records": split.records, "images": len(split.images)} for split in splits},
            "images": len(set().union(*(split.images for split in self.output.splits.values()))),
            "dropped": dict(sorted(self.dropped.items())),
            "exclusions": self.audit.summary() if self.audit else {},
            "notes": self.notes,
            "inputs": self.raw.facts() + given,
            "source": self.about.source,
            "licence": self.about.licence,
            "citation": self.about.citation,
        }
