"""`cmal probe-anchors`: statistics of the anchors in some records, and what a checkpoint associates at them.

Gold anchors are found by convention: for `FOLDER/test.jsonl` in `FOLDER/gold_anchors/test.jsonl` (see
`cmal/tasks/anchor_probe.py`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cmal.anchors.finder import AnchorFinder
from cmal.data.example import ExampleBuilder
from cmal.data.records import ImageTextRecord, read_records
from cmal.data.text import split_words, word_spans
from cmal.errors import DataError, RecipeError, short
from cmal.io.files import sha256_of
from cmal.regions.store.store import RegionStore
from cmal.runs.building import anchor_finder, load_pretrained, load_word_pieces
from cmal.runs.compatibility import check_images, check_store
from cmal.runs.environment import package_versions
from cmal.runs.folder import find_checkpoint, run_of
from cmal.runs.model_config import read_pretraining_config
from cmal.runs.recipe import PretrainRecipe, load_recipe
from cmal.tasks.anchor_probe import ROLES, ProbeItem, anchor_statistics
from cmal.tasks.association_probe import AssociationProbe, probe_association
from cmal.training.checkpoint import WEIGHTS
from cmal.training.distributed import distributed_context

FORMAT, VERSION = "cmal-probe", 2
GOLD_FOLDER = "gold_anchors"
MAX_COORDINATE = 1e9
SEED = 0

StageReport = Callable[[str, int, int], None]  # stage, done, total
GoldRows = Mapping[str, Sequence[dict[str, Any]]]


@dataclass(frozen=True)
class ProbeRequest:
    """What to probe.

    Attributes:
        records: image-text pairs (.jsonl); regions: a region store.
        checkpoint: a run folder or a checkpoint folder; None probes the anchors alone.
        thesaurus: files to add to the packaged thesaurus; () takes those of the checkpoint's recipe.
    """

    records: Path
    regions: Path
    checkpoint: Path | None = None
    thesaurus: tuple[str, ...] = ()


@dataclass(frozen=True)
class Probe:
    """The measurements, with the inputs they were computed from.

    Attributes:
        checkpoint: the folder whose weights were loaded.
        records, store, finder: the pairs, their regions, and the anchor finder.
        gold: record id -> gold anchors; empty if there are none.
        statistics: see `anchor_statistics`.
        association: None without a checkpoint; association_by: see `summarise_association`.
    """

    request: ProbeRequest
    checkpoint: Path | None
    records: Sequence[ImageTextRecord]
    store: RegionStore
    finder: AnchorFinder
    gold: GoldRows
    statistics: dict[str, Any]
    association: AssociationProbe | None = None
    association_by: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """All measurements as JSON values, the five most important ones on top; None for those that were not requested."""
        gold = self.statistics.get("gold", {}).get("all", {})
        overall = self.association_by.get("all", {})
        checkpoint = None
        if self.checkpoint is not None:
            checkpoint = {"path": str(self.checkpoint), "sha256": sha256_of(self.checkpoint / WEIGHTS)}
        return {
            "format": FORMAT,
            "version": VERSION,
            "coverage": self.statistics["coverage"],
            "precision": gold.get("precision"),
            "recall": gold.get("recall"),
            "association_t2v": overall.get("association_t2v"),
            "association_v2t": overall.get("association_v2t"),
            "records": str(self.request.records),
            "regions": f"{self.request.regions} by detector {self.store.detector}",
            "checkpoint": checkpoint,
            "statistics": self.statistics,
            "association": self.association_by or None,
            "versions": package_versions(),
        }


def run_probe(
    request: ProbeRequest, report: StageReport = lambda stage, done, total: None, device: str | None = None
) -> Probe:
    """Measures the anchors of some records, and with a checkpoint what the model associates at them.

    Args:
        report: called with the stage ("anchors", "associations"), and how much of it is done in total.
        device: "cpu" or "cuda"; None takes CUDA if it is available.

    Raises:
        CmalError: records, regions, gold anchors or checkpoint are missing or do not belong together.
    """
    store = RegionStore.open(request.regions)
    records = read_records(request.records, ImageTextRecord)
    check_images(records, store, request.records)
    gold = read_gold(request.records, records)
    checkpoint = find_checkpoint(request.checkpoint) if request.checkpoint else None
    finder = anchor_finder(store, request.thesaurus or thesaurus_of(checkpoint))
    statistics = anchor_statistics(finder, probe_items(records, store, gold, report))
    association, by = None, {}
    if checkpoint is not None:
        association = associations(checkpoint, records, store, finder, report, device)
        by = summarise_association(association, finder)
    return Probe(request, checkpoint, records, store, finder, gold, statistics, association, by)


def probe_items(
    records: Sequence[ImageTextRecord], store: RegionStore, gold: GoldRows, report: StageReport
) -> Iterator[ProbeItem]:
    """One item per record, in order; one image's regions are in memory at a time."""
    for number, record in enumerate(records, start=1):
        spans = np.array(word_spans(record.caption), np.int64).reshape(-1, 2)
        yield ProbeItem(split_words(record.caption), spans, store[record.image_id], gold.get(record.id))
        report("anchors", number, len(records))


