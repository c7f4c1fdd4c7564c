"""Pre-training losses as plain functions of tensors: 0-dimensional means, in nats or squared units.

Legend: B batch, K anchors chosen, M masked positions, C classes or candidates, D width, F raw region features.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from cmal.errors import ShapeError
from cmal.model.association import Association
from cmal.model.transformer import no_rows


def association_loss(logits: Tensor, is_positive: Tensor) -> Tensor:
    """Negative log of the probability that each anchor gives to all its right candidates together.

    Args:
        logits: (K, C) cosine over temperature; -inf marks entries that are not candidates.
        is_positive: (K, C) True = right; at least one per row.

    Returns:
        () mean over the K anchors; zero, still attached to the graph, when K is 0.

    Raises:
        ShapeError: the shapes disagree.

    Source: CMAL (arXiv:2410.12595), associative mapping classification. Ours: the multi-positive target.
    Example: regions [dog tree dog], anchor word "dog", probabilities [.5 .3 .2]: the loss is -log(.5 + .2).
    """
    if logits.shape != is_positive.shape:
        raise ShapeError(
            "cannot take the association loss",
            f"logits {tuple(logits.shape)} and is_positive {tuple(is_positive.shape)} differ",
            "give both as (anchors, candidates)",
        )
    if len(logits) == 0:
        return no_rows(logits)
    positive = logits.masked_fill(~is_positive, float("-inf"))
    return (logits.logsumexp(dim=1) - positive.logsumexp(dim=1)).mean()


def association_accuracy(association: Association) -> Tensor:
    """() share of the anchors whose most probable candidate is right; 0 where there are none."""
    if len(association.logits) == 0:
        return association.logits.new_zeros(())
    best = association.logits.argmax(dim=1, keepdim=True)
    return association.is_positive.gather(1, best).float().mean()


def masked_language_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """() cross-entropy of (M, V) logits against (M,) word-piece ids; zero, attached, when M is 0."""
    return F.cross_entropy(logits.float(), labels) if len(labels) else no_rows(logits)


def region_class_loss(logits: Tensor, top_ids: Tensor, top_probs: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the model's class distribution from the detector's, at masked regions.

    Args:
        logits: (M, C).
        top_ids, top_probs: (M, 10) the detector's most probable classes. Probabilities are scaled to sum to one here. A row
            of zeros (a detector without class probabilities) is left out.

    Returns:
        () mean over the rows that have a distribution; zero, attached, when there are none.
    """
    total = top_probs.sum(dim=1, keepdim=True)
    has_classes = total.squeeze(1) > 0
    if not bool(has_classes.any()):
        return no_rows(logits)
    target = (top_probs / total.clamp(min=1e-8))[has_classes]
    log_q = F.log_softmax(logits[has_classes].float(), dim=1).gather(1, top_ids[has_classes])
    return (torch.xlogy(target, target) - target * log_q).sum(dim=1).mean()


def region_feature_loss(predicted: Tensor, features: Tensor) -> Tensor:
    """() mean squared error of (M, F) predicted features at masked regions; zero, attached, when M is 0."""
    return F.mse_loss(predicted.float(), features) if len(features) else no_rows(predicted)


def matching_loss(logits: Tensor, is_match: Tensor) -> Tensor:
    """() binary cross-entropy of (B,) image-text matching logits; is_match: (B,) bool."""
    return F.binary_cross_entropy_with_logits(logits.float(), is_match.float())


def contrastive_loss(text: Tensor, visual: Tensor, same_image: Tensor, temperature: Tensor) -> Tensor:
    """InfoNCE both ways between pooled uni-modal vectors, with in-batch negatives: the baseline CMCL.

    Args:
        text, visual: (B, D) unit vectors, row i of both from pair i.
        same_image: (B, B) True where two pairs show the same image; all of them are positives.
        temperature: ().

    Returns:
        () mean of both directions.
    """
    logits = text @ visual.T / temperature  # (B, B)
    return (association_loss(logits, same_image) + association_loss(logits.T, same_image)) / 2
