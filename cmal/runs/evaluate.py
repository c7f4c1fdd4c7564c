"""`cmal eval`: a checkpoint's answers to a split, scored by the task's official protocol."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cmal.data.example import ExampleBuilder
from cmal.data.records import Record
from cmal.datasets.leakage import evaluation_leakage
from cmal.errors import CheckpointError, DataError, RecipeError
from cmal.io.files import sha256_of
from cmal.model.cmal import build_cmal
from cmal.model.pretraining import ContrastiveHead
from cmal.regions.store.store import RegionStore
from cmal.runs.answers import LoadedTask, TaskModel, distributed_answers, has_right_answer
from cmal.runs.building import load_pretrained, load_word_pieces
from cmal.runs.compatibility import check_images, check_store
from cmal.runs.evaluation_inputs import EvaluationInputs, EvaluationRequest, resolve_inputs
from cmal.runs.finetune import HEADS_WITH_PRETRAINING, start_head
from cmal.runs.folder import run_of
from cmal.runs.model_config import ModelConfig
from cmal.runs.results import EvaluationResult, result_of_scores
from cmal.runs.splits import read_split, read_splits, take_few
from cmal.tasks import TaskOptions, build_task
from cmal.tasks.base import Answers, Scores
from cmal.tasks.pair_scores import CachedStates, cache_states
from cmal.tasks.retrieval import Retrieval, rows_of
from cmal.tasks.shortlist import FIT_PAIRS, PooledVectors, Shortlist, fit_late_interaction
from cmal.training.checkpoint import WEIGHTS, fit_weights, load_weights
from cmal.training.distributed import distributed_context

Choose = Callable[[CachedStates], Shortlist]


@dataclass(frozen=True)
class Evaluation:
    """The answers to a split with one region store, and their scores.

    Attributes:
        boxes: "gt" or "det" for a task that is scored on both, else "".
        result: None if the right answers are not published.
        values: (N,) each record's value of the main metric, which is their mean; empty without a result.
    """

    boxes: str
    result: EvaluationResult | None
    answers: Answers
    records: Sequence[Record]
    values: np.ndarray


@torch.no_grad()
def run_evaluation(
    request: EvaluationRequest, report: Callable[[int, int], None] = lambda done, of: None, device: str | None = None
) -> list[Evaluation]:
    """Answers and scores a split, once per region store (referring expressions: gt and det boxes).

    In several processes each computes a share of the answers; every process returns all of them.

    Args:
        report: called with (answers so far, records).
        device: "cpu" or "cuda"; None takes CUDA if it is available.

    Raises:
        CmalError: an input is missing or does not fit, or the split's right answers are not published.
    """
    if request.shortlist and HEADS_WITH_PRETRAINING.get(request.task) != "itm":
        raise RecipeError(
            f"cannot score {request.task} by a shortlist", "only retrieval ranks", "leave --shortlist away"
        )
    inputs = resolve_inputs(request)
    loaded = load_task(request, inputs)
    protocol = _protocol(request, loaded)
    records = read_split(loaded.task, inputs.records, request.split)
    if isinstance(loaded.task, Retrieval):
        records = loaded.task.evaluation_records(records)
    is_answered = all(has_right_answer(record) for record in records)
    if not is_answered and not request.answers_suffice:
        raise DataError(
            f"cannot score {request.task} on {request.split}",
            "the right answers of this split are not in the records (test splits are often scored by a server)",
            "write the answers for the server with --predictions FILE, or score another split",
        )
    evaluations = []
    with distributed_context(device) as context:
        loaded.model.to(context.device).eval()
        for boxes, path in inputs.stores.items():
            store = RegionStore.open(path)
            check_store(store, loaded.config.sizes["region_features"], str(inputs.checkpoint))
            check_images(records, store, inputs.records)
            builder = ExampleBuilder(loaded.word_pieces, store, loaded.config.sizes["max_tokens"])
            choose = shortlist_chooser(loaded, inputs, records, builder, context.device, protocol)
            answers = distributed_answers(loaded, records, builder, context, report, choose)
            result, values = None, np.empty(0)
            if is_answered:
                scores = loaded.task.score(answers, records, protocol)
                result, values = evaluation_result(request, inputs, loaded.config, scores, boxes, store), scores.values
            evaluations.append(Evaluation(boxes, result, answers, records, values))
    return evaluations


def _protocol(request: EvaluationRequest, loaded: LoadedTask) -> str:
    if request.protocol and request.protocol not in loaded.task.protocols:
        raise RecipeError(
            f'{request.task} has no protocol "{request.protocol}"',
            f"known: {', '.join(loaded.task.protocols)}",
            "choose one of them",
        )
    return request.protocol or loaded.task.main_protocol


def shortlist_chooser(
    loaded: LoadedTask,
    inputs: EvaluationInputs,
    records: Sequence[Any],
    builder: ExampleBuilder,
    device: torch.device,
    protocol: str,
) -> Choose | None:
    """A function that chooses retrieval's candidates; None if all pairs are scored.

    It ranks by the checkpoint's contrastive head, or without one by late interaction, fitted to training pairs.

    Raises:
        DataError: late interaction has to be fitted, and the training split or its regions are missing.
    """
    task = loaded.task
    if not inputs.shortlist or not isinstance(task, Retrieval):
        return None
    if loaded.contrastive is not None:
        ranking = PooledVectors(loaded.contrastive.to(device).eval())
        return lambda states: task.make_shortlist(ranking, states, records, protocol, inputs.shortlist)
    training = take_few(read_splits(task, inputs.records, inputs.train_split), FIT_PAIRS, seed=0)
    check_images(training, builder.store, inputs.records)

    def choose(states: CachedStates) -> Shortlist:
        training_states = cache_states(loaded.model.cmal, training, builder, device)
        with torch.enable_grad():
            fitted = fit_late_interaction(training_states, rows_of(training)[0])
        return task.make_shortlist(fitted, states, records, protocol, inputs.shortlist)

    return choose


def evaluation_result(
    request: EvaluationRequest,
    inputs: EvaluationInputs,
    config: ModelConfig,
    scores: Scores,
    boxes: str,
    store: RegionStore,
) -> EvaluationResult:
    """The scores together with everything needed to judge them: proposals, checkpoint, recipe, leakage."""
    name = f"{boxes} boxes, " if boxes else ""
    run = run_of(inputs.checkpoint)
    return result_of_scores(
        scores,
        task=request.task,
        split=request.split,
        proposal_set=f"{name}{store.path} by detector {store.detector}",
        checkpoint=str(inputs.checkpoint),
        checkpoint_sha256=sha256_of(inputs.checkpoint / WEIGHTS),
        recipe_sha256=sha256_of(run / "recipe.yaml") if run else "",
        leakage=evaluation_leakage(config.leakage, inputs.records, request.split),
    )


def load_task(request: EvaluationRequest, inputs: EvaluationInputs) -> LoadedTask:
    """The task with the model of a checkpoint folder.

    Raises:
        CheckpointError: the checkpoint is of another task.
    """
    folder = inputs.checkpoint
    config = ModelConfig.read(folder)
    options = TaskOptions(config.labels, inputs.retrieval_images, inputs.captions_per_image)
    if config.kind == "pretraining" and request.zero_shot:
        return _zero_shot(request, config, folder, options)
    if config.kind == "pretraining" or config.task != request.task:
        what = f'of the task "{config.task}"' if config.task else "of a pre-training"
        raise CheckpointError(
            f"cannot evaluate {request.task} with {folder}",
            f"it is a checkpoint {what}",
            "fine-tune on this task first",
        )
    task = build_task(request.task, options)
    model = TaskModel(build_cmal(**config.sizes), task.build_head(config.sizes["width"], 0.0), task)
    fit_weights(model, load_weights(folder), folder)
    return LoadedTask(task, model, config, load_word_pieces(folder))


def _zero_shot(request: EvaluationRequest, config: ModelConfig, folder: Path, options: TaskOptions) -> LoadedTask:
    head_name = HEADS_WITH_PRETRAINING.get(request.task)
    if head_name is None or head_name not in config.weights:
        raise CheckpointError(
            f"cannot evaluate {request.task} without fine-tuning",
            "only retrieval and phrase grounding can, with a model pre-trained with objectives.itm or objectives.amc",
            "leave --zero-shot away and give a fine-tuned checkpoint",
        )
    task = build_task(request.task, options)
    pretrained = load_pretrained(folder, config)
    head = task.build_head(config.sizes["width"], 0.0)
    start_head(request.task, head, pretrained)
    model = TaskModel(pretrained.cmal, head, task)
    config = dataclasses.replace(config, kind="task", task=request.task)
    contrastive = next(
        (head for head in pretrained.get_submodule("heads").children() if isinstance(head, ContrastiveHead)), None
    )
    return LoadedTask(task, model, config, load_word_pieces(folder), contrastive)
