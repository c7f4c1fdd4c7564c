"""The VQA v2 string metric: how an answer is normalised, and how many of ten annotators it agrees with.

The score of a prediction is the mean, over the annotators, of min(n / 3, 1), n being how many of the *other* annotators
gave the predicted answer. What counts as the same answer is decided by the official evaluator's text processing, whose
quirks move scores and are therefore kept: see `cmal/data/answer_normalisation.py`.


Source: the official evaluator (GT-Vision-Lab/VQA).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any, Protocol

import numpy as np

from cmal.data.answer_normalisation import clean_space, normalise_answer, process_punctuation, process_words
from cmal.errors import DataError, RecipeError, list_errors

VQA_PROTOCOLS = ("official", "albef")
SOFT_TARGET_METHODS = ("counts", "leave_one_out")

_ENOUGH = 3  # annotators who must agree for a full score


class AnsweredQuestion(Protocol):
    """What scoring needs of a question; `cmal.data.records.VqaRecord` has it."""

    @property
    def id(self) -> str: ...
    @property
    def answers(self) -> Sequence[str]: ...
    @property
    def question_type(self) -> str: ...
    @property
    def answer_type(self) -> str: ...


def vqa_accuracy(prediction: str, answers: Sequence[str], protocol: str = "official") -> float:
    """How well one prediction agrees with the annotators' answers.

    Args:
        prediction: the predicted answer, as text.
        answers: the annotators' answers as given (ten in VQA v2).
        protocol: `official`: new lines, tabs and outer spaces go; then, only when the answers are not all equal, prediction
            and answers are processed equally (punctuation, then words). `albef`: an older version that some codebases use;
            the prediction is always processed, the answers get punctuation processing alone and only when they are not all
            equal, so an answer with an article, say, can never be matched.

    Returns:
        Mean over the annotators of min(n / 3, 1), n the number of *other* annotators who gave this answer; in [0, 1],
        correctly rounded.

    Raises:
        DataError: there are no answers. RecipeError: the protocol is not known.
    Example: three of ten say "red": (3 * 2/3 + 7 * 1) / 10 = 0.9 for "red".
    """
    return float(_exact_accuracy(prediction, tuple(answers), protocol))


def soft_targets(answers: Sequence[str], method: str = "counts") -> dict[str, float]:
    """Training targets: each normalised answer of a question with its soft score.

    Args:
        answers: the annotators' answers as given.
        method: `counts` is the peers' min(1, 0.3 n), n annotators giving the answer; `leave_one_out` is the score that the
            official metric would give it among the normalised answers. For ten answers the two are equal; with one answer
            (Visual Genome) they are 0.3 and 0.

    Returns:
        {answer: score in (0, 1]}, most frequent first, then by first mention; an answer that normalises to nothing is left
        out.
    """
    if method not in SOFT_TARGET_METHODS:
        raise _unknown("soft-target method", method, SOFT_TARGET_METHODS)
    counts = Counter(normalise_answer(answer) for answer in answers)
    scores = {}
    for answer, n in counts.most_common():
        score = min(10, 3 * n) / 10 if method == "counts" else float(_leave_one_out(n, len(answers)))
        if answer and score > 0:
            scores[answer] = score
    return scores


def vqa_accuracies(
    predictions: Mapping[str, str], records: Sequence[AnsweredQuestion], protocol: str = "official"
) -> np.ndarray:
    """(N,) float64, each record's accuracy in the order given (what a bootstrap resamples). Raises as `vqa_scores`."""
    return np.array([float(x) for x in _exact_accuracies(predictions, records, protocol)], dtype=np.float64)


def vqa_scores(
    predictions: Mapping[str, str], records: Sequence[AnsweredQuestion], protocol: str = "official"
) -> dict[str, Any]:
    """Accuracy over a set of questions, and per answer type and question type.

    Args:
        predictions: question id -> predicted answer; exactly the ids of the records, as the official evaluator demands.
        records: the questions with their answers.
        protocol: see `vqa_accuracy`.

    Returns:
        {"overall", "per_answer_type": {type: {"accuracy", "count"}}, "per_question_type": likewise, "count", "protocol"};
        accuracies in [0, 1], each the correctly rounded mean; types in alphabetical order, "" shown as "(none)".

    Raises:
        DataError: no records, a question without a prediction or without answers, or a prediction of an unknown question.
    """
    scores = _exact_accuracies(predictions, records, protocol)
    return {
        "overall": _mean(scores),
        "per_answer_type": _means_by((r.answer_type for r in records), scores),
        "per_question_type": _means_by((r.question_type for r in records), scores),
        "count": len(records),
        "protocol": protocol,
    }


# The scores as exact fractions, so that no order of summation shows in the last digit.


def _exact_accuracy(prediction: str, answers: tuple[str, ...], protocol: str) -> Fraction:
    if not answers:
        raise DataError(
            "cannot score an answer", "the question has no annotators' answers", "score a split that has them, e.g. val"
        )
    if protocol == "official":
        prediction, answers = clean_space(prediction), tuple(clean_space(a) for a in answers)
        if len(set(answers)) > 1:
            prediction = process_words(process_punctuation(prediction))
            answers = tuple(process_words(process_punctuation(a)) for a in answers)
    elif protocol == "albef":
        prediction = normalise_answer(prediction)
        if len(set(answers)) > 1:
            answers = tuple(process_punctuation(a) for a in answers)
    else:
        raise _unknown("VQA protocol", protocol, VQA_PROTOCOLS)
    return _leave_one_out(answers.count(prediction), len(answers))


def _leave_one_out(n: int, annotators: int) -> Fraction:
    """Mean of min(others / 3, 1): the n who agree each see n - 1 others who do, the rest see n."""
    agreeing, others = n * min(n - 1, _ENOUGH), (annotators - n) * min(n, _ENOUGH)
    return Fraction(agreeing + others, _ENOUGH * annotators)


def _exact_accuracies(
    predictions: Mapping[str, str], records: Sequence[AnsweredQuestion], protocol: str
) -> list[Fraction]:
    known = {record.id for record in records}
    errors = [f'question "{record.id}" has no prediction' for record in records if record.id not in predictions]
    errors += [f'question "{record.id}" has no answers to compare with' for record in records if not record.answers]
    errors += [f'prediction for "{id_}", which is not among the questions' for id_ in predictions if id_ not in known]
    if not records:
        errors.append("there is no question")
    if errors:
        raise DataError(
            f"cannot score {len(predictions):,} predictions of {len(records):,} questions",
            list_errors(errors),
            "predict every question of the split exactly once, and score a split with answers",
        )
    return [_exact_accuracy(predictions[r.id], tuple(r.answers), protocol) for r in records]


def _mean(scores: Sequence[Fraction]) -> float:
    numerators: Counter[int] = Counter()
    for score in scores:
        numerators[score.denominator] += score.numerator
    return float(sum((Fraction(n, d) for d, n in numerators.items()), Fraction(0)) / len(scores))


def _means_by(types: Iterable[str], scores: Sequence[Fraction]) -> dict[str, dict[str, float | int]]:
    grouped: dict[str, list[Fraction]] = {}
    for name, score in zip(types, scores):
        grouped.setdefault(name or "(none)", []).append(score)
    return {name: {"accuracy": _mean(grouped[name]), "count": len(grouped[name])} for name in sorted(grouped)}


def _unknown(what: str, found: str, known: Sequence[str]) -> RecipeError:
    return RecipeError(f'unknown {what} "{found}"', f"known are: {', '.join(known)}", "choose one of these")
