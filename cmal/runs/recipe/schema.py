"""The sections of a recipe as frozen dataclasses: every key with its type, bounds, default and unit.

`reader.py` fills them from YAML. A recipe's `errors` method checks what involves several keys.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

OLD_KEYS = {  # still accepted: key of an earlier version -> its name now
    "train.group_size": "train.micro_batch_size",
    "prompt.mask_twins": "prompt.mask_duplicates",
    "prompt.twin_iou": "prompt.duplicate_iou",
    "prompt.partners_in_sight": "prompt.attend_across_swap",
}
OTHER_TOOLKITS = {  # not accepted, but named in the error: key of another toolkit -> our key
    **dict.fromkeys(("learning_rate", "peak_lr"), "lr"),
    **dict.fromkeys(("max_steps", "num_steps", "total_steps", "iterations"), "steps"),
    **dict.fromkeys(("output", "output_dir", "out_dir", "run"), "out"),
    **dict.fromkeys(("hidden_size", "d_model", "dim"), "width"),
    **dict.fromkeys(("warmup", "num_warmup_steps"), "warmup_steps"),
    **dict.fromkeys(("wd", "l2"), "weight_decay"),
    **dict.fromkeys(("grad_clip", "max_grad_norm"), "clip_norm"),
}


def number(default: Any, least: float | None = None, most: float | None = None) -> Any:
    """A dataclass field with inclusive bounds."""
    return field(default=default, metadata={"least": least, "most": most})


def choice(default: str, *options: str) -> Any:
    """A dataclass field that accepts only the listed strings."""
    return field(default=default, metadata={"options": options})


def share(default: float) -> Any:
    """A dataclass field between 0 and 1."""
    return number(default, 0.0, 1.0)


@dataclass(frozen=True)
class ModelSection:
    """Sizes of the three encoders."""

    width: int = number(768, 8)
    heads: int = number(12, 1)
    inner: int = number(3072, 8)  # width of the feed-forward layers
    text_layers: int = number(6, 0)
    visual_layers: int = number(6, 0)
    unified_layers: int = number(6, 1)
    dropout: float = share(0.1)
    hypersphere: bool = True  # False: uni-modal vectors are not projected onto a hypersphere
    max_tokens: int = number(60, 3, 512)  # word pieces; longer captions are cut at the end
    text_checkpoint: str = ""  # name or folder of a BERT-like checkpoint; its vocabulary is used too
    vocabulary_size: int = number(2000, 100)  # word pieces learned from the captions, without a text_checkpoint


@dataclass(frozen=True)
class PretrainDataSection:
    """Paths of the image-text pairs and the region store."""

    records: tuple[str, ...] = ()
    regions: str = ""
    validation: str = ""  # records for the validation losses; "" = none
    pairs_share: float = share(1.0)  # share of the images to use; the same seed selects the same images
    workers: int = number(-1, -1, 256)  # loader processes per device; 0 = load in the training process, -1 = automatic


@dataclass(frozen=True)
class AnchorsSection:
    """Which anchors are used."""

    objects: bool = True
    attributes: bool = True
    tag_noise: float = share(0.0)  # share of the object tags that are replaced by random ones
    thesaurus: tuple[str, ...] = ()  # files to add to the packaged thesaurus


@dataclass(frozen=True)
class PromptSection:
    """The associative prompt."""

    anchor_rate: float = share(0.5)  # share of an example's anchors that are chosen
    mask_duplicates: bool = True  # mask other regions and words of a chosen anchor's concept
    duplicate_iou: float = share(0.4)  # a region that overlaps the anchor's by more is a duplicate too
    attend_across_swap: bool = True  # attention between the two slots of a swapped anchor


@dataclass(frozen=True)
class FillSection:
    """How a chosen anchor's two slots are filled; the three shares sum to 1."""

    swap: float = share(0.8)
    mask: float = share(0.1)
    keep: float = share(0.1)


@dataclass(frozen=True)
class ObjectivesSection:
    """Weights of the losses (0 = off) and their settings."""

    mlm: float = number(1.0, 0)
    mrm_class: float = number(1.0, 0)
    mrm_feature: float = number(1.0, 0)
    itm: float = number(1.0, 0)
    amc: float = number(1.0, 0)
    itc: float = number(0.0, 0)
    candidates: str = choice("both", "both", "batch", "example")  # of AMC: the micro-batch, the example, or both
    amc_at: str = choice("both", "both", "unified")  # both: also between the uni-modal vectors
    word_rate: float = share(0.15)  # share of the words that MLM masks
    region_rate: float = share(0.15)  # share of the regions that MRM masks
    region_iou: float = share(0.4)  # regions that overlap a masked one by more are zeroed too


