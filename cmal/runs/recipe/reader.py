"""YAML -> frozen dataclasses: what a recipe may say, with types, bounds and defaults; the only reader of YAML.

A recipe is one page: sections, one level of nesting, every number with its unit in its name or its comment. All faults of
a recipe are gathered and shown together, each with its line and the nearest known key. `--set section.key=value` replaces
one value and goes through the same checks.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from cmal.errors import RecipeError, list_errors, short, shown

RecipeType = TypeVar("RecipeType")
MAX_BYTES = 1 << 20
OFTEN_MEANT = {  # what other toolkits call it: what a recipe calls it
    **dict.fromkeys(("learning_rate", "peak_lr"), "lr"),
    **dict.fromkeys(("max_steps", "num_steps", "total_steps", "iterations"), "steps"),
    **dict.fromkeys(("output", "output_dir", "out_dir", "run"), "out"),
    **dict.fromkeys(("hidden_size", "d_model", "dim"), "width"),
    **dict.fromkeys(("warmup", "num_warmup_steps"), "warmup_steps"),
    **dict.fromkeys(("wd", "l2"), "weight_decay"),
    **dict.fromkeys(("grad_clip", "max_grad_norm"), "clip_norm"),
}


def number(default: Any, least: float | None = None, most: float | None = None) -> Any:
    """A field with bounds, both included."""
    return field(default=default, metadata={"least": least, "most": most})


def choice(default: str, *options: str) -> Any:
    """A field that takes one of a few words."""
    return field(default=default, metadata={"options": options})


def share(default: float) -> Any:
    """A field between 0 and 1."""
    return number(default, 0.0, 1.0)


@dataclass(frozen=True)
class ModelSection:
    """Sizes of the three encoders."""

    width: int = number(768, 8)
    heads: int = number(12, 1)
    inner: int = number(3072, 8)
    text_layers: int = number(6, 0)
    visual_layers: int = number(6, 0)
    unified_layers: int = number(6, 1)
    dropout: float = share(0.1)
    hypersphere: bool = True  # False leaves the uni-modal vectors where their last layer norm puts them
    max_tokens: int = number(60, 3, 512)
    text_checkpoint: str = ""  # a BERT-like checkpoint by name or folder; its vocabulary too
    vocabulary_size: int = number(2000, 100)  # word pieces learned from the captions, where there is no checkpoint


@dataclass(frozen=True)
class PretrainDataSection:
    """Where pairs and regions are."""

    records: tuple[str, ...] = ()
    regions: str = ""
    validation: str = ""  # records to watch the losses on; "" for none
    pairs_share: float = share(1.0)  # share of the images used, the same ones for every run of a seed
    workers: int = number(-1, -1, 256)  # loader processes a device; 0 loads in the training process, -1 chooses


@dataclass(frozen=True)
class AnchorsSection:
    """Which anchors are used."""

    objects: bool = True
    attributes: bool = True
    tag_noise: float = share(0.0)  # share of the tags that are drawn anew, to see what wrong tags cost
    thesaurus: tuple[str, ...] = ()  # files beside the one that comes with the package


@dataclass(frozen=True)
class PromptSection:
    """The associative prompt."""

    anchor_rate: float = share(0.5)
    mask_duplicates: bool = True
    duplicate_iou: float = share(0.4)
    attend_across_swap: bool = True  # of a swapped anchor the two slots see each other


@dataclass(frozen=True)
class FillSection:
    """How a chosen anchor's slots are filled; the three sum to one."""

    swap: float = share(0.8)
    mask: float = share(0.1)
    keep: float = share(0.1)


@dataclass(frozen=True)
class ObjectivesSection:
    """Weights of the losses, 0 = off, and what they ask."""

    mlm: float = number(1.0, 0)
    mrm_class: float = number(1.0, 0)
    mrm_feature: float = number(1.0, 0)
    itm: float = number(1.0, 0)
    amc: float = number(1.0, 0)
    itc: float = number(0.0, 0)
    candidates: str = choice("both", "both", "batch", "example")
    amc_at: str = choice("both", "both", "unified")  # AMC between the uni-modal vectors too, or the unified alone
    word_rate: float = share(0.15)
    region_rate: float = share(0.15)
    region_iou: float = share(0.4)


