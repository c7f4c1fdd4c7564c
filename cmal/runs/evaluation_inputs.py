"""Finds the inputs of an evaluation that the user did not name, and names the command that makes a missing one.

By convention the run of TASK is runs/TASK, its records are in data/TASK (captions: data/coco-captions, data/scenes), and
its regions are those in the run's recipe.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cmal.errors import CheckpointError, DataError, RecipeError
from cmal.runs.folder import find_checkpoint, run_of
from cmal.runs.recipe import FinetuneRecipe, load_recipe
from cmal.runs.recipe.schema import FinetuneDataSection

RECORD_FOLDERS = {"scenes-retrieval": "scenes", "coco-retrieval": "coco-captions"}  # others are named like the task


@dataclass(frozen=True)
class EvaluationRequest:
    """What to evaluate. `resolve_inputs` fills in the paths that are None.

    Attributes:
        checkpoint: a run folder or a checkpoint folder.
        regions: a region store; records: the folder of the split files.
        protocol: "" = the task's main protocol.
        zero_shot: score retrieval with the pre-trained matching head.
        shortlist: candidates per query that retrieval scores; 0 = all pairs, None = as the run's recipe says.
        answers_suffice: answer a split without published right answers and do not score it; otherwise it is an error.
    """

    task: str
    split: str
    checkpoint: Path | None = None
    regions: Path | None = None
    records: Path | None = None
    protocol: str = ""
    zero_shot: bool = False
    shortlist: int | None = None
    data: Path = Path("data")
    runs: Path = Path("runs")
    answers_suffice: bool = False


@dataclass(frozen=True)
class EvaluationInputs:
    """The paths and settings of an evaluation. `stores`: box protocol ("gt", "det", or "" if there is one) -> store."""

    checkpoint: Path
    records: Path
    stores: dict[str, Path]
    retrieval_images: int
    captions_per_image: int
    shortlist: int
    train_split: str


def resolve_inputs(request: EvaluationRequest) -> EvaluationInputs:
    """The inputs by convention: the checkpoint runs/TASK/best or last, and the paths in that run's recipe.

    Raises:
        CmalError: an input is missing; the message names the command that makes it. Of several, the first to make.
    """
    run = request.checkpoint or request.runs / request.task
    recipe = _saved_recipe(run)
    folder = RECORD_FOLDERS.get(request.task, request.task)
    records = request.records or (Path(recipe.data.root) if recipe else request.data / folder)
    stores = _stores(request, recipe)
    what = f"cannot evaluate {request.task}"
    if not records.is_dir():
        hint = f"make it: {how_to_prepare(request.task)}"
        raise DataError(what, f"there is no folder of records {records}", hint)
    boxes, store = next(iter(stores.items()))  # the store of detected boxes may be absent, the first one may not
    if not store.exists():
        hint = f"make it: {how_to_extract(request.task, boxes, store)}"
        raise DataError(what, f"there is no region store {store}", hint)
    checkpoint = find_checkpoint(run)
    if not checkpoint.is_dir() or (checkpoint == run and (run / "recipe.yaml").is_file()):
        found = f"{run} holds no checkpoint yet" if run.is_dir() else f"there is no run folder {run}"
        raise CheckpointError(what, found, f"make it: {how_to_train(request)}")
    present = {boxes: store for boxes, store in stores.items() if store.exists()}
    data = recipe.data if recipe else FinetuneDataSection()
    shortlist = data.shortlist if request.shortlist is None else request.shortlist
    limits = (data.retrieval_images, data.captions_per_image, shortlist)
    return EvaluationInputs(checkpoint, records, present, *limits, data.train_split)


def _saved_recipe(folder: Path) -> FinetuneRecipe | None:
    run = run_of(folder)
    try:
        return load_recipe(FinetuneRecipe, run / "recipe.yaml") if run else None
    except RecipeError:
        return None  # the recipe of a pre-training run: zero-shot


def _stores(request: EvaluationRequest, recipe: FinetuneRecipe | None) -> dict[str, Path]:
    """Box protocol -> store: the requested one, or else those in the recipe, or else those at the usual path."""
    if request.regions:
        return {"": request.regions}
    if recipe and recipe.data.detected_regions:
        return {"gt": Path(recipe.data.regions), "det": Path(recipe.data.detected_regions)}
    if recipe:
        return {"": Path(recipe.data.regions)}
    data = request.data
    if request.task == "scenes-rec":
        return {"gt": data / "scenes/regions-gt", "det": data / "scenes/regions"}
    if request.task.startswith("scenes-"):
        return {"": data / "scenes/regions"}
    if request.task.startswith("refcoco"):
        return {"gt": data / request.task / "regions-gt", "det": data / request.task / "regions-det"}
    own = data / RECORD_FOLDERS.get(request.task, request.task) / "regions"
    return {"": own if own.exists() else data / "regions"}


def how_to_prepare(task: str) -> str:
    """The command that makes a task's records."""
    if task.startswith("scenes-"):
        return "cmal prepare scenes"
    return f"cmal prepare {RECORD_FOLDERS.get(task, task)} --raw DIR"


def how_to_extract(task: str, boxes: str, store: Path) -> str:
    """The command that makes a region store; `boxes` is "gt", "det" or ""."""
    if task.startswith("scenes-"):
        detector = "boxes:data/scenes/official/instances.json --features scenes" if boxes == "gt" else "scenes"
        return f"cmal extract-regions data/scenes/images --out {store} --detector {detector}"
    detector = {
        "gt": "boxes:DIR/instances.json --features frcnn-vg",
        "det": f"boxes:data/{task}/detections.json --features frcnn-vg",
    }.get(boxes, "frcnn-vg")
    return f"cmal extract-regions IMAGES --out {store} --detector {detector}"


def how_to_train(request: EvaluationRequest) -> str:
    """The command that makes the run of a request."""
    if request.zero_shot:
        return "cmal pretrain recipes/scenes.yaml, or another recipe, and give its run with --checkpoint"
    return f"cmal finetune recipes/finetune/{request.task.replace('+', '_plus').replace('-', '_')}.yaml"
