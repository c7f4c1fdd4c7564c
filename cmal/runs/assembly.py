"""What several commands build: models from sizes, word pieces, anchor finders, and loading a checkpoint folder.

A checkpoint folder can be used alone: beside the weights lie `model.json` (sizes, kind, task, labels, detector) and
`vocab.txt`.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from cmal.anchors.finder import AnchorFinder
from cmal.anchors.thesaurus import Thesaurus
from cmal.data.loaders import image_ids_of
from cmal.data.records import Record
from cmal.data.text import WordPieces
from cmal.errors import CheckpointError, DataError, shown
from cmal.io.files import write_json
from cmal.model.cmal import Cmal, build_cmal
from cmal.model.pretraining import OBJECTIVES, CmalForPretraining
from cmal.regions.store.store import RegionStore
from cmal.runs.recipe.reader import ModelSection
from cmal.training.checkpoint import check_digest

CONFIG = "model.json"
LARGEST_SIZE = 1 << 20  # of a checkpoint: wider, deeper or of more words no model of ours is
VOCABULARY = "vocab.txt"


@dataclass(frozen=True)
class ModelConfig:
    """What a checkpoint must say beside its weights.

    Attributes:
        kind: "pretraining" or "task".
        sizes: arguments of `build_cmal`.
        weights, candidates, amc_at, classes: of the pre-training heads; attend_across_swap: of the pre-training.
        task, labels: of a fine-tuned model.
        detector: whose regions it was trained on.
        leakage: what the manifests of the pre-training records say of evaluation images; a fine-tuned model keeps it.
    """

    kind: str
    sizes: dict[str, Any]
    weights: dict[str, float] = field(default_factory=dict)
    candidates: str = "batch"
    amc_at: str = "unified"
    classes: int = 0
    attend_across_swap: bool = True
    task: str = ""
    labels: tuple[str, ...] = ()
    detector: str = ""
    leakage: str = ""

    def write(self, folder: Path) -> None:
        write_json(folder / CONFIG, dataclasses.asdict(self))

    @classmethod
    def read(cls, folder: Path) -> ModelConfig:
        """Raises CheckpointError when the folder is no checkpoint of ours."""
        path = folder / CONFIG
        if not path.is_file():
            raise CheckpointError(
                f"cannot load a checkpoint from {folder}",
                f"there is no {CONFIG} in it" if folder.is_dir() else "there is no such folder",
                "give a folder such as runs/NAME/last, made by: cmal pretrain RECIPE",
            )
        try:
            config = cls(**json.loads(path.read_text(encoding="utf-8")))
            config = dataclasses.replace(config, labels=tuple(config.labels))
            check_config(config)
            return config
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(
                f"cannot load the checkpoint {folder}", f"{CONFIG}: {error}", "make it again"
            ) from error


def check_config(config: ModelConfig) -> None:
    """Raises ValueError where a checkpoint's facts are of other kinds, or name sizes that no model of ours has."""
    for field_ in dataclasses.fields(ModelConfig):
        kinds = {"sizes": dict, "weights": dict, "labels": tuple, "classes": int, "attend_across_swap": bool}
        kind = kinds.get(field_.name, str)
        if type(getattr(config, field_.name)) is not kind:
            raise ValueError(f'"{field_.name}" is {shown(getattr(config, field_.name))}')
    if config.kind not in ("pretraining", "task"):
        raise ValueError(f'"kind" is {shown(config.kind)}')
    sizes, known = config.sizes, {f.name: f for f in dataclasses.fields(ModelSection)}
    names = [*inspect.signature(build_cmal).parameters]
    if set(sizes) != set(names):
        raise ValueError(f'"sizes" should have {", ".join(names)}; it has {", ".join(map(str, sizes))}')
    for name, value in sizes.items():
        limits = known[name].metadata if name in known else {"least": 1}
        kind = type(known[name].default) if name in known else int
        number = value + 0.0 if kind is float and type(value) is int else value
        if type(number) is not kind or not limits.get("least", 0) <= value <= (limits.get("most") or LARGEST_SIZE):
            raise ValueError(f'the size "{name}" is {shown(value)}')
    if sizes["width"] % sizes["heads"]:
        raise ValueError(f"{sizes['heads']} heads do not divide a width of {sizes['width']}")
    if not set(config.weights) <= set(OBJECTIVES):
        raise ValueError(f'"weights" are of {", ".join(OBJECTIVES)}; it has {", ".join(map(str, config.weights))}')
    if config.candidates not in ("batch", "example", "both") or config.amc_at not in ("both", "unified"):
        raise ValueError(f'"candidates" is {shown(config.candidates)}, "amc_at" is {shown(config.amc_at)}')
    weights = config.weights.values()
    if not all(isinstance(label, str) for label in config.labels):
        raise ValueError("a label is no text")
    if not all(type(weight) in (int, float) and 0 <= weight < math.inf for weight in weights):
        raise ValueError("a weight of a loss is no number")
    if not 0 <= config.classes <= LARGEST_SIZE:
        raise ValueError(f'"classes" is {shown(config.classes)}')


