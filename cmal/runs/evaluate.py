"""`cmal eval`: a checkpoint's answers to a split, scored by the task's protocol, gathered by id."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cmal.data.datasets import TaskData
from cmal.data.examples import ExampleBuilder
from cmal.data.groups import Group
from cmal.data.records import Record
from cmal.errors import CheckpointError, DataError, RecipeError
from cmal.files import read_json, sha256_of
from cmal.model.cmal import build_cmal
from cmal.recipe import FinetuneRecipe, load_recipe
from cmal.regions.store import RegionStore
from cmal.results import EvaluationResult, result_of_scores
from cmal.runs.assembly import ModelFacts, build_pretraining_model, check_images, check_store, load_word_pieces
from cmal.runs.finetune import HEADS_WITH_PRETRAINING, TaskModel, TaskRun, read_split
from cmal.tasks import TaskOptions, build_task
from cmal.tasks.base import Answers, Scores
from cmal.tasks.retrieval import Retrieval
from cmal.training.checkpoint import WEIGHTS, fit_weights, load_weights
from cmal.training.distributed import gather_by_id, joined

EVALUATION_BATCH = 64
RECORD_FOLDERS = {"scenes-retrieval": "scenes", "coco-retrieval": "coco-captions"}  # others are named like the task


@dataclass(frozen=True)
class EvaluationRequest:
    """What to evaluate; empty fields are found by convention (see `find_pieces`).

    Attributes:
        checkpoint: a run folder or a checkpoint folder; regions: a store; records: the folder of the split files.
        zero_shot: score retrieval with the pre-trained matching head.
    """

    task: str
    split: str
    checkpoint: Path | None = None
    regions: Path | None = None
    records: Path | None = None
    protocol: str = ""
    zero_shot: bool = False
    data: Path = Path("data")
    runs: Path = Path("runs")


@dataclass(frozen=True)
class Pieces:
    """Where everything an evaluation needs lies. `stores`: name of the box protocol ("" where there is one) -> store."""

    checkpoint: Path
    records: Path
    stores: dict[str, Path]
    retrieval_images: int
    captions_per_image: int


@dataclass(frozen=True)
class Evaluation:
    """One scored store: the result as it is reported, and the answers it was worked out from.

    `boxes` is "gt" or "det" where a task is scored on both, else "".
    """

    boxes: str
    result: EvaluationResult
    answers: Answers
    records: Sequence[Record]


def find_pieces(request: EvaluationRequest) -> Pieces:
    """Everything by convention: runs/TASK/best or last, and what that run's saved recipe names.

    Raises:
        CmalError: a piece is missing; the message says which command makes it.
    """
    run = request.checkpoint or request.runs / request.task
    checkpoint = next((run / name for name in ("best", "last") if (run / name).exists()), run)
    if not checkpoint.is_dir():
        raise CheckpointError(
            f"cannot evaluate {request.task}",
            f"there is no run folder {run}",
            f"make it: cmal finetune recipes/finetune/{request.task.replace('-', '_')}.yaml",
        )
    recipe = _saved_recipe(run)
    folder = Path(RECORD_FOLDERS.get(request.task, request.task))
    records = request.records or (Path(recipe.data.root) if recipe else request.data / folder)
    stores = {"": request.regions} if request.regions else {}
    if not stores and recipe is not None:
        stores = {"": Path(recipe.data.regions)}
        if recipe.data.detected_regions:
            stores = {"gt": Path(recipe.data.regions), "det": Path(recipe.data.detected_regions)}
    if not stores:
        stores = {"": request.data / folder / "regions"}
    images, captions = (recipe.data.retrieval_images, recipe.data.captions_per_image) if recipe else (0, 5)
    return Pieces(checkpoint, records, stores, images, captions)


def _saved_recipe(run: Path) -> FinetuneRecipe | None:
    for folder in (run, run.resolve().parent.parent):  # a run folder, or one of its checkpoints
        if (folder / "recipe.yaml").is_file():
            try:
                return load_recipe(FinetuneRecipe, folder / "recipe.yaml")
            except RecipeError:
                return None  # a pre-training run: zero-shot
    return None


@torch.no_grad()
def run_evaluation(
    request: EvaluationRequest, report: Callable[[int, int], None] = lambda done, of: None, device: str | None = None
) -> list[Evaluation]:
    """Scores a split, once for every store (gt and det boxes for referring expressions).

    Raises:
        CmalError: a piece is missing or does not fit.
    """
    pieces = find_pieces(request)
    made = load_task(request, pieces)
    if request.protocol and request.protocol not in made.task.protocols:
        raise RecipeError(
            f'{request.task} has no protocol "{request.protocol}"',
            f"known: {', '.join(made.task.protocols)}",
            "choose one of them",
        )
    records = read_split(made.task, pieces.records, request.split)
    if isinstance(made.task, Retrieval):
        records = made.task.evaluation_records(records)
    evaluations = []
    with joined(device) as place:
        model = made.model.to(place.device).eval()
        for boxes, path in pieces.stores.items():
            store = RegionStore.open(path)
            check_store(store, made.facts.sizes["region_features"], str(pieces.checkpoint))
            check_images(records, store, pieces.records)
            builder = ExampleBuilder(made.word_pieces, store, made.facts.sizes["max_tokens"])
            if isinstance(made.task, Retrieval):
                answers = {
                    "scores": made.task.score_matrix(model.cmal, model.head, records, builder, place.device, report)
                }
            else:
                mine = records[place.rank :: place.world]
                answers = gather_by_id(answer_all(made, mine, builder, place.device, report))
            scores = made.task.score(answers, records, request.protocol or made.task.main_protocol)
            result = describe(request, pieces, scores, boxes, store)
            evaluations.append(Evaluation(boxes, result, answers, records))
    return evaluations


def describe(
    request: EvaluationRequest, pieces: Pieces, scores: Scores, boxes: str, store: RegionStore
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
        leakage=leakage_statement(pieces.records),
    )


def load_task(request: EvaluationRequest, pieces: Pieces) -> TaskRun:
    """The task and its model from a checkpoint folder.

    Raises:
        CheckpointError: the checkpoint is of another task.
    """
    folder = pieces.checkpoint
    facts = ModelFacts.read(folder)
    options = TaskOptions(facts.labels, pieces.retrieval_images, pieces.captions_per_image)
    if facts.kind == "pretraining" and request.zero_shot:
        return _zero_shot(request, facts, folder, options)
    if facts.kind == "pretraining" or facts.task != request.task:
        what = f'of the task "{facts.task}"' if facts.task else "of a pre-training"
        raise CheckpointError(
            f"cannot evaluate {request.task} with {folder}",
            f"it is a checkpoint {what}",
            "fine-tune on this task first",
        )
    task = build_task(request.task, options)
    model = TaskModel(build_cmal(**facts.sizes), task.build_head(facts.sizes["width"], 0.0), task)
    fit_weights(model, load_weights(folder), folder)
    return TaskRun(task, model, facts, load_word_pieces(folder))


def _zero_shot(request: EvaluationRequest, facts: ModelFacts, folder: Path, options: TaskOptions) -> TaskRun:
    head_name = HEADS_WITH_PRETRAINING.get(request.task)
    if head_name is None or head_name not in facts.weights:
        raise CheckpointError(
            f"cannot evaluate {request.task} without fine-tuning",
            "only retrieval can, with a model pre-trained with objectives.itm",
            "leave --zero-shot away and give a fine-tuned checkpoint",
        )
    task = build_task(request.task, options)
    pretrained = build_pretraining_model(facts)
    fit_weights(pretrained, load_weights(folder), folder)
    model = TaskModel(pretrained.cmal, pretrained.heads[head_name], task)
    facts = dataclasses.replace(facts, kind="task", task=request.task)
    return TaskRun(task, model, facts, load_word_pieces(folder))


@torch.no_grad()
def answer_all(
    made: TaskRun,
    records: Sequence[Record],
    builder: ExampleBuilder,
    device: torch.device,
    report: Callable[[int, int], None] = lambda done, of: None,
) -> Answers:
    """Every record's answer; records of like length go together. An error in a record is told with its id."""
    data = TaskData(records, builder, made.task.make_batch, seed=0)
    order = data.lengths().argsort(kind="stable").tolist()
    answers: Answers = {}
    for start in range(0, len(order), EVALUATION_BATCH):
        indices = tuple(order[start : start + EVALUATION_BATCH])
        _, batch = data[Group(0, 0, 0, start, indices)]
        batch = batch.to(device)
        answers |= made.task.answers(made.task.forward(made.model.cmal, made.model.head, batch), batch)
        report(len(answers), len(records))
    return answers


def leakage_statement(records: Path) -> str:
    """What the records' manifest says of evaluation images in pre-training."""
    try:
        manifest = read_json(records / "manifest.json")
    except DataError:
        manifest = None
    said = str(manifest.get("leakage", "")) if isinstance(manifest, dict) else ""
    return said or "not audited: the records have no leakage statement"
