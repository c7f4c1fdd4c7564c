"""Builds the objects that several commands need: model, word pieces, anchor finder.

A checkpoint folder is complete: `config.json` and `vocab.txt` lie beside the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from cmal.anchors.finder import AnchorFinder
from cmal.anchors.thesaurus import Thesaurus
from cmal.data.text import WordPieces
from cmal.errors import CheckpointError
from cmal.model.cmal import build_cmal
from cmal.model.pretraining import CmalForPretraining
from cmal.regions.store.store import RegionStore
from cmal.runs.model_config import ModelConfig
from cmal.runs.recipe.schema import ModelSection
from cmal.training.checkpoint import fit_weights, load_weights
from cmal.training.state import check_digest

VOCABULARY = "vocab.txt"


def model_sizes(model: ModelSection, vocabulary: int, region_features: int) -> dict[str, Any]:
    """The arguments of `build_cmal` for a recipe's `model` section."""
    names = ("width", "heads", "inner", "text_layers", "visual_layers", "unified_layers", "dropout", "hypersphere")
    sizes = {name: getattr(model, name) for name in (*names, "max_tokens")}
    return sizes | {"vocabulary": vocabulary, "region_features": region_features}


def build_pretraining_model(config: ModelConfig) -> CmalForPretraining:
    """The model with its pre-training heads, randomly initialised."""
    features = config.sizes["region_features"]
    heads = (config.weights, config.candidates, config.amc_at, config.classes, features)
    return CmalForPretraining(build_cmal(**config.sizes), *heads, attend_across_swap=config.attend_across_swap)


def load_pretrained(folder: Path, config: ModelConfig) -> CmalForPretraining:
    """The pre-trained model of a checkpoint folder, whose configuration was read before.

    Raises:
        CheckpointError: the weights are missing, damaged or of other sizes.
    """
    model = build_pretraining_model(config)
    fit_weights(model, load_weights(folder), folder)
    return model


def anchor_finder(store: RegionStore, thesaurus_files: Sequence[str]) -> AnchorFinder:
    """The anchor finder for a store's tags; `thesaurus_files` are added to the packaged thesaurus."""
    thesaurus = Thesaurus.load(*(Path(f) for f in thesaurus_files))
    return AnchorFinder(thesaurus, store.class_names, store.attribute_names)


def write_beside_weights(folder: Path, config: ModelConfig, word_pieces: WordPieces) -> None:
    """Writes configuration and vocabulary into a checkpoint folder."""
    config.write(folder)
    word_pieces.save(folder / VOCABULARY)


def load_word_pieces(folder: Path) -> WordPieces:
    """The vocabulary of a checkpoint folder.

    Raises:
        CheckpointError: it is damaged, or its size is not the model's.
    """
    check_digest(folder, VOCABULARY)
    pieces, expected = WordPieces.from_vocab(folder / VOCABULARY), ModelConfig.read(folder).sizes["vocabulary"]
    if len(pieces) != expected:
        raise CheckpointError(
            f"cannot load the checkpoint {folder}",
            f"{VOCABULARY} has {len(pieces):,} word pieces, the model {expected:,}",
            "give the vocabulary that lies beside the model's weights",
        )
    return pieces


def parameters_by_part(model: nn.Module) -> dict[str, int]:
    """Parameters of `visual`, `textual`, `prompt`, `unified`, `heads`, and their `total`.

    Args:
        model: a `CmalForPretraining` or a `TaskModel`.
    """
    heads = "heads" if isinstance(model, CmalForPretraining) else "head"
    parts = {name: f"cmal.{name}" for name in ("visual", "textual", "prompt", "unified")} | {"heads": heads}
    counts = {name: sum(p.numel() for p in model.get_submodule(at).parameters()) for name, at in parts.items()}
    return counts | {"total": sum(counts.values())}
