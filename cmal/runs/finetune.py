"""`cmal finetune`: a task's head on a pre-trained model, through the same loop."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch

from cmal.data.example import ExampleBuilder
from cmal.data.loaders import TaskData
from cmal.data.records import Record, read_records
from cmal.errors import DataError
from cmal.model.cmal import build_cmal
from cmal.model.transformer import initialise
from cmal.regions.store.store import RegionStore
from cmal.runs.answers import TaskModel, TaskRun, shared_answers
from cmal.runs.assembly import (
    ModelConfig,
    build_pretraining_model,
    check_images,
    check_store,
    load_word_pieces,
    read_pretraining_config,
    write_beside_weights,
)
from cmal.runs.evaluation_inputs import how_to_prepare
from cmal.runs.folder import find_checkpoint
from cmal.runs.recipe.reader import FinetuneRecipe
from cmal.runs.train import Report, Tick, TrainingSetup, TrainingSummary, run_training
from cmal.tasks import NEEDS_ANSWERS, TaskOptions, build_task
from cmal.tasks.base import Task
from cmal.tasks.retrieval import Retrieval
from cmal.training.checkpoint import fit_weights, load_weights
from cmal.training.distributed import DistributedContext

NO_PRETRAINING = "none, the weights were drawn anew"
HEADS_WITH_PRETRAINING = {"flickr30k": "itm", "coco-retrieval": "itm", "scenes-retrieval": "itm"}


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
    """What this process trains, on what; the weights of a checkpoint to go on from are loaded later, over these."""
    made = assemble(recipe)
    store = RegionStore.open(recipe.data.regions)
    check_store(store, made.config.sizes["region_features"], recipe.init_from)
    records = read_splits(made.task, Path(recipe.data.root), recipe.data.train_split)
    check_images(records, store, recipe.data.root)
    records = take_few(records, recipe.data.max_records, recipe.train.seed)
    builder = ExampleBuilder(made.word_pieces, store, text_limit(recipe, made.config))

    return TrainingSetup(
        run=Path(recipe.out),
        model=made.model,
        data=TaskData(records, builder, made.task.make_batch, recipe.train.seed),
        train=recipe.train,
        optimizer=recipe.optimizer,
        workers=recipe.data.workers,
        add_files=lambda folder: write_beside_weights(folder, made.config, made.word_pieces),
        validate=validation_of(recipe, made, context),
        head_names=("head.",),
    )


def validation_of(
    recipe: FinetuneRecipe, made: TaskRun, context: DistributedContext
) -> Callable[[int], Mapping[str, float]]:
    """What scores the validation split at a step, by the task's main measure; nothing with validate_every 0.

    Raises:
        DataError: there is no such split, or the store lacks its images.
    """
    if not recipe.train.validate_every:
        return lambda step: {}
    store = RegionStore.open(recipe.data.regions)
    records = read_split(made.task, Path(recipe.data.root), recipe.data.validation_split)
    records = take_few(records, recipe.data.validation_records, recipe.train.seed)
    if isinstance(made.task, Retrieval):
        records = made.task.evaluation_records(records)
    check_images(records, store, recipe.data.root)
    builder = ExampleBuilder(made.word_pieces, store, text_limit(recipe, made.config))

    def validate(step: int) -> Mapping[str, float]:
        made.model.eval()
        answers = shared_answers(made, records, builder, context)
        scores = made.task.score(answers, records, made.task.main_protocol)
        return {name: float(value) for name, value in scores.metrics.items()} | {"main": scores.metrics[scores.main]}

    return validate


def text_limit(recipe: FinetuneRecipe, config: ModelConfig) -> int:
    """Word pieces kept of a text: the recipe's, as far as the model has positions."""
    return min(recipe.data.max_tokens, config.sizes["max_tokens"])


def assemble(recipe: FinetuneRecipe) -> TaskRun:
    """The task's model, started from a pre-trained checkpoint (or from its sizes alone, with `init: random`).

    Raises:
        CheckpointError: there is no pre-trained checkpoint, or it does not fit.
    """
    folder = find_checkpoint(Path(recipe.init_from))
    source = read_pretraining_config(folder, "fine-tune from")
    data = recipe.data
    options = TaskOptions(read_answers(recipe), data.retrieval_images, data.captions_per_image, data.hard_negatives)
    task = build_task(recipe.task, options)
    torch.manual_seed(recipe.train.seed)
    sizes = source.sizes | {"dropout": recipe.dropout}
    cmal = build_cmal(**sizes)
    head = initialise(task.build_head(sizes["width"], recipe.dropout), sizes["width"])
    if recipe.init == "pretrained":
        pretrained = build_pretraining_model(source)
        fit_weights(pretrained, load_weights(folder), folder)
        cmal.load_state_dict(pretrained.cmal.state_dict())
        known_head = HEADS_WITH_PRETRAINING.get(recipe.task, "")
        if known_head in pretrained.heads:
            head.load_state_dict(pretrained.heads[known_head].state_dict())
    leakage = source.leakage if recipe.init == "pretrained" else NO_PRETRAINING
    config = dataclasses.replace(
        source, kind="task", sizes=sizes, task=recipe.task, labels=task.labels, leakage=leakage
    )
    return TaskRun(task, TaskModel(cmal, head, task), config, load_word_pieces(folder))


def read_answers(recipe: FinetuneRecipe) -> tuple[str, ...]:
    """The answer vocabulary that `cmal prepare` wrote beside the records; empty for tasks without one."""
    if recipe.task not in NEEDS_ANSWERS:
        return ()
    path = Path(recipe.data.root) / "answers.json"
    try:
        answers = json.loads(path.read_bytes())
        if not isinstance(answers, list) or not answers or not all(isinstance(answer, str) for answer in answers):
            raise ValueError("it is no list of texts")
        if len(set(answers)) != len(answers):
            raise ValueError("an answer is in it twice")
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"cannot read {path}", str(error), f"prepare the data set again: {how_to_prepare(recipe.task)}"
        ) from error
    return tuple(answers)


def read_splits(task: Task, root: Path, splits: str) -> list[Record]:
    """The records of several splits, "train+val". Raises DataError as `read_split`."""
    return [record for split in splits.split("+") for record in read_split(task, root, split.strip())]


def read_split(task: Task, root: Path, split: str) -> list[Record]:
    """A task's records of one split.

    Raises:
        DataError: there is no such split; the message names those there are.
    """
    path = root / f"{split}.jsonl"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in root.glob("*.jsonl")))
        raise DataError(
            f'cannot read split "{split}" of {task.name}',
            f"{root} holds {there or 'nothing'}",
            ("take one of these, or " if there else "") + f"make it: {how_to_prepare(task.name)}",
        )
    return read_records(path, task.record_kind)


def take_few(records: list[Record], count: int, seed: int) -> list[Record]:
    """`count` records drawn by the seed, in file order; all of them where count is 0. Fewer are among more."""
    if not count or count >= len(records):
        return records
    order = np.random.default_rng([seed, len(records)]).permutation(len(records))
    return [records[i] for i in sorted(order[:count].tolist())]
