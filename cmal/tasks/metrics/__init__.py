"""Scores as plain functions of strings and numpy arrays, each by its data set's official definition.

One file a concept: `vqa` (string metric), `boxes` (overlap and referring expressions), `retrieval` (recalls),
`classification` (accuracy, NLVR2 consistency), `intervals` (bootstrap). Every score is a fraction in [0, 1]; whoever
prints multiplies.
"""

from cmal.tasks.metrics.boxes import (
    BOX_PROTOCOLS,
    BoxProtocol,
    is_hit,
    oracle_recall,
    rec_accuracy,
)
from cmal.tasks.metrics.classification import (
    accuracy,
    accuracy_and_consistency,
    confusion_table,
    consistent_sentences,
    per_label_table,
    sentence_of,
)
from cmal.tasks.metrics.intervals import Difference, bootstrap_interval, paired_bootstrap_difference
from cmal.tasks.metrics.retrieval import (
    first_five_captions,
    hits_of_ranks,
    recalls_of_ranks,
    retrieval_ranks,
    retrieval_recalls,
    retrieval_recalls_of_folds,
)
from cmal.tasks.metrics.vqa import (
    VQA_PROTOCOLS,
    soft_targets,
    vqa_accuracies,
    vqa_accuracy,
    vqa_scores,
)

__all__ = [
    "BOX_PROTOCOLS",
    "VQA_PROTOCOLS",
    "BoxProtocol",
    "Difference",
    "accuracy",
    "accuracy_and_consistency",
    "bootstrap_interval",
    "confusion_table",
    "consistent_sentences",
    "first_five_captions",
    "hits_of_ranks",
    "is_hit",
    "oracle_recall",
    "paired_bootstrap_difference",
    "per_label_table",
    "rec_accuracy",
    "recalls_of_ranks",
    "retrieval_ranks",
    "retrieval_recalls",
    "retrieval_recalls_of_folds",
    "sentence_of",
    "soft_targets",
    "vqa_accuracies",
    "vqa_accuracy",
    "vqa_scores",
]
