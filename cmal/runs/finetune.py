"""`cmal finetune`: a task's head on a pre-trained model, trained by the same loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import nn

from cmal.data.example import ExampleBuilder
from cmal.data.loaders import TaskData
from cmal.model.cmal import build_cmal
from cmal.model.pretraining import CmalForPretraining
from cmal.model.transformer import initialise
from cmal.regions.store.store import RegionStore
from cmal.runs.answers import LoadedTask, TaskModel, distributed_answers
from cmal.runs.building import load_pretrained, load_word_pieces
from cmal.runs.compatibility import check_images, check_store
from cmal.runs.folder import find_checkpoint
from cmal.runs.model_config import read_pretraining_config
from cmal.runs.recipe import FinetuneRecipe
from cmal.runs.splits import read_answers, read_split, read_splits, take_few
from cmal.runs.train import Report, Tick, TrainingSetup, TrainingSummary, run_training
from cmal.tasks import TaskOptions, build_task
from cmal.tasks.grounding import GroundingHead
from cmal.tasks.retrieval import Retrieval
from cmal.training.distributed import DistributedContext

NO_PRETRAINING = "none, the weights were initialised randomly"
# task -> the pre-training head that it starts from, and can be scored with without fine-tuning
HEADS_WITH_PRETRAINING = {
    **dict.fromkeys(("flickr30k", "coco-retrieval", "scenes-retrieval"), "itm"),
    "flickr30k-entities": "amc",
}


def run_finetuning(
    recipe: FinetuneRecipe,
    report: Report,
    start: str = "auto",
    device: str | None = None,
    tick: Tick | None = None,
) -> TrainingSummary:
    """Fine-tunes as the recipe says; arguments and errors as `pretrain.run_pretraining`."""
    return run_training(recipe, partial(finetuning_setup, recipe), report, start, device, tick)


def finetuning_setup(recipe: FinetuneRecipe, checkpoint: Path | None, context: DistributedContext) -> TrainingSetup:
    """This process's part of the training. The weights of a `checkpoint` to resume from are loaded later, over these."""
    loaded, data = assemble(recipe), recipe.data
    store = RegionStore.open(data.regions)
    check_store(store, loaded.config.sizes["region_features"], recipe.init_from)
    records = read_splits(loaded.task, Path(data.root), data.train_split)
    check_images(records, store, data.root)
    records = take_few(records, data.max_records, recipe.train.seed)
    builder = ExampleBuilder(loaded.word_pieces, store, min(data.max_tokens, loaded.config.sizes["max_tokens"]))
    task_data = TaskData(records, builder, loaded.task.make_batch, recipe.train.seed)
    validate = validation_of(recipe, loaded, builder, store, context)
    return TrainingSetup(recipe, loaded.model, task_data, loaded.config, loaded.word_pieces, validate, ("head.",))


def validation_of(
    recipe: FinetuneRecipe, loaded: LoadedTask, builder: ExampleBuilder, store: RegionStore, context: DistributedContext
) -> Callable[[int], Mapping[str, float]]:
    """A function that scores the validation split: metric -> value, and the main metric again as "main".

    It returns nothing if `train.validate_every` is 0.

    Raises:
        DataError: there is no such split, or the store lacks its images.
    """
    if not recipe.train.validate_every:
        return lambda step: {}
    task, root = loaded.task, Path(recipe.data.root)
    records = read_split(task, root, recipe.data.validation_split)
    records = take_few(records, recipe.data.validation_records, recipe.train.seed)
    if isinstance(task, Retrieval):
        records = task.evaluation_records(records)
    check_images(records, store, recipe.data.root)

    def validate(step: int) -> Mapping[str, float]:
        loaded.model.eval()
        scores = task.score(distributed_answers(loaded, records, builder, context), records, task.main_protocol)
        return {name: float(value) for name, value in scores.metrics.items()} | {"main": scores.metrics[scores.main]}

    return validate


def start_head(task: str, head: nn.Module, pretrained: CmalForPretraining) -> None:
    """Copies the pre-training head that answers the task's question into the task's head, if there is one."""
    known = HEADS_WITH_PRETRAINING.get(task, "")
    if known in pretrained.weights and isinstance(head, GroundingHead):
        head.start_from(dict(pretrained.heads.items()))
    elif known in pretrained.weights:
        head.load_state_dict(pretrained.get_submodule(f"heads.{known}").state_dict())


def assemble(recipe: FinetuneRecipe) -> LoadedTask:
    """The task's model, initialised from a pre-trained checkpoint (with `init: random` from its sizes alone).

    Raises:
        CheckpointError: there is no pre-trained checkpoint, or it does not fit.
    """
    folder = find_checkpoint(Path(recipe.init_from))
    source = read_pretraining_config(folder, "fine-tune from")
    data = recipe.data
    labels = read_answers(recipe.task, Path(data.root))
    options = TaskOptions(labels, data.retrieval_images, data.captions_per_image, data.hard_negatives)
    task = build_task(recipe.task, options)
    torch.manual_seed(recipe.train.seed)
    sizes = source.sizes | {"dropout": recipe.dropout}
    cmal = build_cmal(**sizes)
    head = initialise(task.build_head(sizes["width"], recipe.dropout), sizes["width"])
    if recipe.init == "pretrained":
        pretrained = load_pretrained(folder, source)
        cmal.load_state_dict(pretrained.cmal.state_dict())
        start_head(recipe.task, head, pretrained)
    leakage = source.leakage if recipe.init == "pretrained" else NO_PRETRAINING
    config = dataclasses.replace(
        source, kind="task", sizes=sizes, task=recipe.task, labels=task.labels, leakage=leakage
    )
    return LoadedTask(task, TaskModel(cmal, head, task), config, load_word_pieces(folder))