@dataclass(frozen=True)
class OptimizerSection:
    """AdamW with linear warm-up and linear decay to zero."""

    lr: float = number(1e-4, 0)
    head_lr_factor: float = number(1.0, 0)  # a new head's learning rate over the model's
    warmup_steps: int = number(1000, 0)
    weight_decay: float = number(0.01, 0)
    betas: tuple[float, ...] = (0.9, 0.98)
    clip_norm: float = number(5.0, 0)


@dataclass(frozen=True)
class TrainSection:
    """The budget and what is kept of it."""

    steps: int = number(1000, 1)
    batch_size: int = number(64, 1)  # examples per optimizer step, over all devices
    micro_batch_size: int = number(64, 1)  # examples whose losses see each other; divides batch_size
    seed: int = number(7, 0, 2**31)
    report_every: int = number(10, 1)
    save_every: int = number(1000, 1)
    keep_checkpoints: int = number(2, 1)
    validate_every: int = number(0, 0)  # steps; 0 = at the end only
    precision: str = choice("auto", "auto", "float32", "bfloat16")  # auto: bfloat16 autocast on CUDA, else float32
    strategy: str = choice(
        "ddp", "ddp", "fsdp"
    )  # fsdp: parameters and optimizer state are shared out among the devices
    compile: bool = False
    checkpoint_activations: bool = False


@dataclass(frozen=True)
class PretrainRecipe:
    """What `cmal pretrain` reads."""

    out: str = ""
    model: ModelSection = field(default_factory=ModelSection)
    data: PretrainDataSection = field(default_factory=PretrainDataSection)
    anchors: AnchorsSection = field(default_factory=AnchorsSection)
    prompt: PromptSection = field(default_factory=PromptSection)
    fill: FillSection = field(default_factory=FillSection)
    objectives: ObjectivesSection = field(default_factory=ObjectivesSection)
    optimizer: OptimizerSection = field(default_factory=OptimizerSection)
    train: TrainSection = field(default_factory=TrainSection)

    def errors(self) -> Iterable[str]:
        """What no single field can tell."""
        if abs(self.fill.swap + self.fill.mask + self.fill.keep - 1) > 1e-6:
            yield f"fill: swap + mask + keep is {self.fill.swap + self.fill.mask + self.fill.keep:g}, not 1"
        if not self.data.records:
            yield "data.records: at least one records file is needed"
        if not self.data.regions:
            yield "data.regions: a region store is needed"
        losses = ("mlm", "mrm_class", "mrm_feature", "itm", "amc", "itc")
        if not any(getattr(self.objectives, name) for name in losses):
            yield "objectives: every weight is 0, nothing would be learned"
        if self.objectives.amc and not (self.anchors.objects or self.anchors.attributes):
            yield "objectives.amc: needs anchors.objects or anchors.attributes"
        yield from _common_errors(self.out, self.train, self.model)


@dataclass(frozen=True)
class FinetuneDataSection:
    """Where a task's records and regions are."""

    root: str = ""
    regions: str = ""
    detected_regions: str = ""  # referring expressions: a second store, of detected boxes, scored beside the first
    train_split: str = "train"  # or several: train+val
    validation_split: str = "val"  # scored every train.validate_every steps; the best checkpoint is kept
    validation_records: int = number(0, 0)  # of it so many, drawn by the seed; 0 = all
    max_tokens: int = number(60, 3, 512)
    max_records: int = number(0, 0)  # few-shot: the first so many training records, drawn by the seed; 0 = all
    retrieval_images: int = number(0, 0)  # retrieval is scored on the first so many images; 0 = all
    captions_per_image: int = number(5, 1)  # retrieval is scored on the first so many captions of each
    shortlist: int = number(0, 0)  # `cmal eval`: a cheap first ranking leaves so many candidates a query; 0 = all pairs
    hard_negatives: int = number(1, 1, 1024)  # retrieval: mismatches tried for each one trained on; 1 = drawn evenly
    workers: int = number(-1, -1, 256)


