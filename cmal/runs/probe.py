"""`cmal probe-anchors`: records and a store become statistics of their anchors, and a checkpoint is asked about them.

Gold anchors are found by convention: beside `FOLDER/test.jsonl` lies `FOLDER/gold_anchors/test.jsonl`; their form is in
`cmal/tasks/anchor_probe.py`.
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
from cmal.runs.assembly import (
    anchor_finder,
    build_pretraining_model,
    check_images,
    check_store,
    load_word_pieces,
    read_pretraining_config,
)
from cmal.runs.folder import find_checkpoint
from cmal.runs.recipe.reader import PretrainRecipe, load_recipe
from cmal.runs.results import package_versions
from cmal.tasks.anchor_probe import ROLES, ProbeItem, anchor_statistics
from cmal.tasks.association_probe import AssociationProbe, probe_association
from cmal.training.checkpoint import WEIGHTS, fit_weights, load_weights
from cmal.training.distributed import join_processes

FORMAT, VERSION = "cmal-probe", 2
GOLD_FOLDER = "gold_anchors"
LARGEST_COORDINATE = 1e9
SEED = 0

Progress = Callable[[str, int, int], None]
GoldRows = Mapping[str, Sequence[dict[str, Any]]]


@dataclass(frozen=True)
class ProbeRequest:
    """What to probe.

    Attributes:
        records: image-text pairs (.jsonl); regions: a store.
        checkpoint: a run folder or a checkpoint folder; None looks at the anchors alone.
        thesaurus: files beside the package's own; () takes those of the checkpoint's recipe.
    """

    records: Path
    regions: Path
    checkpoint: Path | None = None
    thesaurus: tuple[str, ...] = ()


@dataclass(frozen=True)
class Probe:
    """What came out, and what it was worked out from.

    Attributes:
        request: what was asked; checkpoint: the folder whose weights were read.
        records, store, finder: the pairs, their regions, and what finds anchors between them.
        gold: record id -> gold anchors; empty where none are known.
        statistics: see `anchor_statistics`.
        association: None without a checkpoint.
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
        """Everything measured as JSON values; the five headline numbers at the top, None where they were not asked for."""
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
    request: ProbeRequest, report: Progress = lambda what, done, of: None, device: str | None = None
) -> Probe:
    """Measures the anchors of some records, and with a checkpoint what the model associates at them.

    Args:
        report: called with what is being done, how much of it is done, and how much there is.
        device: "cpu" or "cuda"; None takes CUDA where there is one.

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
        association = ask(checkpoint, records, store, finder, report, device)
        by = summarise_association(association, finder)
    return Probe(request, checkpoint, records, store, finder, gold, statistics, association, by)


def probe_items(
    records: Sequence[ImageTextRecord], store: RegionStore, gold: GoldRows, report: Progress
) -> Iterator[ProbeItem]:
    """One item a record, in order; regions are read one image at a time."""
    for number, record in enumerate(records, start=1):
        spans = np.array(word_spans(record.caption), np.int64).reshape(-1, 2)
        yield ProbeItem(split_words(record.caption), spans, store[record.image_id], gold.get(record.id))
        report("anchors", number, len(records))


def read_gold(records_file: Path, records: Sequence[ImageTextRecord]) -> dict[str, list[dict[str, Any]]]:
    """The gold anchors that lie beside a records file, by record id; empty where there are none.

    Raises:
        DataError: a line cannot be used, or is of another caption than the record's.
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
                    f"make records and gold anchors anew, or move {path.parent} away to go without",
                ) from error
            if identity in captions:
                gold[identity] = anchors
    return gold


def _check_anchors(anchors: list[dict[str, Any]]) -> None:
    for anchor in anchors:
        start, end = anchor["span"]
        numbers = [start, end, *anchor["box_xyxy_px"]]
        is_box = len(numbers) == 6 and all(type(n) in (int, float) and abs(n) < LARGEST_COORDINATE for n in numbers)
        is_span = type(start) is int and type(end) is int and 0 <= start <= end
        if anchor["role"] not in ROLES or not is_box or not is_span:
            raise ValueError(f"not an anchor: {short(json.dumps(anchor), 80)}")


def thesaurus_of(checkpoint: Path | None) -> tuple[str, ...]:
    """The thesaurus files that the checkpoint's run was pre-trained with; none where its recipe is not beside it."""
    recipe = checkpoint.resolve().parent.parent / "recipe.yaml" if checkpoint else None
    if recipe is None or not recipe.is_file():
        return ()
    try:
        return load_recipe(PretrainRecipe, recipe).anchors.thesaurus
    except RecipeError:
        return ()  # a fine-tuning's recipe: `ask` says what is wrong with that


def ask(
    checkpoint: Path,
    records: Sequence[ImageTextRecord],
    store: RegionStore,
    finder: AnchorFinder,
    report: Progress,
    device: str | None,
) -> AssociationProbe:
    """The pre-trained model's associations at every anchor of the records.

    Raises:
        CheckpointError: not a pre-trained checkpoint, or one without the head that associates.
        DataError: the store's features are not of the model's size, or there are too few anchors.
    """
    config = read_pretraining_config(checkpoint, "probe the associations of")
    check_store(store, config.sizes["region_features"], str(checkpoint))
    model = build_pretraining_model(config)
    fit_weights(model, load_weights(checkpoint), checkpoint)
    builder = ExampleBuilder(load_word_pieces(checkpoint), store, config.sizes["max_tokens"], finder)
    with join_processes(device) as context:
        model = model.to(context.device)
        return probe_association(
            model, records, builder, SEED, report=lambda done, of: report("associations", done, of)
        )


def summarise_association(association: AssociationProbe, finder: AnchorFinder) -> dict[str, Any]:
    """Accuracies and controls over all anchors, by role and by concept (most anchors first), and how many candidates."""
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
