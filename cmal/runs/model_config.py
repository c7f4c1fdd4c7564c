"""`config.json` beside a checkpoint's weights: sizes, heads, task, labels, detector; in the form Hugging Face reads.

A checkpoint of an earlier version has `model.json` instead, with the same content and without `model_type`, `id2label`
and `label2id`.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cmal.errors import CheckpointError, shown
from cmal.io.files import write_json
from cmal.model.cmal import build_cmal
from cmal.model.pretraining import OBJECTIVES
from cmal.runs.recipe.schema import ModelSection

CONFIG = "config.json"
OLD_CONFIG = "model.json"
OLD_FIELDS = {"partners_in_sight": "attend_across_swap"}
MAX_SIZE = 1 << 20  # upper bound on every size in a checkpoint: refuses absurd values before memory is allocated
TYPES = {"sizes": dict, "weights": dict, "labels": tuple, "classes": int, "attend_across_swap": bool}  # others: str


@dataclass(frozen=True)
class ModelConfig:
    """What is needed to rebuild a model around its weights.

    Attributes:
        kind: "pretraining" or "task".
        sizes: arguments of `build_cmal`.
        weights, candidates, amc_at, classes: arguments of the pre-training heads.
        attend_across_swap: as in the pre-training recipe.
        task, labels: of a fine-tuned model; the labels in the order of the head's outputs.
        detector: the detector whose regions it was trained on.
        leakage: what the pre-training records' manifests say about evaluation images; a fine-tuned model keeps it.
    """

    kind: str
    sizes: dict[str, Any]
    weights: dict[str, float] = field(default_factory=dict)
    candidates: str = "batch"
    amc_at: str = "unified"
    classes: int = 0
    attend_across_swap: bool = True
    task: str = ""
    labels: tuple[str, ...] = ()
    detector: str = ""
    leakage: str = ""

    def write(self, folder: Path) -> None:
        """Writes config.json, and removes the file of an earlier version, which `read` would prefer."""
        ours = dataclasses.asdict(self)
        labels = ours.pop("labels")
        hugging_face = {
            "model_type": "cmal",
            "architectures": ["CmalModel"],
            "id2label": dict(enumerate(labels)),
            "label2id": {label: index for index, label in enumerate(labels)},
        }
        write_json(folder / CONFIG, hugging_face | ours)
        (folder / OLD_CONFIG).unlink(missing_ok=True)

    @classmethod
    def read(cls, folder: Path) -> ModelConfig:
        """The configuration in a checkpoint folder.

        Raises:
            CheckpointError: the folder holds no checkpoint, or its configuration is damaged.
        """
        path = next((p for p in (folder / OLD_CONFIG, folder / CONFIG) if p.is_file()), None)
        if path is None:
            raise CheckpointError(
                f"cannot load a checkpoint from {folder}",
                f"there is no {CONFIG} in it" if folder.is_dir() else "there is no such folder",
                "give a folder such as runs/NAME/last, made by: cmal pretrain RECIPE",
            )
        try:
            config = _from_json(json.loads(path.read_text(encoding="utf-8")))
            check_config(config)
            return config
        except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            found = f"{path.name}: {error!r}" if isinstance(error, KeyError) else f"{path.name}: {error}"
            raise CheckpointError(f"cannot load the checkpoint {folder}", found, "make it again") from error


def _from_json(values: dict[str, Any]) -> ModelConfig:
    if "model_type" in values:  # Hugging Face's form
        if values.pop("model_type") != "cmal":
            raise ValueError('"model_type" is not "cmal"')
        id2label = values.pop("id2label")
        values["labels"] = [id2label[str(index)] for index in range(len(id2label))]
        values = {name: value for name, value in values.items() if name not in ("architectures", "label2id")}
    values = {OLD_FIELDS.get(name, name): value for name, value in values.items()}
    return ModelConfig(**values | {"labels": tuple(values.get("labels", ()))})


def check_config(config: ModelConfig) -> None:
    """Raises ValueError when a field has the wrong type or value, or when no model can have these sizes."""
    for name, value in vars(config).items():
        if type(value) is not TYPES.get(name, str):
            raise ValueError(f'"{name}" is {shown(value)}')
    weights = config.weights.values()
    is_valid = {
        "kind": config.kind in ("pretraining", "task"),
        "weights": set(config.weights) <= set(OBJECTIVES)
        and all(type(weight) in (int, float) and 0 <= weight < math.inf for weight in weights),
        "candidates": config.candidates in ("batch", "example", "both"),
        "amc_at": config.amc_at in ("both", "unified"),
        "labels": all(isinstance(label, str) for label in config.labels),
        "classes": 0 <= config.classes <= MAX_SIZE,
    }
    for name in [name for name, valid in is_valid.items() if not valid]:
        raise ValueError(f'"{name}" is {shown(getattr(config, name))}')
    _check_sizes(config.sizes)


def _check_sizes(sizes: dict[str, Any]) -> None:
    names = [*inspect.signature(build_cmal).parameters]
    if set(sizes) != set(names):
        raise ValueError(f'"sizes" should have {", ".join(names)}; it has {", ".join(map(str, sizes))}')
    recipe_fields = {f.name: f for f in dataclasses.fields(ModelSection)}
    for name, value in sizes.items():
        limits = recipe_fields[name].metadata if name in recipe_fields else {"least": 1}
        kind = type(recipe_fields[name].default) if name in recipe_fields else int
        is_type = type(value) is kind or (kind is float and type(value) is int)
        if not is_type or not limits.get("least", 0) <= value <= (limits.get("most") or MAX_SIZE):
            raise ValueError(f'the size "{name}" is {shown(value)}')
    if sizes["width"] % sizes["heads"]:
        raise ValueError(f"{sizes['heads']} heads do not divide a width of {sizes['width']}")


def read_pretraining_config(folder: Path, purpose: str) -> ModelConfig:
    """The configuration of a pre-trained checkpoint.

    Args:
        purpose: completes the error's "cannot PURPOSE FOLDER", for example "fine-tune from".

    Raises:
        CheckpointError: the folder holds no checkpoint, or that of a fine-tuned task.
    """
    config = ModelConfig.read(folder)
    if config.kind != "pretraining":
        raise CheckpointError(
            f"cannot {purpose} {folder}",
            f'it is a checkpoint of the task "{config.task}"',
            "give a folder written by: cmal pretrain RECIPE",
        )
    return config