@dataclass(frozen=True)
class FinetuneRecipe:
    """What `cmal finetune` reads."""

    task: str = ""
    out: str = ""
    init_from: str = ""  # a run of `cmal pretrain` (its best or last checkpoint), or one of its checkpoints
    init: str = choice("pretrained", "pretrained", "random")  # random: its sizes and vocabulary, fresh weights
    dropout: float = share(0.1)
    data: FinetuneDataSection = field(default_factory=FinetuneDataSection)
    optimizer: OptimizerSection = field(default_factory=OptimizerSection)
    train: TrainSection = field(default_factory=TrainSection)

    def errors(self) -> Iterable[str]:
        """What no single field can tell."""
        if not self.task:
            yield "task: which task to fine-tune on is missing"
        for name in ("root", "regions"):
            if not getattr(self.data, name):
                yield f"data.{name}: is missing"
        if not self.init_from:
            yield "init_from: a checkpoint folder is needed (with `init: random` only its sizes are used)"
        if self.train.validate_every % self.train.save_every:
            yield (
                f"train.validate_every: {self.train.validate_every} is no multiple of train.save_every "
                f"{self.train.save_every}, so the best checkpoint could not be kept"
            )
        yield from _common_errors(self.out, self.train)


def _common_errors(out: str, train: TrainSection, model: ModelSection | None = None) -> Iterable[str]:
    if not out:
        yield "out: the run folder is missing"
    if train.batch_size % train.micro_batch_size:
        yield f"train.micro_batch_size: {train.micro_batch_size} does not divide train.batch_size {train.batch_size}"
    if model is not None and model.width % model.heads:
        yield f"model.heads: {model.heads} does not divide model.width {model.width}"


def load_recipe(kind: type[RecipeType], path: Path, overrides: Iterable[str] = ()) -> RecipeType:
    """Reads a recipe file and applies `key=value` overrides.

    Raises:
        RecipeError: the file cannot be read or is not YAML, or some keys or values are wrong; all of them are named.
    """
    tree, lines = _read_tree(Path(path))
    errors: list[str] = []
    for override in overrides:
        _override(tree, lines, override, errors)
    recipe = _section(kind, tree, "", lines, errors)
    if not errors:
        errors.extend(recipe.errors())
    if errors:
        raise RecipeError(f"cannot use the recipe {path}", list_errors(errors), "mend this and run again")
    return recipe


def recipe_as_dict(recipe: object) -> dict[str, Any]:
    """The recipe as plain containers, ready for YAML or JSON."""
    return _plain(dataclasses.asdict(recipe))


def recipe_text(recipe: object) -> str:
    """The resolved recipe as YAML; `load_recipe` reads it back to an equal recipe."""
    return yaml.safe_dump(recipe_as_dict(recipe), sort_keys=False, allow_unicode=True)


def recipe_differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Lines "key: old -> new" for every value that differs."""
    lines = []
    for key in dict.fromkeys([*old, *new]):
        before, after = old.get(key, "(absent)"), new.get(key, "(absent)")
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += recipe_differences(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {before} -> {after}")
    return lines


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 3e-5 as text; a recipe means the number. Aliases, which can blow up, are refused."""

    def compose_node(self, parent: Any, index: Any) -> yaml.Node:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"line {self.peek_event().start_mark.line + 1}: aliases are not used in recipes")
        return super().compose_node(parent, index)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


# what PyYAML lets through of a tagged scalar that is none: `!!bool maybe`, `!!int ''`, `!!timestamp x`
_BAD_SCALAR = (ValueError, KeyError, IndexError, AttributeError, TypeError)


