"""What a forward reads: a batch of padded examples, and for pre-training what is masked in it. `cmal/data/` makes them.

Legend: B batch, T word pieces, R regions, K anchors chosen, P word pieces of all chosen anchors, M masked positions,
F raw region features.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

FILL_SWAP, FILL_MASK, FILL_KEEP = 0, 1, 2

Array = TypeVar("Array", np.ndarray, Tensor)
Value = TypeVar("Value")


@dataclass(frozen=True)
class MaskingPlan(Generic[Array]):
    """Which anchors were chosen and how their slots are filled: NumPy arrays for one example, tensors for a batch.

    Attributes:
        example, region: (K,) where the region of each chosen anchor is.
        fill: (K,) FILL_SWAP, FILL_MASK or FILL_KEEP.
        concept: (K,) integer concept; object and attribute concepts are different integers.
        is_attribute: (K,) bool, the role it was chosen in.
        piece_anchor: (P,) which anchor a word piece belongs to, ascending; every anchor has at least one.
        piece_position: (P,) index of that piece within its caption's T.
        duplicate_token_mask: (B, T) True = masked because it would give an answer away; (T,) for one example.
        duplicate_region_mask: (B, R) the same for regions; (R,) for one example.
        positive_anchor, positive_region: (Q,) all true regions of each anchor's concept in its own example, the anchor's
            own among them; the targets where the candidates are those of one example.
        positive_piece_anchor, positive_piece_position: (W,) all true word pieces likewise.
    """

    example: Array
    region: Array
    fill: Array
    concept: Array
    is_attribute: Array
    piece_anchor: Array
    piece_position: Array
    duplicate_token_mask: Array
    duplicate_region_mask: Array
    positive_anchor: Array
    positive_region: Array
    positive_piece_anchor: Array
    positive_piece_position: Array

    def __len__(self) -> int:
        return len(self.region)

    def swapped_slot_pairs(self: MaskingPlan[Tensor], tokens: int) -> Tensor:
        """(3, P') example, text slot and region slot per piece of the swapped anchors; region r is slot `tokens` + r."""
        example, region = self.example[self.piece_anchor], self.region[self.piece_anchor] + tokens
        return torch.stack([example, self.piece_position, region])[:, self.fill[self.piece_anchor] == FILL_SWAP]


@dataclass(frozen=True)
class MaskedInputs:
    """What the masked forward reads, and what its heads have to predict.

    Attributes:
        token_ids: (B, T) with MLM's replacements.
        word_example, word_position, word_labels: (M,) where a piece was masked, and its true id.
        zeroed_region_mask: (B, R) True = features zeroed for MRM.
        region_example, region_position: (M',) the regions that MRM predicts.
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
    plan: MaskingPlan[Tensor]


@dataclass(frozen=True)
class Batch:
    """One micro-batch of examples, padded.

    Attributes:
        ids: the B record ids.
        token_ids: (B, T) int64; token_mask: (B, T) True = real.
        features: (B, R, F) float32; boxes_unit: (B, R, 7), see `data/example.py`; region_mask: (B, R) True = real.
        image_size_px: (B, 2) float32 width and height, to bring boxes back to pixels.
        targets: what the task has to predict, by name; see the task.
        masked: inputs of the masked forward; None downstream.
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


def move(value: Value, device: torch.device | str) -> Value:
    """Tensors, and dataclasses and dictionaries of them, on a device; anything else unchanged."""
    return _moved(value, device)  # type: ignore[return-value]  # the kind of value stays


def _moved(value: object, device: torch.device | str) -> object:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = {field.name: _moved(getattr(value, field.name), device) for field in dataclasses.fields(value)}
        return type(value)(**changed)
    if isinstance(value, dict):
        return {key: _moved(item, device) for key, item in value.items()}
    return value
