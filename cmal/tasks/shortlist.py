"""Retrieval's shortlist: a first, cheap ranking of all pairs keeps the best few for each query; the model scores these.

The first ranking reads the cached uni-modal states alone. A checkpoint with the contrastive head (pre-trained with
objectives.itc) ranks by its pooled vectors. For any other, late interaction [ours; the form is ColBERT's, Khattab and
Zaharia 2020]: two linear maps bring word pieces and regions together, each piece takes its most similar region, and the
mean over the pieces is the score. The maps are fitted to pairs of the training split, which takes a minute. Why not the
association's own projections: they are learned on the unified encoder's swapped slots; on uni-modal states they keep 47% of
the right images of `scenes` among 64 of 400, fitted maps 89%.

Legend: N images, M captions, P pairs, T word pieces, R regions, D width, E width of the maps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmal.model.losses import association_loss
from cmal.model.pretraining import ContrastiveHead
from cmal.tasks.pair_scores import CachedStates, VisualState, pair_states

IMAGE_FOR_CAPTION, CAPTION_FOR_IMAGE = 1, 2  # why a pair is on the list; both: 3
FIT_PAIRS, FIT_STEPS, FIT_BATCH, FIT_WIDTH, FIT_LR = 6000, 1000, 64, 128, 3e-3
FIT_TEMPERATURE = 0.05  # at the start; it is learned


@dataclass(frozen=True)
class Shortlist:
    """Which pairs are scored.

    Attributes:
        listed: (N, M) uint8, which query listed a pair (see `choose_candidates`); 0 = not on the list.
        keep: candidates per query; first_ranking: the ranking that chose them, in words.
    """

    listed: np.ndarray
    keep: int
    first_ranking: str

    @property
    def description(self) -> str:
        """The sentence about the shortlist in the result's protocol."""
        images, captions = self.listed.shape
        return (
            f"shortlist of {self.keep}: {int((self.listed > 0).sum())} of {images} x {captions} pairs, the {self.keep} best "
            f"images of each caption and captions of each image by {self.first_ranking}; the right one counts as last when "
            "it is not listed"
        )


class FirstRanking(Protocol):
    """A ranking of all pairs that reads cached uni-modal states only."""

    @property
    def described(self) -> str:
        """Its description in the result's protocol."""
        ...

    def similarities(self, states: CachedStates) -> np.ndarray:
        """(N, M), higher is better."""
        ...


@dataclass(frozen=True)
class PooledVectors:
    """The contrastive head's cosine of image and caption."""

    head: ContrastiveHead
    described: str = "the contrastive head's pooled vectors"

    @torch.no_grad()
    def similarities(self, states: CachedStates) -> np.ndarray:
        # the head pools each modality by itself: any text beside the images, any image beside the texts
        text, image = states.texts[0], states.visuals[0]
        texts = [self.head(pair_states([t], image))[0] for t in states.texts]
        images = [self.head(pair_states([text], v))[1] for v in states.visuals]
        return (torch.cat(images) @ torch.cat(texts).T).float().cpu().numpy()


@dataclass(frozen=True)
class LateInteraction:
    """Mean over the word pieces of the cosine with the most similar region; 0 for an image without regions.

    Attributes:
        text, region: (D, E) maps.
    """

    text: Tensor
    region: Tensor
    described: str = "late interaction of word pieces and regions, fitted to training pairs"

    @torch.no_grad()
    def similarities(self, states: CachedStates) -> np.ndarray:
        pieces = unit(torch.cat(states.texts), self.text)  # (sum of T, E)
        caption, share = owners(states.texts)
        rows = []
        for visual in states.visuals:
            row = share.new_zeros(len(states.texts))
            if len(visual.visual):
                nearest = (pieces @ unit(visual.visual, self.region).T).amax(dim=1)
                row = row.index_add(0, caption, nearest * share)
            rows.append(row.float().cpu())
        return torch.stack(rows).numpy()


def unit(states: Tensor, weight: Tensor) -> Tensor:
    """(..., D), (D, E) -> (..., E) of length 1."""
    return F.normalize(states @ weight, dim=-1)


