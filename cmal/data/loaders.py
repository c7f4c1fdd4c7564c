"""Groups of records -> batches: what a loader's worker process runs. Everything random depends on seed and group alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch.utils.data import Dataset

from cmal.data.batch import Batch, make_pretraining_batch
from cmal.data.example import ExampleBuilder
from cmal.data.masking import MaskingConfig, draw, sample_matching
from cmal.data.micro_batches import MicroBatch
from cmal.data.records import ImageTextRecord, Record

GROUP_DRAWS, EXAMPLE_DRAWS, TASK_DRAWS = 1, 2, 3  # keep the streams of random numbers apart


class PretrainingData(Dataset):
    """`data[group]` gives (group, Batch) with everything drawn that pre-training draws.

    Args:
        records: image-text pairs.
        builder: with an anchor finder.
        rates: the recipe's probabilities.
        seed: of all draws.
    """

    def __init__(self, records: Sequence[ImageTextRecord], builder: ExampleBuilder, rates: MaskingConfig, seed: int):
        self.records, self.builder, self.rates, self.seed = records, builder, rates, seed

    def lengths(self) -> np.ndarray:
        """(N,) something that grows with each example's sequence length: a word in five letters, and its regions."""
        return np.array([len(r.caption) // 5 + self.builder.store.regions_of(r.image_id) for r in self.records])

    def __getitem__(self, micro_batch: MicroBatch) -> tuple[MicroBatch, Batch]:
        pieces = self.builder.word_pieces
        records = [self.records[i] for i in micro_batch.indices]
        examples = [self.builder.build(r.id, r.image_id, r.caption) for r in records]
        draws = [
            draw(
                example,
                self.rates,
                pieces.mask_id,
                len(pieces),
                np.random.default_rng([self.seed, EXAMPLE_DRAWS, micro_batch.epoch, index]),
            )
            for example, index in zip(examples, micro_batch.indices)
        ]
        generator = np.random.default_rng([self.seed, GROUP_DRAWS, micro_batch.number])
        text_of, is_match = sample_matching([r.image_id for r in records], generator)
        return micro_batch, make_pretraining_batch(examples, draws, text_of, is_match)


MakeBatch = Callable[[Sequence[Record], ExampleBuilder, np.random.Generator], Batch]


class TaskData(Dataset):
    """`data[group]` gives (group, Batch) as a task makes it.

    Args:
        records: the task's records.
        builder: without an anchor finder.
        make_batch: the task's.
        seed: of all draws.
    """

    def __init__(self, records: Sequence[Record], builder: ExampleBuilder, make_batch: MakeBatch, seed: int):
        self.records, self.builder, self.make_batch, self.seed = records, builder, make_batch, seed

    def lengths(self) -> np.ndarray:
        """(N,) something that grows with each example's sequence length."""
        return np.array([_text_length(r) // 5 + self._regions(r) for r in self.records])

    def _regions(self, record: Record) -> int:
        image_id = getattr(record, "image_id", None) or record.left_image_id
        return self.builder.store.regions_of(image_id)

    def __getitem__(self, micro_batch: MicroBatch) -> tuple[MicroBatch, Batch]:
        generator = np.random.default_rng([self.seed, TASK_DRAWS, micro_batch.number])
        return micro_batch, self.make_batch([self.records[i] for i in micro_batch.indices], self.builder, generator)


def _text_length(record: Record) -> int:
    fields = ("caption", "question", "hypothesis", "expression", "sentence")
    return max(len(getattr(record, name, "")) for name in fields)


def image_ids_of(records: Sequence[Record]) -> set[str]:
    """All images that some records speak of."""
    names = ("image_id", "left_image_id", "right_image_id")
    return {getattr(r, name) for r in records for name in names if hasattr(r, name)}
