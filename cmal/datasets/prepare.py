"""`prepare_dataset`: official files in, split files and a manifest out; for `scenes`, generate first, then the same."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cmal.datasets.catalogue import CATALOGUE
from cmal.datasets.coco_captions import write_coco_captions
from cmal.datasets.flickr30k import write_flickr30k
from cmal.datasets.flickr30k_entities import write_flickr30k_entities
from cmal.datasets.inputs import RawFolder
from cmal.datasets.job import Job, Options
from cmal.datasets.leakage import listed_evaluation_sets, prepared_evaluation_sets
from cmal.datasets.nlvr2 import write_nlvr2
from cmal.datasets.output import OutputFolder, Progress
from cmal.datasets.pairs import write_pairs
from cmal.datasets.refer import write_referring
from cmal.datasets.snli_ve import write_snli_ve
from cmal.datasets.visual_genome import write_vg_captions
from cmal.datasets.vqa import write_vqa
from cmal.datasets.web_captions import write_web_captions
from cmal.errors import DataError
from cmal.io.locks import hold_folder
from cmal.io.version import VERSION

MADE_BY = f"cmal {VERSION}"
SCENES_PARTS = ("scenes", "scenes-vqa", "scenes-ve", "scenes-rec")
DEFAULT_SCENES = 1200  # training images
MAX_VAL, MAX_TEST = 200, 400  # from 600 training images on

_PLAIN_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")

_WRITERS: dict[str, Callable[[Job], None]] = {
    "coco-captions": write_coco_captions,
    "vg-captions": write_vg_captions,
    "cc3m": write_web_captions,
    "sbu": write_web_captions,
    "flickr30k": write_flickr30k,
    "flickr30k-entities": write_flickr30k_entities,
    "vqa": write_vqa,
    "snli-ve": write_snli_ve,
    "refcoco": write_referring,
    "refcoco+": write_referring,
    "refcocog": write_referring,
    "nlvr2": write_nlvr2,
    "pairs": write_pairs,
    "scenes": write_coco_captions,
    "scenes-vqa": write_vqa,
    "scenes-ve": write_snli_ve,
    "scenes-rec": write_referring,
}
DATASETS = tuple(name for name in CATALOGUE if name not in SCENES_PARTS[1:])


@dataclass(frozen=True)
class PreparedDataset:
    """What was written: the data set's name, its folder, and its manifest as in manifest.json."""

    name: str
    folder: Path
    manifest: dict

    @property
    def splits(self) -> dict[str, dict[str, int]]:
        """Counts of records and images by split."""
        return self.manifest["splits"]

    def remarks(self) -> list[str]:
        """Further lines for the user: rows left out with reasons, evaluation images found."""
        lines = [f"left out {count:,} {reason}" for reason, count in self.manifest["dropped"].items()]
        exclusions = self.manifest["exclusions"]
        fate = "excluded" if exclusions.get("excluded") else "KEPT (--allow-leakage)"
        for name, found in exclusions.get("by_evaluation_set", {}).items():
            if found["images"]:
                lines.append(f"{found['images']:,} images of {name} ({found['records']:,} records) {fate}")
        return lines


def prepare_dataset(
    dataset: str,
    raw: Path | None,
    out: Path,
    *,
    images: int = DEFAULT_SCENES,
    seed: int = 0,
    workers: int = 0,
    options: Options | None = None,
    report: Callable[[str], None] = lambda line: None,
    progress: Progress | None = None,
) -> tuple[PreparedDataset, ...]:
    """Prepares a data set below `out`; `scenes` gives four (captions, vqa, ve, rec), every other name one.

    Args:
        dataset: one of DATASETS.
        raw: folder of the official files; not used by `scenes` and `pairs`.
        out: folder of all prepared data sets; OUT/DATASET is written.
        images: how many training scenes.
        seed: of the scenes; same seed, same bytes.
        workers: processes that draw scenes; 0 = one per core.
        options: see `Options`.
        report: called with one line of progress.
        progress: called regularly with (what, done, total); total is 0 if unknown.

    Raises:
        DataError: there is no such data set, a file is missing, or rows are invalid (all of a file reported together);
            nothing is written then.
        CmalError: the disk is full or `out` cannot be written.
    """
    if dataset not in DATASETS:
        raise DataError(f'cannot prepare "{dataset}"', "there is no such data set", f"known: {', '.join(DATASETS)}")
    out = Path(out)
    if dataset == "scenes":
        return _prepare_scenes(out, images, seed, workers, report, progress)
    options = options or Options()
    if dataset == "pairs":
        return (_prepare_pairs(out, options, report, progress),)
    if raw is None:
        raise DataError(
            f"cannot prepare {dataset}",
            "its official files are needed",
            f"download them from {CATALOGUE[dataset].source} and give their folder: cmal prepare {dataset} --raw DIR",
        )
    return (_prepare_one(dataset, raw, out, options, report, progress),)


