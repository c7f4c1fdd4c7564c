"""`cmal pretrain`: from a recipe to a model, pairs with anchors, and a training."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from cmal.data.example import ExampleBuilder, TagNoise
from cmal.data.loaders import PretrainingData
from cmal.data.masking import MaskingConfig
from cmal.data.micro_batches import MicroBatchPlan, MicroBatchSequence, load_micro_batches
from cmal.data.records import ImageTextRecord, read_records
from cmal.data.text import WordPieces
from cmal.datasets.leakage import leakage_statement
from cmal.errors import CmalError
from cmal.model.pretraining import OBJECTIVES, CmalForPretraining
from cmal.model.text_weights import load_bert, read_bert
from cmal.regions.store.store import RegionStore
from cmal.runs.building import (
    anchor_finder,
    build_pretraining_model,
    load_word_pieces,
    model_sizes,
)
from cmal.runs.compatibility import check_images
from cmal.runs.model_config import ModelConfig
from cmal.runs.recipe import PretrainRecipe
from cmal.runs.recipe.schema import TrainSection
from cmal.runs.train import Report, Tick, TrainingSetup, TrainingSummary, mean_losses_of, run_training
from cmal.training.distributed import DistributedContext

VALIDATION_MICRO_BATCHES = 8


def run_pretraining(
    recipe: PretrainRecipe,
    report: Report,
    start: str = "auto",
    device: str | None = None,
    tick: Tick | None = None,
) -> TrainingSummary:
    """Pre-trains as the recipe says, in this process or in the process group it belongs to.

    Args:
        report: called with a StepReport every `train.report_every` steps, in the first process only.
        start: "auto", "resume" or "fresh" (see `folder.open_run`).
        device: "cpu" or "cuda"; None takes CUDA if it is available.
        tick: called with (steps done, steps in total) after every step, in the first process only.

    Raises:
        CmalError: every error that the user can fix.
    """
    return run_training(recipe, partial(pretraining_setup, recipe), report, start, device, tick)


def pretraining_setup(recipe: PretrainRecipe, checkpoint: Path | None, context: DistributedContext) -> TrainingSetup:
    """Reads records and region store, and builds vocabulary and model.

    Args:
        checkpoint: to resume from; its vocabulary is used. Its weights are loaded later.
    """
    store, seed = RegionStore.open(recipe.data.regions), recipe.train.seed
    records = take_share(read_pairs(recipe.data.records, store), recipe.data.pairs_share, seed)
    if checkpoint is not None:
        word_pieces = load_word_pieces(checkpoint)
    elif recipe.model.text_checkpoint:
        word_pieces = WordPieces.from_pretrained(recipe.model.text_checkpoint)
    else:
        word_pieces = WordPieces.train((r.caption for r in records), recipe.model.vocabulary_size)
    config = pretraining_config(recipe, word_pieces, store)
    torch.manual_seed(seed)
    model, loading = build_pretraining_model(config), None
    if recipe.model.text_checkpoint and checkpoint is None:
        loading = load_bert(model.cmal, read_bert(recipe.model.text_checkpoint), recipe.model.text_checkpoint)
    finder = anchor_finder(store, recipe.anchors.thesaurus)
    noise = TagNoise(recipe.anchors.tag_noise, len(store.class_names), seed)
    builder = ExampleBuilder(word_pieces, store, recipe.model.max_tokens, finder, noise)
    rates, validation = masking_config(recipe), None
    if recipe.data.validation:
        validation = PretrainingData(read_pairs([recipe.data.validation], store), builder, rates, seed)
    data = PretrainingData(records, builder, rates, seed)
    validate = partial(validation_losses, model, validation, recipe.train, context.device)
    return TrainingSetup(recipe, model, data, config, word_pieces, validate, text_encoder=loading)


def pretraining_config(recipe: PretrainRecipe, word_pieces: WordPieces, store: RegionStore) -> ModelConfig:
    """The configuration of the model that a recipe describes, for this vocabulary and this store's features and classes."""
    weights = {name: getattr(recipe.objectives, name) for name in OBJECTIVES}
    return ModelConfig(
        kind="pretraining",
        sizes=model_sizes(recipe.model, len(word_pieces), store.feature_size),
        weights={name: weight for name, weight in weights.items() if weight > 0},
        candidates=recipe.objectives.candidates,
        amc_at=recipe.objectives.amc_at,
        classes=len(store.class_names),
        attend_across_swap=recipe.prompt.attend_across_swap,
        detector=store.detector,
        leakage=" | ".join(dict.fromkeys(leakage_statement(Path(path).parent) for path in recipe.data.records)),
    )


def read_pairs(paths: Sequence[str], store: RegionStore) -> list[ImageTextRecord]:
    """The pairs of all records files. Raises DataError when the store lacks one of their images."""
    pairs: list[ImageTextRecord] = []
    for path in paths:
        records = read_records(Path(path), ImageTextRecord)
        check_images(records, store, path)
        pairs += records
    return pairs


def take_share(records: list[ImageTextRecord], share: float, seed: int) -> list[ImageTextRecord]:
    """The pairs of a random share of the images. With the same seed, a larger share contains every smaller one.

    Raises:
        CmalError: no image is left.
    """
    images = sorted({r.image_id for r in records})
    count = round(share * len(images))
    if not count:
        raise CmalError(
            "cannot pre-train on no pairs", f"data.pairs_share {share} of {len(images)} images is none", "raise it"
        )
    order = np.random.default_rng([seed, len(images)]).permutation(len(images))
    kept = {images[i] for i in order[:count]}
    return [r for r in records if r.image_id in kept]


def masking_config(recipe: PretrainRecipe) -> MaskingConfig:
    """The recipe's masking rates; 0 for what no objective uses."""
    objectives = recipe.objectives
    return MaskingConfig(
        anchor=recipe.prompt.anchor_rate if objectives.amc else 0.0,
        objects=recipe.anchors.objects,
        attributes=recipe.anchors.attributes,
        swap=recipe.fill.swap,
        mask=recipe.fill.mask,
        keep=recipe.fill.keep,
        duplicates=recipe.prompt.mask_duplicates,
        duplicate_iou=recipe.prompt.duplicate_iou,
        word=objectives.word_rate if objectives.mlm else 0.0,
        region=objectives.region_rate if objectives.mrm_class or objectives.mrm_feature else 0.0,
        region_iou=objectives.region_iou,
    )


def validation_losses(
    model: CmalForPretraining, data: PretrainingData | None, section: TrainSection, device: torch.device, step: int
) -> dict[str, float]:
    """Losses on a fixed part of the validation records, with the same masking at every step. "main" is minus the total."""
    if data is None:
        return {}
    plan = MicroBatchPlan(data.lengths(), section.micro_batch_size, 1, section.seed)
    micro_batches = MicroBatchSequence(plan, 1, min(VALIDATION_MICRO_BATCHES, plan.micro_batches_per_epoch))
    measures = mean_losses_of(model, load_micro_batches(data, micro_batches, 0), device)
    return measures | {"main": -measures["loss"]}
