"""The VQA string metric beside an independent slow implementation written from the definition."""

from __future__ import annotations

import importlib.resources
import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmal.data.answer_normalisation import normalise_answer
from cmal.data.records import VqaRecord
from cmal.tasks.metrics import vqa_accuracies, vqa_scores

# An independent implementation: characters and annotators one at a time, straight from the definition.

MARKS = ';/[]"{}()=+\\_-><@`,?!'
TABLES = json.loads((importlib.resources.files("cmal.data") / "vqa_normalisation.json").read_text())


def slow_punctuation(text: str) -> str:
    has_digit_comma_digit = any(
        text[i - 1].isdecimal() and text[i] == "," and text[i + 1].isdecimal() for i in range(1, len(text) - 1)
    )
    touching = {text[i] for i in range(len(text)) if " " in text[max(i - 1, 0) : i] + text[i + 1 : i + 2]}
    marked = []
    for character in text:
        if character not in MARKS:
            marked.append(character)
        elif not has_digit_comma_digit and character not in touching:
            marked.append(" ")
    kept, removed = [], 0
    for i, character in enumerate(marked):
        digit_follows = i + 1 < len(marked) and marked[i + 1].isdecimal()
        if character == "." and not digit_follows and removed < 32:
            removed += 1
        else:
            kept.append(character)
    return "".join(kept)


def slow_words(text: str) -> str:
    words = []
    for word in text.lower().split():
        if word in TABLES["digit_words"]:
            word = TABLES["digit_words"][word]
        if word in ("a", "an", "the"):
            continue
        words.append(TABLES["contractions"].get(word, word))
    return " ".join(words)


def slow_score(prediction: str, answers: list[str], protocol: str) -> Fraction:
    prediction = prediction.replace("\n", " ").replace("\t", " ").strip()
    if protocol == "official":
        answers = [answer.replace("\n", " ").replace("\t", " ").strip() for answer in answers]
    differ = any(answer != answers[0] for answer in answers)
    if differ or protocol == "albef":
        prediction = slow_words(slow_punctuation(prediction))
    if differ:
        answers = [slow_punctuation(answer) for answer in answers]
    if differ and protocol == "official":
        answers = [slow_words(answer) for answer in answers]
    total = Fraction(0)
    for left_out in range(len(answers)):
        others = [answer for i, answer in enumerate(answers) if i != left_out]
        total += min(Fraction(sum(answer == prediction for answer in others), 3), Fraction(1))
    return total / len(answers)


PIECES = [
    *MARKS,
    *"..  \n\t'0123abxY",
    "the",
    "a",
    "an",
    "Two",
    "none",
    "dont",
    "Im",
    "1,000",
    "red",
    "dog",
    ". ",
    "." * 33,
]


def random_text(generator: np.random.Generator) -> str:
    return "".join(PIECES[i] for i in generator.integers(len(PIECES), size=generator.integers(0, 7)))


def random_question(generator: np.random.Generator) -> tuple[str, list[str]]:
    """Answers that differ in little (case, marks, articles, spaces) so that processing decides who agrees."""
    stems = [random_text(generator) for _ in range(generator.integers(1, 4))]
    dress = [*["{}"] * 9, "{} ", "the {}", "{}.", "{}\n", "{}!", "-{}"]
    answers = [
        dress[generator.integers(len(dress)) if generator.random() < 0.5 else 0].format(
            stems[generator.integers(len(stems))]
        )
        for _ in range(10)
    ]
    prediction = answers[0] if generator.random() < 0.8 else random_text(generator)
    return (prediction.upper() if generator.random() < 0.1 else prediction), answers


@pytest.mark.parametrize("protocol", ["official", "albef"])
def test_ten_thousand_random_questions_agree_with_the_definition_to_the_last_digit(protocol):
    generator = np.random.default_rng([3, 10_000])
    questions = [random_question(generator) for _ in range(10_000)]
    records = [
        VqaRecord(str(i), "coco:1", "?", tuple(a), f"q{i % 7}", f"a{i % 3}") for i, (_, a) in enumerate(questions)
    ]
    predictions = {str(i): prediction for i, (prediction, _) in enumerate(questions)}
    expected = [slow_score(prediction, answers, protocol) for prediction, answers in questions]
    assert vqa_accuracies(predictions, records, protocol).tolist() == [float(x) for x in expected]
    scores = vqa_scores(predictions, records, protocol)
    assert scores["overall"] == float(sum(expected) / 10_000)
    for i in range(3):
        assert scores["per_answer_type"][f"a{i}"]["accuracy"] == float(sum(expected[i::3]) / len(expected[i::3]))
    for i in range(7):
        assert scores["per_question_type"][f"q{i}"]["count"] == len(expected[i::7])
    assert len({float(x) for x in expected}) >= 5, "the random sets are too easy to tell implementations apart"


@given(text=st.text(alphabet="".join(PIECES) + "é²", max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_is_normalised_as_the_definition_says(text):
    cleaned = text.replace("\n", " ").replace("\t", " ").strip()
    assert normalise_answer(text) == slow_words(slow_punctuation(cleaned))


def test_official_processing_decides_some_of_the_random_questions():
    generator = np.random.default_rng([3, 10_000])
    questions = [random_question(generator) for _ in range(2_000)]
    official = [slow_score(*question, "official") for question in questions]
    assert official != [slow_score(*question, "albef") for question in questions]
    raw = [Fraction(sum(a == p for a in answers) >= 4) for p, answers in questions]
    assert sum(o != r for o, r in zip(official, raw)) > 100
