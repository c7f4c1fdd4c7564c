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

from cmal.data.batch import make_batch
from cmal.data.example import ExampleBuilder
from cmal.data.records import ImageTextRecord
from cmal.errors import DataError
from cmal.model.cmal import Cmal, UniModal
from cmal.model.inputs import Batch
from cmal.model.losses import matching_loss
from cmal.model.pretraining import MatchingHead
from cmal.tasks.base import Answers, Scores, Task
from cmal.tasks.metrics import first_five_captions, hits_of_ranks, retrieval_ranks, retrieval_recalls_of_folds
from cmal.tasks.pair_scores import CachedStates, score_rows
from cmal.tasks.shortlist import FirstRanking, Shortlist, choose_candidates, seen_from, shortlist_recalls

FOLDS = {"full": 1, "1k": 5}  # protocol -> folds


class Retrieval(Task[ImageTextRecord]):
    """Matching of images and captions.

    Args:
        name: as in `cmal eval NAME`.
        images: number of images to score on, from the first; 0 = all.
        captions_per_image: number of captions per image that count, from the first.
        hard_negatives: mismatches drawn per pair; training uses the one that the model scores highest. 1 = drawn evenly.

    Protocols: `full` ranks all images at once; `1k` is the mean over five folds of consecutive images, the usual "COCO 1k"
    on the 5,000 images of the test list.
    """

    record_kind = ImageTextRecord
    main_protocol = "full"
    protocols = tuple(FOLDS)

    def __init__(self, name: str, images: int = 0, captions_per_image: int = 5, hard_negatives: int = 1):
        self.name, self.images, self.captions_per_image = name, images, captions_per_image
        self.hard_negatives = hard_negatives

    def build_head(self, width: int, dropout: float) -> nn.Module:
        return MatchingHead(width)

    def make_batch(
        self, records: Sequence[ImageTextRecord], builder: ExampleBuilder, generator: np.random.Generator
    ) -> Batch:
        """B examples and the indices of 3B pairs: each true pair, one with another caption, one with another image.

        With hard negatives each mismatch is a row of candidates: `text` and `image` are (3B, candidates), the true pairs'
        rows repeat them.
        """
        batch = make_batch([builder.build(r.id, r.image_id, r.caption) for r in records])
        texts, images = draw_mismatches([r.image_id for r in records], generator, self.hard_negatives)
        is_match = np.arange(len(texts)) < len(records)
        targets = {"text": texts, "image": images, "is_match": is_match}
        return dataclasses.replace(batch, targets={name: torch.from_numpy(a) for name, a in targets.items()})

    def forward(self, cmal: Cmal, head: nn.Module, batch: Batch) -> Tensor:
        """(pairs,) matching logits."""
        states = cmal.encode(*batch.inputs)
        text, image = hardest(cmal, head, states, batch.targets["text"], batch.targets["image"], len(batch))
        return score_pairs(cmal, head, states, text, image)

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        return matching_loss(output, batch.targets["is_match"])

    def evaluation_records(self, records: Sequence[ImageTextRecord]) -> list[ImageTextRecord]:
        """The first captions of the first images, as the protocol has it."""
        kept = list(dict.fromkeys(r.image_id for r in records))[: self.images or None]
        kept_set = set(kept)
        records = [r for r in records if r.image_id in kept_set]
        return [records[i] for i in first_five_captions([r.image_id for r in records], self.captions_per_image)]

    def score_matrix(
        self,
        cmal: Cmal,
        head: nn.Module,
        states: CachedStates,
        report: Callable[[int, int], None] = lambda done, of: None,
        rank_and_world: tuple[int, int] = (0, 1),
        shortlist: Shortlist | None = None,
    ) -> np.ndarray:
        """(N images, M captions) matching logits of every pair. With a shortlist, -inf marks the pairs that are not on it.

        With several processes, (rank, world size) selects the image rows rank, rank + world, ...; the result is (n, M).
        """
        own_rows = slice(rank_and_world[0], None, rank_and_world[1])
        is_candidate = None if shortlist is None else shortlist.listed[own_rows] > 0
        return score_rows(cmal, head, states.texts, states.visuals[own_rows], is_candidate, report)

    def make_shortlist(
        self, ranking: FirstRanking, states: CachedStates, records: Sequence[ImageTextRecord], protocol: str, keep: int
    ) -> Shortlist:
        """The `keep` best of each query by a first ranking, in the 1k protocol of its fold."""
        owner, images = rows_of(records)
        folds = np.arange(len(images)) * FOLDS[protocol] // len(images)
        listed = choose_candidates(ranking.similarities(states), keep, folds, folds[owner])
        return Shortlist(listed, keep, ranking.described)

    def answers(self, output: Tensor, batch: Batch) -> Answers:
        """Logit of each true pair of a training batch (used to watch validation)."""
        return dict(zip(batch.ids, output[: len(batch)].tolist()))

    def score(self, answers: Answers, records: Sequence[ImageTextRecord], protocol: str) -> Scores:
        """answers: {"scores": (N, M)} of `score_matrix` for the same records; a query with a "shortlist" ranks that."""
        owner, images = rows_of(records)
        if len(images) < 2:
            raise DataError("cannot score retrieval", f"{len(images)} image", "give records of at least two images")
        folds = FOLDS[protocol]
        metrics, hits = recalls_and_hits(answers, owner, folds)
        owners = {"image_retrieval": [r.image_id for r in records], "text_retrieval": images}
        values = {name: (of_each, owners[name.rsplit("_", 1)[0]]) for name, of_each in hits.items()}
        of_folds = f", mean of {folds} folds of {len(images) // folds} images" if folds > 1 else ""
        return Scores(
            main="image_retrieval_r1",
            metrics={name: float(value) for name, value in metrics.items() if name not in ("images", "captions")},
            chance=folds / len(images),
            values=values["image_retrieval_r1"][0],
            clusters=owners["image_retrieval"],
            protocol=f"matching head, {_pairs_scored(answers, len(images), len(records))}, at most "
            f"{self.captions_per_image} captions an image{of_folds}",
            counts={"images": len(images), "captions": len(records)},
            more_values=values,
        )


