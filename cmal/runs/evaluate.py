"""`cmal eval`: a checkpoint's answers to a split, scored by the task's protocol, gathered by id."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cmal.data.example import ExampleBuilder
from cmal.data.records import Record
from cmal.datasets.leakage import evaluation_leakage
from cmal.errors import CheckpointError, DataError, RecipeError
from cmal.io.files import sha256_of
from cmal.model.cmal import build_cmal
from cmal.regions.store.store import RegionStore
from cmal.runs.answers import TaskModel, TaskRun, has_right_answer, shared_answers
from cmal.runs.assembly import ModelConfig, build_pretraining_model, check_images, check_store, load_word_pieces
from cmal.runs.evaluation_inputs import EvaluationInputs, EvaluationRequest, resolve_inputs
from cmal.runs.finetune import HEADS_WITH_PRETRAINING, read_split, read_splits, take_few
from cmal.runs.results import EvaluationResult, result_of_scores
from cmal.tasks import TaskOptions, build_task
from cmal.tasks.base import Answers, Scores
from cmal.tasks.pair_scores import CachedStates, cache_states
from cmal.tasks.retrieval import Retrieval, rows_of
from cmal.tasks.shortlist import FIT_PAIRS, FirstRanking, PooledVectors, Shortlist, fit_late_interaction
from cmal.training.checkpoint import WEIGHTS, fit_weights, load_weights
from cmal.training.distributed import join_processes


@dataclass(frozen=True)
class Evaluation:
    """The answers to a split from one store, and how good they are.

    Attributes:
        boxes: "gt" or "det" where a task is scored on both, else "".
        result: as it is reported; None where the right answers are not published.
        values: (N,) each record's part of the main metric, which is their mean; empty where there is no result.
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
    """Answers and scores a split, once for every store (gt and det boxes for referring expressions).

    Of several processes each answers its share; all of them return the whole.

    Raises:
        CmalError: a piece is missing or does not fit, or the split's right answers are not published.
    """
    if request.shortlist and request.task not in HEADS_WITH_PRETRAINING:
        raise RecipeError(
            f"cannot score {request.task} by a shortlist", "only retrieval ranks", "leave --shortlist away"
        )
    pieces = resolve_inputs(request)
    made = load_task(request, pieces)
    protocol = _protocol(request, made)
    records = read_split(made.task, pieces.records, request.split)
    if isinstance(made.task, Retrieval):
        records = made.task.evaluation_records(records)
    is_answered = all(has_right_answer(record) for record in records)
    if not is_answered and not request.answers_suffice:
        raise DataError(
            f"cannot score {request.task} on {request.split}",
            "the right answers of this split are not in the records (test splits are often scored by a server)",
            "write the answers for the server with --predictions FILE, or score another split",
        )
    evaluations = []
    with join_processes(device) as context:
        made.model.to(context.device).eval()
        for boxes, path in pieces.stores.items():
            store = RegionStore.open(path)
            check_store(store, made.config.sizes["region_features"], str(pieces.checkpoint))
            check_images(records, store, pieces.records)
            builder = ExampleBuilder(made.word_pieces, store, made.config.sizes["max_tokens"])
            choose = (
                shortlist_of(made, pieces, records, builder, context.device, protocol) if pieces.shortlist else None
            )
            answers = shared_answers(made, records, builder, context, report, choose)
            if not is_answered:
                evaluations.append(Evaluation(boxes, None, answers, records, np.empty(0)))
                continue
            scores = made.task.score(answers, records, protocol)
            result = describe(request, pieces, made.config, scores, boxes, store)
            evaluations.append(Evaluation(boxes, result, answers, records, scores.values))
    return evaluations


def _protocol(request: EvaluationRequest, made: TaskRun) -> str:
    if request.protocol and request.protocol not in made.task.protocols:
        raise RecipeError(
            f'{request.task} has no protocol "{request.protocol}"',
            f"known: {', '.join(made.task.protocols)}",
            "choose one of them",
        )
    return request.protocol or made.task.main_protocol


def shortlist_of(
    made: TaskRun,
    pieces: EvaluationInputs,
    records: Sequence[Record],
    builder: ExampleBuilder,
    device: torch.device,
    protocol: str,
) -> Callable[[CachedStates], Shortlist]:
    """What chooses retrieval's candidates, by the checkpoint's contrastive head or by maps fitted to training pairs.

    Raises:
        DataError: maps have to be fitted, and the training split is not beside the records or not in the store.
    """
    task = made.task
    if made.contrastive is not None:
        ranking: FirstRanking = PooledVectors(made.contrastive.to(device).eval())
        return lambda states: task.make_shortlist(ranking, states, records, protocol, pieces.shortlist)
    training = take_few(read_splits(task, pieces.records, pieces.train_split), FIT_PAIRS, seed=0)
    check_images(training, builder.store, pieces.records)

    def choose(states: CachedStates) -> Shortlist:
        known = cache_states(made.model.cmal, training, builder, device)
        with torch.enable_grad():
            fitted = fit_late_interaction(known, rows_of(training)[0])
        return task.make_shortlist(fitted, states, records, protocol, pieces.shortlist)

    return choose


def describe(
    request: EvaluationRequest,
    pieces: EvaluationInputs,
    config: ModelConfig,
    scores: Scores,
    boxes: str,
    store: RegionStore,
) -> EvaluationResult:
    """The scores with everything a reader needs to judge them."""
    name = f"{boxes} boxes, " if boxes else ""
    recipe = pieces.checkpoint.resolve().parent.parent / "recipe.yaml"
    return result_of_scores(
        scores,
        more_values=scores.more_values,
        task=request.task,
        split=request.split,
        proposal_set=f"{name}{store.path} by detector {store.detector}",
        checkpoint=str(pieces.checkpoint),
        checkpoint_sha256=sha256_of(pieces.checkpoint / WEIGHTS),
        recipe_sha256=sha256_of(recipe) if recipe.is_file() else "",
        leakage=evaluation_leakage(config.leakage, pieces.records, request.split),
    )


def load_task(request: EvaluationRequest, pieces: EvaluationInputs) -> TaskRun:
    """The task and its model from a checkpoint folder.

    Raises:
        CheckpointError: the checkpoint is of another task.
    """
    folder = pieces.checkpoint
    config = ModelConfig.read(folder)
    options = TaskOptions(config.labels, pieces.retrieval_images, pieces.captions_per_image)
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
    return TaskRun(task, model, config, load_word_pieces(folder))


def _zero_shot(request: EvaluationRequest, config: ModelConfig, folder: Path, options: TaskOptions) -> TaskRun:
    head_name = HEADS_WITH_PRETRAINING.get(request.task)
    if head_name is None or head_name not in config.weights:
        raise CheckpointError(
            f"cannot evaluate {request.task} without fine-tuning",
            "only retrieval can, with a model pre-trained with objectives.itm",
            "leave --zero-shot away and give a fine-tuned checkpoint",
        )
    task = build_task(request.task, options)
    pretrained = build_pretraining_model(config)
    fit_weights(pretrained, load_weights(folder), folder)
    model = TaskModel(pretrained.cmal, pretrained.heads[head_name], task)
    config = dataclasses.replace(config, kind="task", task=request.task)
    contrastive = dict(pretrained.heads).get("itc")
    return TaskRun(task, model, config, load_word_pieces(folder), contrastive)
