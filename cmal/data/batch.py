"""A list of Examples becomes a Batch: padding and masks, nothing else.

Legend: B batch, T word pieces, R regions, K anchors chosen, M masked places, F raw region features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cmal.data.example import Example
from cmal.data.masking import ExampleMasking
from cmal.model.prompt import PromptPlan


@dataclass(frozen=True)
class MaskedInputs:
    """What the masked forward reads and is asked.

    Attributes:
        token_ids: (B, T) with MLM's replacements.
        word_example, word_position, word_labels: (M,) where a piece was masked, and its true id.
        zeroed_region_mask: (B, R) True = features zeroed for MRM.
        region_example, region_position: (M',) the regions MRM asks for.
        region_top_ids, region_top_probs: (M', 10) the detector's classes there.
        plan: the chosen anchors.
    """

    token_ids: Tensor
    word_example: Tensor
    word_position: Tensor
    word_labels: Tensor
    zeroed_region_mask: Tensor
    region_example: Tensor
    region_position: Tensor
    region_top_ids: Tensor
    region_top_probs: Tensor
    plan: PromptPlan


@dataclass(frozen=True)
class Batch:
    """One group of examples, padded.

    Attributes:
        ids: the B record ids.
        token_ids: (B, T) int64; token_mask: (B, T) True = real.
        features: (B, R, F) float32; boxes_unit: (B, R, 7), see `examples.py`; region_mask: (B, R) True = real.
        image_size_px: (B, 2) float32 width and height, to bring boxes back to pixels.
        targets: what the task asks, by name; see the task.
        masked: the masked forward's inputs; None downstream.
        text_of: (B,) whose caption each image gets in image-text matching; None downstream.
        is_match: (B,) True = the caption is of this image; None downstream.
        same_image: (B, B) True where two examples show one image; None downstream.
    """

    ids: tuple[str, ...]
    token_ids: Tensor
    token_mask: Tensor
    features: Tensor
    boxes_unit: Tensor
    region_mask: Tensor
    image_size_px: Tensor
    targets: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    masked: MaskedInputs | None = None
    text_of: Tensor | None = None
    is_match: Tensor | None = None
    same_image: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """What `Cmal.encode` takes, in its order, nothing masked."""
        return self.token_ids, self.token_mask, self.features, self.boxes_unit, self.region_mask

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with every tensor on `device`."""
        return move(self, device)


def move(value: object, device: torch.device | str) -> object:
    """Tensors, and dataclasses and dictionaries of them, onto a device; anything else as it is."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if dataclasses.is_dataclass(value):
        changed = {f.name: move(getattr(value, f.name), device) for f in dataclasses.fields(value)}
        return type(value)(**changed)
    if isinstance(value, dict):
        return {key: move(item, device) for key, item in value.items()}
    return value


def pad(arrays: Sequence[np.ndarray], dtype: torch.dtype) -> Tensor:
    """Arrays (L_i, ...) -> (B, max L_i, ...), zeros after each."""
    longest = max(len(a) for a in arrays)
    out = torch.zeros(len(arrays), longest, *arrays[0].shape[1:], dtype=dtype)
    for row, array in zip(out.numpy(), arrays):  # written through NumPy: torch takes ten times as long for a short row
        row[: len(array)] = array
    return out


def lengths_mask(lengths: Sequence[int]) -> Tensor:
    """(B, max length) True for the first `length` places of each row."""
    return torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]


def make_batch(examples: Sequence[Example]) -> Batch:
    """Pads examples into a batch without anything masked: downstream tasks and inference."""
    return Batch(
        ids=tuple(e.id for e in examples),
        token_ids=pad([e.token_ids for e in examples], torch.int64),
        token_mask=lengths_mask([len(e.token_ids) for e in examples]),
        features=pad([e.features for e in examples], torch.float32),
        boxes_unit=pad([e.boxes_unit for e in examples], torch.float32),
        region_mask=lengths_mask([len(e.boxes_unit) for e in examples]),
        image_size_px=torch.tensor([e.image_wh_px for e in examples], dtype=torch.float32),
    )


def make_pretraining_batch(
    examples: Sequence[Example], draws: Sequence[ExampleMasking], text_of: np.ndarray, is_match: np.ndarray
) -> Batch:
    """Pads examples together with what was drawn for each; `text_of` and `is_match` are (B,), drawn for the group."""
    batch = make_batch(examples)
    _, image_index = np.unique([e.image_id for e in examples], return_inverse=True)
    return dataclasses.replace(
        batch,
        masked=_masked_inputs(examples, draws),
        text_of=torch.from_numpy(text_of),
        is_match=torch.from_numpy(is_match),
        same_image=torch.from_numpy(image_index[:, None] == image_index[None, :]),
    )


def _masked_inputs(examples: Sequence[Example], draws: Sequence[ExampleMasking]) -> MaskedInputs:
    chosen_regions = [e.class_top_ids[d.masked_regions] for e, d in zip(examples, draws)]
    chosen_probs = [e.class_top_probs[d.masked_regions] for e, d in zip(examples, draws)]
    return MaskedInputs(
        token_ids=pad([d.masked_token_ids for d in draws], torch.int64),
        word_example=_example_index([d.masked_positions for d in draws]),
        word_position=_join([d.masked_positions for d in draws]),
        word_labels=_join([e.token_ids[d.masked_positions] for e, d in zip(examples, draws)]),
        zeroed_region_mask=pad([d.zeroed_region_mask for d in draws], torch.bool),
        region_example=_example_index([d.masked_regions for d in draws]),
        region_position=_join([d.masked_regions for d in draws]),
        region_top_ids=_join(chosen_regions),
        region_top_probs=torch.from_numpy(np.concatenate(chosen_probs).astype(np.float32)),
        plan=join_plans(draws),
    )


def join_plans(draws: Sequence[ExampleMasking]) -> PromptPlan:
    """The chosen anchors of all examples as one plan; indices of anchors are shifted, those within an example kept."""
    counts = [len(d.anchor_regions) for d in draws]
    first_anchor = np.concatenate([[0], np.cumsum(counts)[:-1]])
    shifted = {
        name: _join([getattr(d, name) + start for d, start in zip(draws, first_anchor)])
        for name in ("piece_anchor", "positive_anchor", "positive_piece_anchor")
    }
    return PromptPlan(
        example=_example_index([d.anchor_regions for d in draws]),
        region=_join([d.anchor_regions for d in draws]),
        fill=_join([d.anchor_fills for d in draws]),
        concept=_join([d.anchor_concepts for d in draws]),
        is_attribute=_join([d.anchor_is_attribute for d in draws]).bool(),
        piece_position=_join([d.piece_position for d in draws]),
        duplicate_token_mask=pad([d.duplicate_token_mask for d in draws], torch.bool),
        duplicate_region_mask=pad([d.duplicate_region_mask for d in draws], torch.bool),
        positive_region=_join([d.positive_region for d in draws]),
        positive_piece_position=_join([d.positive_piece_position for d in draws]),
        **shifted,
    )


def _join(arrays: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate(arrays).astype(np.int64))


def _example_index(arrays: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.repeat(np.arange(len(arrays)), [len(a) for a in arrays]))
