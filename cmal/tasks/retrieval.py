"""Image-text retrieval: the matching head's score over all image-caption pairs, uni-modal states computed once.

Protocol: recall at 1, 5 and 10 both ways over the full N x M (Flickr30k 1k, COCO 5k and 1k folds); the first five captions
of an image count. Trained by telling true pairs from in-group mismatches, with the pre-training's matching head.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from cmal.data.batch import Batch, make_batch
from cmal.data.examples import ExampleBuilder
from cmal.data.records import ImageTextRecord
from cmal.errors import DataError
from cmal.metrics import first_five_captions, hits_of_ranks, recalls_of_ranks, retrieval_ranks
from cmal.model.cmal import Cmal, UniModal
from cmal.objectives import matching_loss
from cmal.pretraining import MatchingHead
from cmal.tasks.base import Answers, Scores, encode_batch

ENCODE_BATCH = 64
PAIR_BATCH = 256


class Retrieval:
    """Matching of images and captions.

    Args:
        name: as in `cmal eval NAME`.
        images: score on the first so many images; 0 = all.
        captions_per_image: the first so many captions of each image count.
    """

    record_kind = ImageTextRecord
    labels = ()
    main_protocol = "full"
    protocols = ("full",)

    def __init__(self, name: str, images: int = 0, captions_per_image: int = 5):
        self.name, self.images, self.captions_per_image = name, images, captions_per_image

    def build_head(self, width: int, dropout: float) -> nn.Module:
        return MatchingHead(width)

    def make_batch(
        self, records: Sequence[ImageTextRecord], builder: ExampleBuilder, generator: np.random.Generator
    ) -> Batch:
        """B examples, and the places of 3B pairs: each true one, one with another caption, one with another image."""
        batch = make_batch([builder.build(r.id, r.image_id, r.caption) for r in records])
        texts, images = draw_mismatches([r.image_id for r in records], generator)
        is_match = np.arange(len(texts)) < len(records)
        targets = {"text": texts, "image": images, "is_match": is_match}
        return dataclasses.replace(batch, targets={name: torch.from_numpy(a) for name, a in targets.items()})

    def forward(self, cmal: Cmal, head: nn.Module, batch: Batch) -> Tensor:
        """(pairs,) matching logits."""
        return score_pairs(cmal, head, encode_batch(cmal, batch), batch.targets["text"], batch.targets["image"])

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        return matching_loss(output, batch.targets["is_match"])

    def evaluation_records(self, records: Sequence[ImageTextRecord]) -> list[ImageTextRecord]:
        """The first captions of the first images, as the protocol has it."""
        kept = list(dict.fromkeys(r.image_id for r in records))[: self.images or None]
        wanted = set(kept)
        records = [r for r in records if r.image_id in wanted]
        return [records[i] for i in first_five_captions([r.image_id for r in records], self.captions_per_image)]

    def score_matrix(
        self,
        cmal: Cmal,
        head: nn.Module,
        records: Sequence[ImageTextRecord],
        builder: ExampleBuilder,
        device: torch.device,
        report: Callable[[int, int], None] = lambda done, of: None,
    ) -> np.ndarray:
        """(N images, M captions) matching logits of every pair; images in order of first appearance."""
        texts, visuals = cache_states(cmal, records, builder, device)
        images = len(visuals)
        scores = np.empty((images, len(texts)), np.float32)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # tiles of like lengths pad little
        for row in range(images):
            for start in range(0, len(order), PAIR_BATCH):
                tile = order[start : start + PAIR_BATCH]
                states = _pair_states([texts[i] for i in tile], visuals[row])
                scores[row, tile] = head(cmal.unify(states)[:, 0]).float().cpu().numpy()
            report(row + 1, images)
        return scores

    def answers(self, output: Tensor, batch: Batch) -> Answers:
        """Logit of each true pair of a training batch (used to watch validation)."""
        return dict(zip(batch.ids, output[: len(batch)].tolist()))

    def score(self, answers: Answers, records: Sequence[ImageTextRecord], protocol: str) -> Scores:
        """answers: {"scores": (N, M)} of `score_matrix` for the same records."""
        images = list(dict.fromkeys(r.image_id for r in records))
        row = {image: place for place, image in enumerate(images)}
        owner = np.array([row[r.image_id] for r in records])
        if len(images) < 2:
            raise DataError("cannot score retrieval", f"{len(images)} image", "give records of at least two images")
        image_ranks, text_ranks = retrieval_ranks(answers["scores"], owner)
        metrics = recalls_of_ranks(image_ranks, text_ranks)
        recalls = {name: float(value) for name, value in metrics.items() if name not in ("images", "captions")}
        hits = hits_of_ranks(image_ranks, text_ranks)
        owners = {"image_retrieval": [r.image_id for r in records], "text_retrieval": images}
        return Scores(
            main="image_retrieval_r1",
            metrics=recalls,
            chance=1 / len(images),
            values=(image_ranks == 1).astype(float),
            clusters=[r.image_id for r in records],
            protocol=f"matching head, all {len(images)} x {len(records)} pairs, {self.captions_per_image} captions an image",
            counts={"images": len(images), "captions": len(records)},
            more_values={name: (values, owners[name.rsplit("_", 1)[0]]) for name, values in hits.items()},
        )


def draw_mismatches(image_ids: Sequence[str], generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Places of texts and images of 3B pairs: B true, B with another image's caption, B with another image.

    A record whose image is the only one of the group has no mismatch, and its places are left out.
    """
    _, image = np.unique(image_ids, return_inverse=True)
    places = np.arange(len(image_ids))
    texts, images = [places], [places]
    for other_text in (True, False):
        for place in places:
            others = np.flatnonzero(image != image[place])
            if len(others):
                other = generator.choice(others)
                texts.append(np.array([other if other_text else place]))
                images.append(np.array([place if other_text else other]))
    return np.concatenate(texts), np.concatenate(images)