def read_pretraining_config(folder: Path, purpose: str) -> ModelConfig:
    """What a pre-trained checkpoint says of itself.

    Args:
        purpose: what it is wanted for, as the message has it ("fine-tune from").

    Raises:
        CheckpointError: the folder is no checkpoint, or one of a task.
    """
    config = ModelConfig.read(folder)
    if config.kind != "pretraining":
        raise CheckpointError(
            f"cannot {purpose} {folder}",
            f'it is a checkpoint of the task "{config.task}"',
            "give a folder written by: cmal pretrain RECIPE",
        )
    return config


def model_sizes(model: ModelSection, vocabulary: int, region_features: int) -> dict[str, Any]:
    """Arguments of `build_cmal` for a recipe."""
    names = ("width", "heads", "inner", "text_layers", "visual_layers", "unified_layers", "dropout", "hypersphere")
    sizes = {name: getattr(model, name) for name in (*names, "max_tokens")}
    return sizes | {"vocabulary": vocabulary, "region_features": region_features}


def build_pretraining_model(config: ModelConfig) -> CmalForPretraining:
    """The model and its pre-training heads, freshly initialised."""
    features = config.sizes["region_features"]
    heads = (config.weights, config.candidates, config.amc_at, config.classes, features)
    return CmalForPretraining(build_cmal(**config.sizes), *heads, attend_across_swap=config.attend_across_swap)


def anchor_finder(store: RegionStore, thesaurus_files: Sequence[str]) -> AnchorFinder:
    """The finder for a store's tags."""
    thesaurus = Thesaurus.load(*(Path(f) for f in thesaurus_files))
    return AnchorFinder(thesaurus, store.class_names, store.attribute_names)


def write_beside_weights(folder: Path, config: ModelConfig, word_pieces: WordPieces) -> None:
    """Puts into a checkpoint folder what its weights need to be used."""
    config.write(folder)
    word_pieces.save(folder / VOCABULARY)


def load_word_pieces(folder: Path) -> WordPieces:
    """The vocabulary beside a checkpoint. Raises CheckpointError where it is not the one that the model was trained with."""
    check_digest(folder, VOCABULARY)
    pieces, wanted = WordPieces.from_vocab(folder / VOCABULARY), ModelConfig.read(folder).sizes["vocabulary"]
    if len(pieces) != wanted:
        raise CheckpointError(
            f"cannot load the checkpoint {folder}",
            f"{VOCABULARY} has {len(pieces):,} word pieces, the model {wanted:,}",
            "give the vocabulary that lies beside the model's weights",
        )
    return pieces


def check_store(store: RegionStore, feature_size: int, where: str) -> None:
    """Raises DataError when the store's features are not of the model's size."""
    if store.feature_size != feature_size:
        raise DataError(
            f"cannot use the region store {store.path} with {where}",
            f"its features have {store.feature_size} numbers (detector {store.detector}), the model takes {feature_size}",
            "extract regions with the detector the model was trained on",
        )


def check_images(records: Sequence[Record], store: RegionStore, records_path: object) -> None:
    """Raises DataError when the store lacks images that the records speak of."""
    missing = sorted(image for image in image_ids_of(records) if image not in store)
    if missing:
        raise DataError(
            f"cannot load regions for {len(missing):,} images of {records_path}",
            f'{store.path} has no image "{missing[0]}"; it holds {len(store):,} images',
            f"extract the missing ones: cmal extract-regions IMAGES --out {store.path}",
        )


def parameters_by_part(model: nn.Module) -> dict[str, int]:
    """How many parameters each part has."""
    cmal: Cmal = model.cmal
    parts = {name: getattr(cmal, name) for name in ("visual", "textual", "prompt", "unified")}
    heads = model.heads if isinstance(model, CmalForPretraining) else model.head
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in (parts | {"heads": heads}).items()}
    return counts | {"total": sum(counts.values())}