def owners(texts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """(sum of T,) each piece's caption, and 1 / the number of that caption's pieces."""
    device = texts[0].device
    counts = torch.tensor([len(text) for text in texts], device=device)
    caption = torch.repeat_interleave(torch.arange(len(texts), device=device), counts)
    return caption, (1.0 / counts).index_select(0, caption)


def fit_late_interaction(
    states: CachedStates, image_of_caption: np.ndarray, seed: int = 0, steps: int = FIT_STEPS
) -> LateInteraction:
    """Maps fitted to separate true pairs from the others of a batch, in both directions; the states are not trained.

    Args:
        states: of training records; image_of_caption: (M,) row of each caption's image.
        seed: of the maps' start and the batches.
        steps: of Adam over 64 pairs each, the rate falling to 0.
    """
    kept = [caption for caption, image in enumerate(image_of_caption) if len(states.visuals[image].visual)]
    width, device = states.texts[0].shape[1], states.texts[0].device
    generator, draws = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    start = torch.randn(2, width, FIT_WIDTH, generator=generator) / width**0.5
    maps = nn.Parameter(start.to(device))
    log_temperature = nn.Parameter(torch.tensor(FIT_TEMPERATURE, device=device).log())
    optimizer = torch.optim.Adam([maps, log_temperature], lr=FIT_LR)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = FIT_LR * (1 - step / steps)
        chosen = draws.choice(kept, min(FIT_BATCH, len(kept)), replace=False)
        images = image_of_caption[chosen]
        cosines = batch_cosines(
            [states.texts[caption] for caption in chosen], [states.visuals[image] for image in images], maps
        )
        same_image = torch.from_numpy(images[:, None] == images[None, :]).to(device)
        logits = cosines / log_temperature.exp()
        loss = association_loss(logits, same_image) + association_loss(logits.T, same_image)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return LateInteraction(*maps.detach())


def batch_cosines(texts: Sequence[Tensor], visuals: Sequence[VisualState], maps: Tensor) -> Tensor:
    """(P, P) late interaction of P captions with P images; every image has a region. maps: (2, D, E)."""
    regions = nn.utils.rnn.pad_sequence([v.visual for v in visuals], batch_first=True)  # (P, R, D), zeros after each
    lengths = torch.tensor([len(v.visual) for v in visuals], device=regions.device)
    is_real = torch.arange(regions.shape[1], device=regions.device)[None, :] < lengths[:, None]
    cosines = torch.einsum("te,pre->tpr", unit(torch.cat(list(texts)), maps[0]), unit(regions, maps[1]))
    nearest = cosines.masked_fill(~is_real, -1.0).amax(dim=-1)  # (sum of T, P)
    caption, share = owners(texts)
    return nearest.new_zeros(len(texts), len(visuals)).index_add(0, caption, nearest * share[:, None])


def choose_candidates(
    similarities: np.ndarray, keep: int, fold_of_image: np.ndarray, fold_of_caption: np.ndarray
) -> np.ndarray:
    """(N, M) uint8: which pairs are on the list, as IMAGE_FOR_CAPTION | CAPTION_FOR_IMAGE.

    Args:
        similarities: (N, M) of the first ranking. On ties the earlier item is kept.
        keep: number of images per caption and of captions per image, within one fold.
        fold_of_image, fold_of_caption: (N,), (M,).
    """
    listed = np.zeros(similarities.shape, np.uint8)
    for fold in np.unique(fold_of_image):
        rows, columns = np.flatnonzero(fold_of_image == fold), np.flatnonzero(fold_of_caption == fold)
        part = -similarities[np.ix_(rows, columns)]
        images = np.argsort(part, axis=0, kind="stable")[:keep]  # (keep, captions)
        captions = np.argsort(part, axis=1, kind="stable")[:, :keep]  # (images, keep)
        listed[rows[images], columns[None, :]] |= IMAGE_FOR_CAPTION
        listed[rows[:, None], columns[captions]] |= CAPTION_FOR_IMAGE
    return listed


def seen_from(answers: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """(N, M) scores for caption queries and for image queries; -inf marks pairs that are not on the query's list."""
    scores, shortlist = answers["scores"], answers.get("shortlist")
    if shortlist is None:
        return scores, scores
    images, captions = (shortlist.listed & reason > 0 for reason in (IMAGE_FOR_CAPTION, CAPTION_FOR_IMAGE))
    return np.where(images, scores, -np.inf), np.where(captions, scores, -np.inf)


def shortlist_recalls(listed: np.ndarray, owner: np.ndarray) -> dict[str, float]:
    """Shares of the queries whose right item is on their list: no recall can be higher. owner: (M,) row of each image."""
    right = listed[owner, np.arange(len(owner))]  # (M,)
    has_caption = np.zeros(len(listed), bool)
    np.logical_or.at(has_caption, owner, right & CAPTION_FOR_IMAGE > 0)
    found = {"image": float((right & IMAGE_FOR_CAPTION > 0).mean()), "text": float(has_caption.mean())}
    return {f"{direction}_shortlist_recall": share for direction, share in found.items()}