def _prepare_one(
    dataset: str,
    raw: Path,
    out: Path,
    options: Options,
    report: Callable[[str], None],
    progress: Progress | None,
    notes: Mapping[str, object] | None = None,
) -> PreparedDataset:
    about, name = CATALOGUE[dataset], options.name if dataset == "pairs" else dataset
    files = RawFolder(raw, dataset, about.source)
    with OutputFolder(out / name, progress) as output:

        def find_evaluation(job: Job) -> dict[str, frozenset[str]]:
            return prepared_evaluation_sets(out, but=name) | listed_evaluation_sets(job.raw)

        job = Job(name, about, files, output, options, report, find_evaluation)
        job.notes.update(notes or {})
        _WRITERS[dataset](job)
        if not any(split.records for split in output.splits.values()):
            raise DataError(
                f"cannot prepare {name}",
                f"{raw} gave no record; {_left_out(job.dropped)}",
                "check that these are the right files",
            )
        manifest = job.manifest(MADE_BY)
        output.commit(manifest)
    return PreparedDataset(name, out / name, manifest)


def _left_out(dropped: Counter[str]) -> str:
    reasons = [f"{count:,} {reason}" for reason, count in dropped.items()]
    return f"left out: {', '.join(reasons)}" if reasons else "nothing was left out"


def _prepare_pairs(
    out: Path, options: Options, report: Callable[[str], None], progress: Progress | None
) -> PreparedDataset:
    """The user's pairs, written to OUT/NAME; images are not copied."""
    if options.image_folder is None or options.captions is None:
        raise DataError(
            "cannot prepare pairs",
            "an image folder and a captions file are needed",
            "give both: cmal prepare pairs --images DIR --captions FILE.csv",
        )
    name = options.name
    if not _PLAIN_NAME.match(name) or (name in CATALOGUE and name != "pairs"):
        raise DataError(
            f"cannot call a data set {name!r}",
            "the name is taken, or is not made of letters, digits, _ and -",
            "give another with --name",
        )
    if not options.image_folder.is_dir():
        raise DataError(
            "cannot prepare pairs", f"there is no folder {options.image_folder}", "check the path of --images"
        )
    if not options.captions.is_file():
        raise DataError("cannot prepare pairs", f"there is no file {options.captions}", "check the path of --captions")
    return _prepare_one("pairs", options.image_folder, out, options, report, progress)


def scenes_sizes(images: int) -> dict[str, int]:
    """Images per split of `scenes` by the number of training images: 200 and 400, fewer below 600 training images.

    Example: 1,200 gives 200 and 400; 60 gives 10 and 20.
    """
    return {"train": images, "val": max(1, min(MAX_VAL, images // 6)), "test": max(1, min(MAX_TEST, images // 3))}


def _prepare_scenes(
    out: Path, images: int, seed: int, workers: int, report: Callable[[str], None], progress: Progress | None
) -> tuple[PreparedDataset, ...]:
    """Generates the scenes in the official formats, then reads them like any other data set."""
    from cmal.scenes.generate import write_scenes

    official = out / "scenes" / "official"
    with hold_folder(official):
        write_scenes(out / "scenes", scenes_sizes(images), seed, workers, progress)
        notes = {"seed": seed}
        return tuple(_prepare_one(part, official, out, Options(), report, progress, notes) for part in SCENES_PARTS)
