"""`cmal pretrain`: a recipe becomes a model, pairs with anchors, and a run of the loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
from cmal.io.files import write_json
from cmal.model.pretraining import OBJECTIVES, CmalForPretraining
from cmal.model.text_weights import LoadingReport, load_bert, read_bert
from cmal.regions.store.store import RegionStore
from cmal.runs.assembly import (
    ModelConfig,
    anchor_finder,
    build_pretraining_model,
    check_images,
    load_word_pieces,
    model_sizes,
    write_beside_weights,
)
from cmal.runs.folder import TEXT_ENCODER
from cmal.runs.recipe.reader import PretrainRecipe
from cmal.runs.train import Report, Tick, TrainingSetup, TrainingSummary, mean_parts, run_training
from cmal.training.distributed import DistributedContext

VALIDATION_GROUPS = 8
LOSS_NAMES = OBJECTIVES


@dataclass(frozen=True)
class Pretraining:
    """Everything a pre-training is made of, before the first step."""

    recipe: PretrainRecipe
    config: ModelConfig
    word_pieces: WordPieces
    model: CmalForPretraining
    data: PretrainingData
    validation: PretrainingData | None
    loading: LoadingReport | None = None  # of the text checkpoint, where one was read


def run_pretraining(
    recipe: PretrainRecipe,
    report: Report,
    start: str = "auto",
    device: str | None = None,
    tick: Tick | None = None,
) -> TrainingSummary:
    """Pre-trains as the recipe says, in this process or in the group of processes it was started in.

    Args:
        report: called with every StepReport, in the first process only.
        start: "auto", "resume" or "fresh" (see `folder.open_run`).
        tick: called with the steps done and wanted after every step, in the first process only.

    Raises:
        CmalError: whatever the user can put right.
    """

    def make_setup(checkpoint: Path | None, context: DistributedContext) -> TrainingSetup:
        made = assemble(recipe, checkpoint)
        if made.loading and context.is_first:
            write_json(Path(recipe.out) / TEXT_ENCODER, made.loading.as_json())
        return setup_of(made, context)

    return run_training(recipe, make_setup, report, start, device, tick)


def pretraining_setup(recipe: PretrainRecipe, checkpoint: Path | None, context: DistributedContext) -> TrainingSetup:
    """What this process trains, on what, going on from a checkpoint where there is one."""
    return setup_of(assemble(recipe, checkpoint), context)


def setup_of(made: Pretraining, context: DistributedContext) -> TrainingSetup:
    """This process's part of an assembled pre-training."""
    recipe = made.recipe

    return TrainingSetup(
        run=Path(recipe.out),
        model=made.model,
        data=made.data,
        train=recipe.train,
        optimizer=recipe.optimizer,
        workers=recipe.data.workers,
        add_files=lambda folder: write_beside_weights(folder, made.config, made.word_pieces),
        validate=lambda step: validation_losses(made, context.device),
    )


def assemble(recipe: PretrainRecipe, checkpoint: Path | None = None) -> Pretraining:
    """Reads records and store, makes vocabulary and model; from a checkpoint its vocabulary and sizes are taken."""
    store = RegionStore.open(recipe.data.regions)
    records = read_pairs(recipe.data.records, store)
    records = take_share(records, recipe.data.pairs_share, recipe.train.seed)
    if checkpoint is not None:
        word_pieces = load_word_pieces(checkpoint)
    elif recipe.model.text_checkpoint:
        word_pieces = WordPieces.from_pretrained(recipe.model.text_checkpoint)
    else:
        word_pieces = WordPieces.train((r.caption for r in records), recipe.model.vocabulary_size)
    weights = {name: getattr(recipe.objectives, name) for name in LOSS_NAMES}
    config = ModelConfig(
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
    torch.manual_seed(recipe.train.seed)
    model, loading = build_pretraining_model(config), None
    if recipe.model.text_checkpoint and checkpoint is None:
        loading = load_bert(model.cmal, read_bert(recipe.model.text_checkpoint), recipe.model.text_checkpoint)
    finder = anchor_finder(store, recipe.anchors.thesaurus)
    noise = TagNoise(recipe.anchors.tag_noise, len(store.class_names), recipe.train.seed)
    builder = ExampleBuilder(word_pieces, store, recipe.model.max_tokens, finder, noise)
    rates = masking_config(recipe)
    validation = None
    if recipe.data.validation:
        pairs = read_pairs([recipe.data.validation], store)
        validation = PretrainingData(pairs, builder, rates, recipe.train.seed)
    data = PretrainingData(records, builder, rates, recipe.train.seed)
    return Pretraining(recipe, config, word_pieces, model, data, validation, loading)


def read_pairs(paths: Sequence[str], store: RegionStore) -> list[ImageTextRecord]:
    """All pairs of some records files, every image of which the store holds."""
    pairs: list[ImageTextRecord] = []
    for path in paths:
        records = read_records(Path(path), ImageTextRecord)
        check_images(records, store, path)
        pairs += records
    return pairs


def take_share(records: list[ImageTextRecord], share: float, seed: int) -> list[ImageTextRecord]:
    """The pairs of a share of the images: a smaller share's images are among a larger one's.

    Raises:
        CmalError: nothing is left.
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
    """The recipe's probabilities; what no objective asks for is not drawn."""
    asked = recipe.objectives
    asks_regions = asked.mrm_class or asked.mrm_feature
    return MaskingConfig(
        anchor=recipe.prompt.anchor_rate if asked.amc else 0.0,
        objects=recipe.anchors.objects,
        attributes=recipe.anchors.attributes,
        swap=recipe.fill.swap,
        mask=recipe.fill.mask,
        keep=recipe.fill.keep,
        duplicates=recipe.prompt.mask_duplicates,
        duplicate_iou=recipe.prompt.duplicate_iou,
        word=asked.word_rate if asked.mlm else 0.0,
        region=asked.region_rate if asks_regions else 0.0,
        region_iou=asked.region_iou,
    )


def validation_losses(made: Pretraining, device: torch.device) -> dict[str, float]:
    """Losses on a fixed part of the validation records, the same draws every time."""
    if made.validation is None:
        return {}
    plan = MicroBatchPlan(made.validation.lengths(), made.recipe.train.micro_batch_size, 1, made.recipe.train.seed)
    micro_batches = MicroBatchSequence(plan, 1, min(VALIDATION_GROUPS, plan.micro_batches_per_epoch))
    measures = mean_parts(made.model, load_micro_batches(made.validation, micro_batches, 0), device)
    return measures | {"main": -measures["loss"]}
