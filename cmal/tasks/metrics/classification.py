"""Accuracy over label strings, a table per label, and NLVR2's consistency."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cmal.errors import DataError, ShapeError


def accuracy(predicted: Sequence[str], gold: Sequence[str]) -> float:
    """Share of equal labels. Raises ShapeError when the lengths differ, DataError when there is none."""
    _check_lengths(predicted, gold)
    return sum(p == g for p, g in zip(predicted, gold)) / len(gold)


def confusion_table(
    predicted: Sequence[str], gold: Sequence[str], labels: Sequence[str] | None = None
) -> dict[str, dict[str, int]]:
    """{gold label: {predicted label: count}} over `labels`, by default all that occur, in alphabetical order."""
    _check_lengths(predicted, gold)
    names = list(labels) if labels is not None else sorted({*predicted, *gold})
    unknown = sorted({*predicted, *gold} - set(names))
    if unknown:
        raise DataError("cannot tabulate labels", f'"{unknown[0]}" is not among {", ".join(names)}', "name every label")
    table = {g: dict.fromkeys(names, 0) for g in names}
    for p, g in zip(predicted, gold):
        table[g][p] += 1
    return table


def per_label_table(
    predicted: Sequence[str], gold: Sequence[str], labels: Sequence[str] | None = None
) -> dict[str, dict[str, float | int]]:
    """For each label: count (gold), predicted (count), precision, recall and f1; 0 where nothing is to divide by."""
    confusion = confusion_table(predicted, gold, labels)
    table: dict[str, dict[str, float | int]] = {}
    for name, row in confusion.items():
        right, count = row[name], sum(row.values())
        guessed = sum(other[name] for other in confusion.values())
        table[name] = {
            "count": count,
            "predicted": guessed,
            "precision": right / guessed if guessed else 0.0,
            "recall": right / count if count else 0.0,
            "f1": 2 * right / (count + guessed) if count + guessed else 0.0,
        }
    return table


def sentence_of(identifier: str) -> str:
    """The part of an NLVR2 identifier that names the sentence: "dev-850-3-1" (split, set, *pair*, sentence) -> "dev-850-1".

    Source: the official NLVR2 evaluator, which blanks the third part; in the released dev rows this groups equal sentences,
    and dropping the last part does not.

    Raises:
        DataError: there are not four parts.
    """
    parts = identifier.split("-")
    if len(parts) != 4:
        raise DataError(
            f'cannot tell the sentence of "{identifier}"',
            f"it has {len(parts)} parts",
            "give official identifiers: split-set-pair-sentence",
        )
    return "-".join((parts[0], parts[1], parts[3]))


def consistent_sentences(correct: Sequence[bool] | np.ndarray, identifiers: Sequence[str]) -> dict[str, bool]:
    """For each unique sentence: is it right with all its image pairs? Errors as `accuracy_and_consistency`."""
    _check_lengths(correct, identifiers)
    if len(set(identifiers)) != len(identifiers):
        repeated = next(i for i in identifiers if list(identifiers).count(i) > 1)
        raise DataError("cannot score NLVR2", f'identifier "{repeated}" appears twice', "gather each example once")
    is_consistent: dict[str, bool] = {}
    for right, identifier in zip(correct, identifiers):
        sentence = sentence_of(identifier)
        is_consistent[sentence] = is_consistent.get(sentence, True) and bool(right)
    return is_consistent


def accuracy_and_consistency(
    correct: Sequence[bool] | np.ndarray, identifiers: Sequence[str]
) -> dict[str, float | int]:
    """NLVR2: share of right rows, and share of unique sentences that are right with *all* their image pairs.

    Args:
        correct: (N,) was each row right? identifiers: (N,) official identifiers, see `sentence_of`.

    Returns:
        {"accuracy", "consistency", "count", "sentences"}.

    Raises:
        ShapeError: the lengths differ. DataError: no row, or a malformed or repeated identifier.
    """
    is_consistent = consistent_sentences(correct, identifiers)
    return {
        "accuracy": sum(map(bool, correct)) / len(identifiers),
        "consistency": sum(is_consistent.values()) / len(is_consistent),
        "count": len(identifiers),
        "sentences": len(is_consistent),
    }


def _check_lengths(a: Sequence | np.ndarray, b: Sequence | np.ndarray) -> None:
    if len(a) != len(b):
        raise ShapeError(
            "cannot compare predictions with labels",
            f"there are {len(a):,} and {len(b):,}",
            "give one prediction a label",
        )
    if not len(b):
        raise DataError("cannot score predictions", "there is none", "choose a split that has records")