@dataclass(frozen=True)
class OptimizerSection:
    """AdamW with linear warm-up and linear decay to zero."""

    lr: float = number(1e-4, 0)
    head_lr_factor: float = number(1.0, 0)  # learning rate of a new head, relative to the model's
    warmup_steps: int = number(1000, 0)
    weight_decay: float = number(0.01, 0)
    betas: tuple[float, ...] = (0.9, 0.98)
    clip_norm: float = number(5.0, 0)  # 0 = no clipping


@dataclass(frozen=True)
class TrainSection:
    """Length of the training, batch sizes, checkpoints, and how devices are used."""

    steps: int = number(1000, 1)
    batch_size: int = number(64, 1)  # examples per optimizer step, over all devices
    micro_batch_size: int = number(64, 1)  # examples per forward pass; losses compare these; divides batch_size
    seed: int = number(7, 0, 2**31)
    report_every: int = number(10, 1)
    save_every: int = number(1000, 1)
    keep_checkpoints: int = number(2, 1)
    validate_every: int = number(0, 0)  # steps; 0 = at the end only
    precision: str = choice("auto", "auto", "float32", "bfloat16")  # auto: bfloat16 autocast on CUDA, else float32
    strategy: str = choice("ddp", "ddp", "fsdp")  # fsdp: parameters and optimizer state are sharded over the devices
    compile: bool = False
    checkpoint_activations: bool = False


@dataclass(frozen=True)
class PretrainRecipe:
    """The recipe of `cmal pretrain`."""

    out: str = ""
    model: ModelSection = ModelSection()
    data: PretrainDataSection = PretrainDataSection()
    anchors: AnchorsSection = AnchorsSection()
    prompt: PromptSection = PromptSection()
    fill: FillSection = FillSection()
    objectives: ObjectivesSection = ObjectivesSection()
    optimizer: OptimizerSection = OptimizerSection()
    train: TrainSection = TrainSection()

    def errors(self) -> Iterable[str]:
        """One line for every error that involves several keys, or a missing one."""
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
        yield from _common_errors(self.out, self.train, self.optimizer.betas)
        if self.model.width % self.model.heads:
            yield f"model.heads: {self.model.heads} does not divide model.width {self.model.width}"


@dataclass(frozen=True)
class FinetuneDataSection:
    """Paths of a task's records and regions, and limits on how many records are used."""

    root: str = ""
    regions: str = ""
    detected_regions: str = ""  # referring expressions: another store, of detected boxes, which is scored as well
    train_split: str = "train"  # several splits: train+val
    validation_split: str = "val"  # scored every train.validate_every steps; the best checkpoint is kept
    validation_records: int = number(0, 0)  # size of a random subset of it; 0 = all
    max_tokens: int = number(60, 3, 512)
    max_records: int = number(0, 0)  # few-shot: size of a random subset of the training records; 0 = all
    retrieval_images: int = number(0, 0)  # retrieval is scored on this many first images; 0 = all
    captions_per_image: int = number(5, 1)  # retrieval is scored on this many first captions of each image
    shortlist: int = number(0, 0)  # `cmal eval`: candidates per query that a first ranking keeps; 0 = all pairs
    hard_negatives: int = number(1, 1, 1024)  # retrieval: mismatches tried for each one trained on; 1 = random ones
    workers: int = number(-1, -1, 256)


@dataclass(frozen=True)
class FinetuneRecipe:
    """The recipe of `cmal finetune`."""

    task: str = ""
    out: str = ""
    init_from: str = ""  # a run of `cmal pretrain` (its best or last checkpoint), or one of its checkpoints
    init: str = choice("pretrained", "pretrained", "random")  # random: sizes and vocabulary only, new weights
    dropout: float = share(0.1)
    data: FinetuneDataSection = FinetuneDataSection()
    optimizer: OptimizerSection = OptimizerSection()
    train: TrainSection = TrainSection()

    def errors(self) -> Iterable[str]:
        """One line for every error that involves several keys, or a missing one."""
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
        yield from _common_errors(self.out, self.train, self.optimizer.betas)


def _common_errors(out: str, train: TrainSection, betas: tuple[float, ...]) -> Iterable[str]:
    if not out:
        yield "out: the run folder is missing"
    if train.batch_size % train.micro_batch_size:
        yield f"train.micro_batch_size: {train.micro_batch_size} does not divide train.batch_size {train.batch_size}"
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        yield f"optimizer.betas: two numbers from 0 up to 1 are needed, found {list(betas)}"
