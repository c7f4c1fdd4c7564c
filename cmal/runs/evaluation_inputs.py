"""Where an evaluation finds its pieces when nobody says so, and which command makes a piece that is not there.

By convention TASK's run is runs/TASK, its records are data/TASK (captions: data/coco-captions, data/scenes), and its regions
are those that the run's recipe names.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cmal.errors import CheckpointError, DataError, RecipeError
from cmal.runs.recipe.reader import FinetuneDataSection, FinetuneRecipe, load_recipe

RECORD_FOLDERS = {"scenes-retrieval": "scenes", "coco-retrieval": "coco-captions"}  # others are named like the task


@dataclass(frozen=True)
class EvaluationRequest:
    """What to evaluate; empty fields are found by convention (see `resolve_inputs`).

    Attributes:
        checkpoint: a run folder or a checkpoint folder; regions: a store; records: the folder of the split files.
        zero_shot: score retrieval with the pre-trained matching head.
        shortlist: retrieval scores so many candidates a query, 0 = all pairs; None: what the run's recipe says.
        answers_suffice: a split whose right answers are not published is answered and not scored; else it is an error.
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
    """Where everything an evaluation needs lies. `stores`: name of the box protocol ("" where there is one) -> store."""

    checkpoint: Path
    records: Path
    stores: dict[str, Path]
    retrieval_images: int
    captions_per_image: int
    shortlist: int
    train_split: str


def resolve_inputs(request: EvaluationRequest) -> EvaluationInputs:
    """Everything by convention: runs/TASK/best or last, and what that run's saved recipe names.

    Raises:
        CmalError: a piece is missing; the message says which command makes it. Of several, the first one to make.
    """
    run = request.checkpoint or request.runs / request.task
    recipe = _saved_recipe(run)
    folder = RECORD_FOLDERS.get(request.task, request.task)
    records = request.records or (Path(recipe.data.root) if recipe else request.data / folder)
    stores = _stores(request, recipe)
    if not records.is_dir():
        raise DataError(
            f"cannot evaluate {request.task}",
            f"there is no folder of records {records}",
            f"make it: {how_to_prepare(request.task)}",
        )
    boxes, store = next(iter(stores.items()))  # detected boxes may be absent, the others may not
    if not store.exists():
        raise DataError(
            f"cannot evaluate {request.task}",
            f"there is no region store {store}",
            f"make it: {how_to_extract(request.task, boxes, store)}",
        )
    checkpoint = next((run / name for name in ("best", "last") if (run / name).exists()), run)
    if not checkpoint.is_dir() or (checkpoint == run and (run / "recipe.yaml").is_file()):
        raise CheckpointError(
            f"cannot evaluate {request.task}",
            f"there is no run folder {run}" if not run.is_dir() else f"{run} holds no checkpoint yet",
            f"make it: {how_to_train(request)}",
        )
    present = {boxes: store for boxes, store in stores.items() if store.exists()}
    data = recipe.data if recipe else FinetuneDataSection()
    shortlist = data.shortlist if request.shortlist is None else request.shortlist
    limits = (data.retrieval_images, data.captions_per_image, shortlist)
    return EvaluationInputs(checkpoint, records, present, *limits, data.train_split)


def _saved_recipe(run: Path) -> FinetuneRecipe | None:
    for folder in (run, run.resolve().parent.parent):  # a run folder, or one of its checkpoints
        if (folder / "recipe.yaml").is_file():
            try:
                return load_recipe(FinetuneRecipe, folder / "recipe.yaml")
            except RecipeError:
                return None  # a pre-training run: zero-shot
    return None


def _stores(request: EvaluationRequest, recipe: FinetuneRecipe | None) -> dict[str, Path]:
    """Box protocol -> store: what was given, else what the recipe names, else the usual place."""
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
    """The command that makes the run."""
    if request.zero_shot:
        return "cmal pretrain recipes/scenes.yaml, or another recipe, and give its run with --checkpoint"
    return f"cmal finetune recipes/finetune/{request.task.replace('+', '_plus').replace('-', '_')}.yaml"