def read_gold(records_file: Path, records: Sequence[ImageTextRecord]) -> dict[str, list[dict[str, Any]]]:
    """Record id -> gold anchors, from the file beside a records file; empty without such a file.

    Raises:
        DataError: a line is damaged, or its caption is not the record's.
    """
    path = records_file.parent / GOLD_FOLDER / records_file.name
    if not path.is_file():
        return {}
    captions = {record.id: record.caption for record in records}
    gold: dict[str, list[dict[str, Any]]] = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
                identity, caption, anchors = row["id"], row["caption"], row["anchors"]
                _check_anchors(anchors)
                if captions.get(identity, caption) != caption:
                    raise ValueError(f'the caption of "{identity}" is another in the records')
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                found = f"key {error} is missing" if isinstance(error, KeyError) else str(error)
                raise DataError(
                    f"cannot read gold anchors from {path} (line {number})",
                    found,
                    f"prepare records and gold anchors again, or move {path.parent} away to probe without them",
                ) from error
            if identity in captions:
                gold[identity] = anchors
    return gold


def _check_anchors(anchors: list[dict[str, Any]]) -> None:
    for anchor in anchors:
        start, end = anchor["span"]
        numbers = [start, end, *anchor["box_xyxy_px"]]
        is_box = len(numbers) == 6 and all(type(n) in (int, float) and abs(n) < MAX_COORDINATE for n in numbers)
        is_span = type(start) is int and type(end) is int and 0 <= start <= end
        if anchor["role"] not in ROLES or not is_box or not is_span:
            raise ValueError(f"not an anchor: {short(json.dumps(anchor), 80)}")


def thesaurus_of(checkpoint: Path | None) -> tuple[str, ...]:
    """The thesaurus files in the pre-training recipe of a checkpoint's run; () without such a recipe."""
    run = run_of(checkpoint) if checkpoint else None
    try:
        return load_recipe(PretrainRecipe, run / "recipe.yaml").anchors.thesaurus if run else ()
    except RecipeError:
        return ()  # the recipe of a fine-tuning; `associations` refuses its checkpoint


def associations(
    checkpoint: Path,
    records: Sequence[ImageTextRecord],
    store: RegionStore,
    finder: AnchorFinder,
    report: StageReport,
    device: str | None,
) -> AssociationProbe:
    """The pre-trained model's associations at every anchor of the records.

    Raises:
        CheckpointError: the checkpoint is not pre-trained, or was pre-trained without associative learning.
        DataError: the store's feature size is not the model's, or there are too few anchors.
    """
    config = read_pretraining_config(checkpoint, "probe the associations of")
    check_store(store, config.sizes["region_features"], str(checkpoint))
    model = load_pretrained(checkpoint, config)
    builder = ExampleBuilder(load_word_pieces(checkpoint), store, config.sizes["max_tokens"], finder)
    with distributed_context(device) as context:
        model = model.to(context.device)
        return probe_association(
            model, records, builder, SEED, report=lambda done, total: report("associations", done, total)
        )


def summarise_association(association: AssociationProbe, finder: AnchorFinder) -> dict[str, Any]:
    """Accuracies and controls: overall, per role, per concept (most frequent first); and the mean number of candidates."""
    is_attribute, concepts = association.is_attribute, association.concepts
    ids, counts = np.unique(concepts, return_counts=True)
    names = finder.thesaurus.concept_names
    by_concept = {
        f"{ROLES[int(concept >= finder.thesaurus.attribute_start)]}: {names[concept]}": association.accuracies(
            concepts == concept
        )
        for concept in ids[np.lexsort((ids, -counts))].tolist()
    }
    return {
        "all": association.accuracies(),
        "object": association.accuracies(~is_attribute),
        "attribute": association.accuracies(is_attribute),
        "concepts": by_concept,
        "candidates": association.candidates,
    }
