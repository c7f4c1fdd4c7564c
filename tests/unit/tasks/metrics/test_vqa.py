"""Training targets, score tables, and what bad predictions get. The string metric itself is in tests/parity."""

from __future__ import annotations

import pytest

from cmal.data.records import VqaRecord
from cmal.errors import DataError, RecipeError
from cmal.tasks.metrics import soft_targets, vqa_accuracy, vqa_scores


def question(id_: str, answers: list[str], kind: str = "what is", answer_type: str = "other") -> VqaRecord:
    return VqaRecord(id_, "coco:1", "What?", tuple(answers), kind, answer_type)


def test_soft_targets_are_point_three_a_vote_up_to_one():
    answers = ["red"] * 4 + ["dark red"] * 3 + ["maroon"] * 2 + ["pink"]
    assert soft_targets(answers) == {"red": 1.0, "dark red": 0.9, "maroon": 0.6, "pink": 0.3}


def test_soft_targets_count_answers_that_normalise_alike_as_one_and_drop_empty_ones():
    assert soft_targets(["Two", "2", "2.", "the", "a"]) == {"2": 0.9}


def test_for_ten_answers_both_kinds_of_soft_target_are_equal_and_equal_the_metric():
    answers = ["red"] * 5 + ["blue"] * 3 + ["green", "green"]
    assert soft_targets(answers) == soft_targets(answers, "leave_one_out")
    assert soft_targets(answers) == {answer: vqa_accuracy(answer, answers) for answer in ("red", "blue", "green")}


def test_a_single_answer_has_no_leave_one_out_target():
    assert soft_targets(["red"]) == {"red": 0.3}
    assert soft_targets(["red"], "leave_one_out") == {}


def test_scores_by_type_are_means_of_their_own_questions():
    records = [
        question("1", ["yes"] * 10, "is the", "yes/no"),
        question("2", ["yes"] * 10, "is the", "yes/no"),
        question("3", ["red"] * 3 + ["blue"] * 7, "what color", "other"),
        question("4", ["x"] * 10, ""),
    ]
    scores = vqa_scores({"1": "yes", "2": "no", "3": "red", "4": "x"}, records)
    assert scores["overall"] == (1 + 0 + 0.9 + 1) / 4
    assert scores["count"] == 4
    assert scores["per_answer_type"] == {
        "other": {"accuracy": 0.95, "count": 2},
        "yes/no": {"accuracy": 0.5, "count": 2},
    }
    assert scores["per_question_type"] == {
        "(none)": {"accuracy": 1.0, "count": 1},
        "is the": {"accuracy": 0.5, "count": 2},
        "what color": {"accuracy": 0.9, "count": 1},
    }


def test_missing_unknown_and_unanswerable_questions_are_told_together():
    records = [question("1", ["yes"] * 10), question("2", [])]
    with pytest.raises(DataError) as error:
        vqa_scores({"2": "no", "9": "no"}, records)
    assert str(error.value) == (
        "cannot score 2 predictions of 2 questions\n"
        '  question "1" has no prediction\n'
        '  question "2" has no answers to compare with\n'
        '  prediction for "9", which is not among the questions\n'
        "  predict every question of the split exactly once, and score a split with answers"
    )


def test_no_question_at_all_is_an_error_and_not_a_division_by_zero():
    with pytest.raises(DataError, match="there is no question"):
        vqa_scores({}, [])


def test_an_unknown_protocol_names_the_known_ones():
    with pytest.raises(RecipeError, match="known are: official, albef"):
        vqa_accuracy("yes", ["yes"], protocol="blip")
    with pytest.raises(RecipeError, match="known are: counts, leave_one_out"):
        soft_targets(["yes"], method="mean")


def test_the_answers_of_a_test_split_cannot_be_scored():
    with pytest.raises(DataError, match="no annotators' answers"):
        vqa_accuracy("yes", [])