def rows_of(records: Sequence[ImageTextRecord]) -> tuple[np.ndarray, list[str]]:
    """(M,) the row of each caption's image, and the images in order of first appearance."""
    images = list(dict.fromkeys(r.image_id for r in records))
    row = {image: index for index, image in enumerate(images)}
    return np.array([row[r.image_id] for r in records]), images


def recalls_and_hits(answers: Answers, owner: np.ndarray, folds: int) -> tuple[dict, dict[str, np.ndarray]]:
    """Metrics by name, and for each recall one value per query.

    With a shortlist, a query ranks only the items on its list.
    """
    for_captions, for_images = seen_from(answers)
    metrics = retrieval_recalls_of_folds(for_captions, owner, folds)
    hits = hits_of_folds(for_captions, owner, folds)
    shortlist: Shortlist | None = answers.get("shortlist")
    if shortlist:
        texts = retrieval_recalls_of_folds(for_images, owner, folds), hits_of_folds(for_images, owner, folds)
        metrics |= {name: value for name, value in texts[0].items() if name.startswith("text_retrieval")}
        hits |= {name: value for name, value in texts[1].items() if name.startswith("text_retrieval")}
        metrics["recall_mean"] = sum(metrics[name] for name in hits) / len(hits)
        metrics |= shortlist_recalls(shortlist.listed, owner)
    return metrics, hits


def _pairs_scored(answers: Answers, images: int, captions: int) -> str:
    shortlist: Shortlist | None = answers.get("shortlist")
    return shortlist.description if shortlist else f"all {images} x {captions} pairs"


def draw_mismatches(
    image_ids: Sequence[str], generator: np.random.Generator, candidates: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of texts and images of 3B pairs: B true, B with another image's caption, B with another image.

    (3B,) each, or (3B, candidates) where there are more than one. If all records share one image,
    there are no mismatches and only the true pairs are returned.
    """
    _, image = np.unique(image_ids, return_inverse=True)
    shape = (candidates,) if candidates > 1 else ()
    own_indices = np.arange(len(image_ids)).reshape(-1, *(1 for _ in shape)) + np.zeros(shape, np.int64)
    texts, images = [own_indices], [own_indices]
    for other_text in (True, False):
        for index in range(len(image_ids)):
            others = np.flatnonzero(image != image[index])
            if len(others):
                other, own = generator.choice(others, shape or None), own_indices[index]
                texts.append(np.array([other if other_text else own]))
                images.append(np.array([own if other_text else other]))
    return np.concatenate(texts), np.concatenate(images)


@torch.no_grad()
def hardest(
    cmal: Cmal, head: nn.Module, states: UniModal, text: Tensor, image: Tensor, true_pairs: int
) -> tuple[Tensor, Tensor]:
    """(pairs,) texts and images: of each row's candidates, the one with the highest matching logit.

    Args:
        states: of the batch.
        text, image: (pairs,) or (pairs, candidates) indices into the batch; the first `true_pairs` rows are the true pairs.

    Ours: candidates come from the example's group and are scored by the model as it trains, dropout and all; Chen et al.
    2020 (UNITER) take the hardest of a random pool likewise.
    """
    if text.dim() == 1:
        return text, image
    scores = [score_pairs(cmal, head, states, *pair) for pair in zip(text[true_pairs:].T, image[true_pairs:].T)]
    best = torch.cat([text.new_zeros(true_pairs), torch.stack(scores).argmax(dim=0)])  # (pairs,)
    rows = torch.arange(len(text), device=text.device)
    return text[rows, best], image[rows, best]


def hits_of_folds(scores: np.ndarray, owner: np.ndarray, folds: int) -> dict[str, np.ndarray]:
    """For each recall one value per query; their mean over all queries is the mean of the folds' recalls."""
    images, captions = scores.shape
    fold_of_image = np.arange(images) * folds // images
    fold_of_caption = fold_of_image[owner]
    found: dict[str, np.ndarray] = {}
    for fold in range(folds):
        rows, columns = np.flatnonzero(fold_of_image == fold), np.flatnonzero(fold_of_caption == fold)
        part = scores if folds == 1 else scores[np.ix_(rows, columns)]  # no copy of 5,000 x 25,000 scores
        ranks = retrieval_ranks(part, owner[columns] - rows[0])
        for name, hits in hits_of_ranks(*ranks).items():
            members, count = (columns, captions) if name.startswith("image") else (rows, images)
            found.setdefault(name, np.zeros(count))[members] = hits * (count / (folds * len(members)))
    return found


def score_pairs(cmal: Cmal, head: nn.Module, states: UniModal, text: Tensor, image: Tensor) -> Tensor:
    """(pairs,) logits of the pairs (text[i], image[i]) of a batch's uni-modal states."""
    paired = states.with_texts(text).with_images(image)
    return head(cmal.unify_at_cls(paired))
