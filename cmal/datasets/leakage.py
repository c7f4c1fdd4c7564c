"""Leakage audit: which images of a pre-training set are evaluation images of some task, and keeping them out.

Evaluation images are those of the validation and test splits of every data set prepared beside, and of the official
split lists found among the raw files. An image can be known under several ids: a Visual Genome image is a COCO image
(`coco_id`), and COCO and Visual Genome photos come from Flickr as Flickr30k's do (the photo's number), so an image is
compared under all of its ids.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from cmal.datasets.inputs import RawFolder
from cmal.errors import DataError
from cmal.io.files import read_json
from cmal.regions.image_ids import MANIFEST, MANIFEST_FORMAT, coco_image_id

EVALUATION_SPLITS = ("val", "test", "testA", "testB", "dev", "test-dev", "test-P")
COCO_SPLIT_LISTS = (
    "karpathy_val_images.txt",
    "karpathy_test_images.txt",
)  # lines "val2014/COCO_val2014_<12 digits>.jpg <id>"


def prepared_evaluation_sets(out: Path, but: str = "") -> dict[str, frozenset[str]]:
    """Evaluation images of everything prepared below `out`: "flickr30k/test" -> image ids.

    Args:
        out: the folder of prepared data sets.
        but: a data set to ignore (the one being prepared).
    """
    found = {}
    for manifest_path in sorted(Path(out).glob(f"*/{MANIFEST}")):
        folder = manifest_path.parent
        manifest = read_json(manifest_path)
        if folder.name == but or not isinstance(manifest, dict) or manifest.get("format") != MANIFEST_FORMAT:
            continue
        for split in EVALUATION_SPLITS:
            path = folder / f"{split}.jsonl"
            if path.is_file():
                found[f"{folder.name}/{split}"] = frozenset(_image_ids_in(path))
    return found


def _image_ids_in(path: Path) -> Iterable[str]:
    names = ("image_id", "left_image_id", "right_image_id")
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            row = json.loads(line)
            found = [row[name] for name in names if name in row]
            if not all(isinstance(image, str) for image in found):
                raise ValueError("an image id is no text")
            yield from found
        except (ValueError, TypeError, RecursionError) as error:
            raise DataError(
                f"cannot read the evaluation images of {path}", f"line {number:,}: {error}", "prepare it again"
            ) from None


def listed_evaluation_sets(raw: RawFolder) -> dict[str, frozenset[str]]:
    """Evaluation images of the official COCO split lists among the raw files: "karpathy_test_images.txt" -> image ids.

    Raises:
        DataError: a line names no COCO photo.
    """
    found = {}
    for name in COCO_SPLIT_LISTS:
        if (path := raw.find(name)) is not None:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            found[name] = frozenset(coco_image_id(line.split()[0]) for line in lines if line.strip())
    return found


class LeakageAudit:
    """Decides for each image of a pre-training set whether its records stay.

    Args:
        evaluation: "flickr30k/test" -> image ids.
        aliases: other ids of an image: "vg:1" -> ("coco:139",).
        allow: keep evaluation images, and only count them.
        matched_by: the source of the aliases, for the manifest.
    """

    def __init__(
        self,
        evaluation: Mapping[str, frozenset[str]],
        aliases: Mapping[str, tuple[str, ...]] | None = None,
        allow: bool = False,
        matched_by: Iterable[str] = (),
    ):
        self.evaluation, self.aliases, self.allow = dict(evaluation), aliases or {}, allow
        self.matched_by = ["image id", *matched_by]
        self._sets_of: dict[str, tuple[str, ...]] = {}
        for name, images in self.evaluation.items():
            for image in images:
                self._sets_of[image] = (*self._sets_of.get(image, ()), name)
        self._leaks: dict[str, tuple[str, ...]] = {}  # image id -> the evaluation sets it is in
        self._records: Counter[str] = Counter()
        self._leaked_records = 0

    def keeps(self, image_id: str) -> bool:
        """Whether a record of this image stays; counts it where the image is an evaluation image."""
        sets = self._leaks.get(image_id)
        if sets is None:
            names = (image_id, *self.aliases.get(image_id, ()))
            sets = tuple(dict.fromkeys(s for name in names for s in self._sets_of.get(name, ())))
            if not sets:
                return True  # not remembered: most images, seen again cheaply
            self._leaks[image_id] = sets
        self._records.update(sets)
        self._leaked_records += 1
        return self.allow

    def summary(self) -> dict[str, object]:
        """What the manifest says under "exclusions"."""
        images = Counter(name for sets in self._leaks.values() for name in sets)
        return {
            "excluded": not self.allow,
            "images": len(self._leaks),
            "records": self._leaked_records,
            "matched_by": self.matched_by,
            "by_evaluation_set": {
                name: {"evaluation_images": len(known), "images": images[name], "records": self._records[name]}
                for name, known in self.evaluation.items()
            },
        }


def leakage_statement(prepared: Path) -> str:
    """One sentence on evaluation images among a prepared pre-training set, for checkpoints and results.

    Args:
        prepared: the data set's folder, with its manifest.json.

    Raises:
        DataError: the manifest is damaged.

    Example: "coco-captions: 3 evaluation images (15 records) excluded; audited against flickr30k/test, refcoco/val".
    """
    path = Path(prepared) / MANIFEST
    manifest = read_json(path) if path.is_file() else {}
    if not isinstance(manifest, dict) or manifest.get("format") != MANIFEST_FORMAT:
        return f"{Path(prepared).name}: not audited, it has no manifest"
    name, exclusions = manifest.get("dataset", Path(prepared).name), manifest.get("exclusions") or {}
    if manifest.get("image_ids") == "scenes":
        return f"{name}: generated, training and evaluation images are different by construction"
    try:
        sets = exclusions.get("by_evaluation_set") or {}
        if not sets:
            return f"{name}: not audited, no evaluation set was prepared before it"
        fate = "excluded" if exclusions.get("excluded") else "KEPT (--allow-leakage)"
        counts = f"{exclusions.get('images', 0):,} evaluation images ({exclusions.get('records', 0):,} records)"
        return f"{name}: {counts} {fate}; audited against {', '.join(sets)}"
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"cannot read {path}", f'its "exclusions" are damaged: {error}', "prepare it again") from error


def evaluation_leakage(pretraining: str, records: Path, split: str) -> str:
    """The leakage statement of a result: of pre-training, whether it was audited against this split, and of fine-tuning.

    Args:
        pretraining: the checkpoint's statements, one per pre-training set, joined by " | "; "" where it has none.
        records: the folder of the split that is scored.
        split: its name.
    """
    name = Path(records).name
    said = f"pre-training: {pretraining or 'not recorded in the checkpoint'}"
    if pretraining and not all(_covers(statement, name, split) for statement in pretraining.split(" | ")):
        said += f". {name}/{split} itself was NOT among the audited sets"
    path = Path(records) / MANIFEST
    manifest = read_json(path) if path.is_file() else None
    if isinstance(manifest, dict) and manifest.get("exclusions") and not pretraining.startswith(f"{name}:"):
        said += f"; fine-tuning: {leakage_statement(records)}"
    return said


def _covers(statement: str, name: str, split: str) -> bool:
    """Whether a pre-training set's statement covers a split: it was audited, or belongs to the same set."""
    audited = statement.rpartition("audited against ")[2].split(", ")
    is_listed = name == "coco-captions" and f"karpathy_{split}_images.txt" in audited
    own = statement.startswith(f"{name}:") or (name.startswith("scenes") and "generated" in statement)
    return own or is_listed or f"{name}/{split}" in audited or statement.startswith("none")
