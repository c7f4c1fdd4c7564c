"""What is shown of one answer, task by task."""

from __future__ import annotations

import numpy as np

from cmal.data.records import EntailmentRecord, ImageTextRecord, PairRecord, ReferringRecord, VqaRecord
from cmal.reports.cards import make_card
from cmal.runs.evaluate import Evaluation


def card(record, answer, value: float):
    return make_card(Evaluation("", None, {record.id: answer}, [record], np.array([value])), 0)


def test_referring_shows_the_chosen_box_beside_the_expected_one():
    record = ReferringRecord("r", "ref", "i:1", "the <dog>", (10, 10, 20, 20), ())
    wrong = card(record, [[0, 0, 10, 10], [10, 10, 30, 30]], 0.0)
    assert [(b.name, b.kind, list(b.box_xyxy_px)) for b in wrong.pictures[0].boxes] == [
        ("expected", "expected", [10, 10, 30, 30]),
        ("chosen", "wrong", [0, 0, 10, 10]),
    ]
    assert wrong.rows == (("chosen", "overlap 0.00, among 2 regions"),) and wrong.state == "wrong"
    right = card(record, [[10, 10, 30, 30]], 1.0)
    assert right.pictures[0].boxes[1].kind == "right" and right.rows[0][1].startswith("overlap 1.00")


def test_referring_without_regions_says_so():
    record = ReferringRecord("r", "ref", "i:1", "dog", (0, 0, 1, 1), ())
    nothing = card(record, [], 0.0)
    assert len(nothing.pictures[0].boxes) == 1 and nothing.rows == (("chosen", "no region to choose from"),)


def test_a_question_shows_the_annotators_answers_most_common_first():
    record = VqaRecord("q", "i:1", "what?", ("cat", "dog", "dog"), "what", "other")
    shown = card(record, "cat", 0.3)
    assert shown.rows == (("answer", "cat"), ("annotators", "dog (2), cat (1)"), ("score", "0.30"))
    assert (shown.state, shown.group, shown.text) == ("partly", "other", "what?")
    assert card(VqaRecord("q", "i:1", "what?"), "cat", 0.0).rows[1] == ("annotators", "none given")


def test_entailment_and_pairs_show_answer_and_label():
    shown = card(EntailmentRecord("e", "i:1", "A dog.", "neutral"), "entailment", 0.0)
    assert shown.rows == (("answer", "entailment"), ("expected", "neutral")) and shown.group == "neutral"
    pair = card(PairRecord("p", "i:1", "i:2", "Two dogs.", "p", "True"), "True", 1.0)
    assert [p.image_id for p in pair.pictures] == ["i:1", "i:2"] and pair.state == "right"


def test_retrieval_shows_the_best_images_and_marks_its_own():
    records = [ImageTextRecord(f"c{i}", f"i:{i}", f"caption {i}") for i in range(7)]
    scores = np.zeros((7, 7))
    scores[:, 2] = [0, 5, 3, 9, 0, 0, 0]  # of caption 2: images 3, 1, 2, then the others in file order
    scores[2] = [8, 0, 3, 7, 0, 0, 0]  # of image 2: captions 0, 3, 2, ...
    shown = make_card(Evaluation("", None, {"scores": scores}, records, np.zeros(7)), 2)
    assert [(p.image_id, p.kind) for p in shown.pictures] == [
        *(("i:3", ""), ("i:1", ""), ("i:2", "right"), ("i:0", ""), ("i:4", "")),
    ]
    assert shown.rows[0][1].startswith("rank 3 of 7")
    assert [row for row in shown.rows[1:4]] == [
        ("✗ 8.00", "caption 0"),
        ("✗ 7.00", "caption 3"),
        ("✓ 3.00", "caption 2"),
    ]
