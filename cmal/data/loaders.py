"""Data sets whose items are micro-batches: what a loader's worker process runs.

Everything random depends on the seed, the micro-batch and the example alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch.utils.data import Dataset

from cmal.data.batch import make_pretraining_batch
from cmal.data.example import ExampleBuilder
from cmal.data.masking import MaskingConfig, mask_example, sample_matching
from cmal.data.micro_batches import MicroBatch
from cmal.data.records import ImageTextRecord, PairRecord, Record
from cmal.model.inputs import Batch

MICRO_BATCH_STREAM, EXAMPLE_STREAM, TASK_STREAM = 1, 2, 3  # separate streams of random numbers


class PretrainingData(Dataset):
    """`data[micro_batch]` is (micro_batch, Batch) with everything masked that pre-training masks.

    Args:
        records: image-text pairs.
        builder: with an anchor finder.
        masking: the recipe's rates.
        seed: of everything random.
    """

    def __init__(self, records: Sequence[ImageTextRecord], builder: ExampleBuilder, masking: MaskingConfig, seed: int):
        self.records, self.builder, self.masking, self.seed = records, builder, masking, seed

    def lengths(self) -> np.ndarray:
        """(N,) an estimate of each example's sequence length: a word per five letters, and its regions."""
        return np.array([len(r.caption) // 5 + self.builder.store.regions_of(r.image_id) for r in self.records])

    def __getitem__(self, micro_batch: MicroBatch) -> tuple[MicroBatch, Batch]:
        pieces = self.builder.word_pieces
        records = [self.records[i] for i in micro_batch.indices]
        examples = [self.builder.build(r.id, r.image_id, r.caption) for r in records]
        maskings = [
            mask_example(
                example,
                self.masking,
                pieces.mask_id,
                len(pieces),
                np.random.default_rng([self.seed, EXAMPLE_STREAM, micro_batch.epoch, index]),
            )
            for example, index in zip(examples, micro_batch.indices)
        ]
        generator = np.random.default_rng([self.seed, MICRO_BATCH_STREAM, micro_batch.number])
        text_of, is_match = sample_matching([r.image_id for r in records], generator)
        return micro_batch, make_pretraining_batch(examples, maskings, text_of, is_match)


MakeBatch = Callable[[Sequence[Record], ExampleBuilder, np.random.Generator], Batch]


class TaskData(Dataset):
    """`data[micro_batch]` is (micro_batch, Batch) as a task makes it.

    Args:
        records: the task's records.
        builder: without an anchor finder.
        make_batch: the task's method.
        seed: of everything random.
    """

    def __init__(self, records: Sequence[Record], builder: ExampleBuilder, make_batch: MakeBatch, seed: int):
        self.records, self.builder, self.make_batch, self.seed = records, builder, make_batch, seed

    def lengths(self) -> np.ndarray:
        """(N,) an estimate of each example's sequence length."""
        return np.array([_text_length(r) // 5 + self._regions(r) for r in self.records])

    def _regions(self, record: Record) -> int:
        return self.builder.store.regions_of(
            record.left_image_id if isinstance(record, PairRecord) else record.image_id
        )

    def __getitem__(self, micro_batch: MicroBatch) -> tuple[MicroBatch, Batch]:
        generator = np.random.default_rng([self.seed, TASK_STREAM, micro_batch.number])
        return micro_batch, self.make_batch([self.records[i] for i in micro_batch.indices], self.builder, generator)


def _text_length(record: Record) -> int:
    fields = ("caption", "question", "hypothesis", "expression", "sentence")
    return max(len(getattr(record, name, "")) for name in fields)


def image_ids_of(records: Sequence[Record]) -> set[str]:
    """The ids of all images that the records are about."""
    names = ("image_id", "left_image_id", "right_image_id")
    return {getattr(r, name) for r in records for name in names if hasattr(r, name)}