def score_pairs(cmal: Cmal, head: nn.Module, states: UniModal, text: Tensor, image: Tensor) -> Tensor:
    """(pairs,) logits of the pairs (text[i], image[i]) of a batch's uni-modal states."""
    paired = states.with_texts(text).with_images(image)
    return head(cmal.unify(paired)[:, 0])


@dataclasses.dataclass(frozen=True)
class VisualState:
    """One image's uni-modal states: visual (R, D), boxes_unit (R, 7)."""

    visual: Tensor
    boxes_unit: Tensor


def cache_states(
    cmal: Cmal, records: Sequence[ImageTextRecord], builder: ExampleBuilder, device: torch.device
) -> tuple[list[Tensor], list[VisualState]]:
    """Every caption's text states (T, D) and every image's visual states, each computed once, without padding."""
    texts: list[Tensor] = []
    visuals: dict[str, VisualState] = {}
    for start in range(0, len(records), ENCODE_BATCH):
        part = records[start : start + ENCODE_BATCH]
        batch = make_batch([builder.build(r.id, r.image_id, r.caption) for r in part]).to(device)
        states = encode_batch(cmal, batch)
        for place, record in enumerate(part):
            texts.append(states.text[place, states.token_mask[place]])
            if record.image_id not in visuals:
                real = states.region_mask[place]
                visuals[record.image_id] = VisualState(states.visual[place, real], states.boxes_unit[place, real])
    return texts, list(visuals.values())


def _pair_states(texts: list[Tensor], image: VisualState) -> UniModal:
    count = len(texts)
    text = nn.utils.rnn.pad_sequence(texts, batch_first=True)  # (P, T, D)
    lengths = torch.tensor([len(t) for t in texts], device=text.device)
    token_mask = torch.arange(text.shape[1], device=text.device)[None, :] < lengths[:, None]
    region_mask = torch.ones(count, len(image.visual), dtype=torch.bool, device=text.device)
    visual = image.visual.expand(count, -1, -1)
    return UniModal(text, token_mask, visual, image.boxes_unit.expand(count, -1, -1), region_mask)
