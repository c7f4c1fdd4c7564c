"""Examples become a Batch (`model/inputs.py`): padding, masks and joined indices.

Legend: B batch, T word pieces, R regions, K anchors chosen, M masked positions, F raw region features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cmal.data.example import Example
from cmal.data.masking import ExampleMasking
from cmal.model.inputs import Batch, MaskedInputs, MaskingPlan


def pad(arrays: Sequence[np.ndarray], dtype: torch.dtype) -> Tensor:
    """Arrays (L_i, ...) -> (B, max L_i, ...), zeros after each."""
    longest = max(len(a) for a in arrays)
    out = torch.zeros(len(arrays), longest, *arrays[0].shape[1:], dtype=dtype)
    for row, array in zip(out.numpy(), arrays):  # through NumPy: torch takes ten times as long per short row
        row[: len(array)] = array
    return out


def lengths_mask(lengths: Sequence[int]) -> Tensor:
    """(B, longest) True at the first lengths[i] positions of row i."""
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
    examples: Sequence[Example], maskings: Sequence[ExampleMasking], text_of: np.ndarray, is_match: np.ndarray
) -> Batch:
    """Pads examples together with the masking of each; `text_of` and `is_match` (B,) are sampled for the micro-batch."""
    batch = make_batch(examples)
    _, image_index = np.unique([e.image_id for e in examples], return_inverse=True)
    return dataclasses.replace(
        batch,
        masked=_masked_inputs(examples, maskings),
        text_of=torch.from_numpy(text_of),
        is_match=torch.from_numpy(is_match),
        same_image=torch.from_numpy(image_index[:, None] == image_index[None, :]),
    )


def _masked_inputs(examples: Sequence[Example], maskings: Sequence[ExampleMasking]) -> MaskedInputs:
    pairs = list(zip(examples, maskings))
    top_probs = np.concatenate([e.class_top_probs[m.region_positions] for e, m in pairs])
    return MaskedInputs(
        token_ids=pad([m.token_ids for m in maskings], torch.int64),
        word_example=_example_index([m.word_positions for m in maskings]),
        word_position=_join([m.word_positions for m in maskings]),
        word_labels=_join([e.token_ids[m.word_positions] for e, m in pairs]),
        zeroed_region_mask=pad([m.zeroed_region_mask for m in maskings], torch.bool),
        region_example=_example_index([m.region_positions for m in maskings]),
        region_position=_join([m.region_positions for m in maskings]),
        region_top_ids=_join([e.class_top_ids[m.region_positions] for e, m in pairs]),
        region_top_probs=torch.from_numpy(top_probs.astype(np.float32)),
        plan=join_plans([m.plan for m in maskings]),
    )


def join_plans(plans: Sequence[MaskingPlan[np.ndarray]]) -> MaskingPlan[Tensor]:
    """The plans of all examples as one: anchor indices are shifted, positions within an example stay."""
    first_anchor = np.concatenate([[0], np.cumsum([len(plan) for plan in plans])[:-1]])

    def joined(name: str) -> Tensor:
        return _join([getattr(plan, name) for plan in plans])

    def shifted(name: str) -> Tensor:
        return _join([getattr(plan, name) + first for plan, first in zip(plans, first_anchor)])

    return MaskingPlan(
        example=_example_index([plan.region for plan in plans]),
        region=joined("region"),
        fill=joined("fill"),
        concept=joined("concept"),
        is_attribute=joined("is_attribute").bool(),
        piece_anchor=shifted("piece_anchor"),
        piece_position=joined("piece_position"),
        duplicate_token_mask=pad([plan.duplicate_token_mask for plan in plans], torch.bool),
        duplicate_region_mask=pad([plan.duplicate_region_mask for plan in plans], torch.bool),
        positive_anchor=shifted("positive_anchor"),
        positive_region=joined("positive_region"),
        positive_piece_anchor=shifted("positive_piece_anchor"),
        positive_piece_position=joined("positive_piece_position"),
    )


def _join(arrays: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate(arrays).astype(np.int64))


def _example_index(arrays: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.repeat(np.arange(len(arrays)), [len(a) for a in arrays]))