def _read_tree(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """The file as nested dictionaries, and the line of every dotted key."""
    hint = "see recipes/ for examples"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RecipeError(f"cannot read the recipe {path}", "it is larger than a megabyte", hint)
        loader = _Loader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        lines: dict[str, int] = {}
        _note_lines(node, "", lines)
        tree = loader.construct_document(node) if node is not None else {}
    except OSError as error:
        raise RecipeError(f"cannot read the recipe {path}", f"the system says: {error.strerror}", hint) from error
    except (yaml.YAMLError, *_BAD_SCALAR, RecursionError) as error:
        found = " ".join(str(error).split()) or type(error).__name__
        raise RecipeError(f"cannot read the recipe {path}", f"it is not plain YAML: {found}", hint) from error
    if not isinstance(tree, dict):
        raise RecipeError(f"cannot read the recipe {path}", "it is not a set of keys and values", hint)
    return tree, lines


def _note_lines(node: yaml.Node | None, prefix: str, lines: dict[str, int]) -> None:
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        name = f"{prefix}{key.value}" if isinstance(key, yaml.ScalarNode) else f"{prefix}{type(key).__name__}"
        if name in lines:
            raise ValueError(f'line {key.start_mark.line + 1}: "{short(name)}" is given twice')
        lines[name] = key.start_mark.line + 1
        _note_lines(value, f"{name}.", lines)


def _override(tree: dict[str, Any], lines: dict[str, int], text: str, errors: list[str]) -> None:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        errors.append(f"--set {short(text)}: should be KEY=VALUE, e.g. train.steps=100")
        return
    *parents, last = name.strip().split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            errors.append(f"--set {short(text)}: {short(parent)} is no section")
            return
    try:
        tree[last] = yaml.load(value, _Loader)  # a SafeLoader: no object is built
    except (yaml.YAMLError, *_BAD_SCALAR, RecursionError) as error:
        found = " ".join(str(error).split()) or type(error).__name__
        errors.append(f"--set {short(text)}: {found[:200]}")
    lines[name.strip()] = 0


def _where(name: str, lines: Mapping[str, int]) -> str:
    line = lines.get(name, 0)
    return f"line {line}: " if line else "--set: " if name in lines else ""


def _section(
    kind: type[RecipeType], tree: dict[str, Any], prefix: str, lines: Mapping[str, int], errors: list[str]
) -> Any:
    """One dataclass from its dictionary; faults are appended and the default stands in."""
    known = {f.name: f for f in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    values = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if key not in known:
            errors.append(_unknown_key(name, str(key), list(known), lines))
        elif dataclasses.is_dataclass(hints[key]):
            if isinstance(value, dict):
                values[key] = _section(hints[key], value, f"{name}.", lines, errors)
            else:
                errors.append(f'{_where(name, lines)}"{name}" is a section of keys, found {shown(value)}')
        else:
            try:
                values[key] = _value(value, hints[key], known[key].metadata)
            except ValueError as error:
                errors.append(f'{_where(name, lines)}"{name}" {error}')
    return kind(**values)


def _unknown_key(name: str, key: str, known: list[str], lines: Mapping[str, int]) -> str:
    close = [OFTEN_MEANT[key]] if OFTEN_MEANT.get(key) in known else []
    close = close or difflib.get_close_matches(key, known, n=1, cutoff=0.4)
    hint = f'; did you mean "{close[0]}"?' if close else ""
    return f'{_where(name, lines)}unknown key "{short(name)}" (known: {", ".join(known)}){hint}'


def _value(value: Any, expected: Any, limits: Mapping[str, Any]) -> Any:
    """The value in the type the field has, or a ValueError that ends a sentence."""
    if typing.get_origin(expected) is tuple:
        inner = typing.get_args(expected)[0]
        items = value if isinstance(value, list) else [value]
        return tuple(_value(item, inner, {}) for item in items)
    names: dict[type | types.UnionType, str] = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
    }
    if expected is str and value is None:
        value = ""  # an empty value in YAML
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 1 << 1000 else math.inf
    if type(value) is not expected:
        raise ValueError(f"should be {names[expected]}, found {shown(value)}")
    if expected in (int, float) and not abs(value) < float("inf"):
        raise ValueError(f"should be finite, found {shown(value)}")
    least, most = limits.get("least"), limits.get("most")
    if least is not None and value < least:
        raise ValueError(f"should be at least {least}, found {shown(value)}")
    if most is not None and value > most:
        raise ValueError(f"should be at most {most}, found {shown(value)}")
    options = limits.get("options")
    if options and value not in options:
        raise ValueError(f"should be one of {', '.join(options)}, found {shown(value)}")
    return value
