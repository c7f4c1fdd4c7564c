"""VQA: soft targets over an answer vocabulary, and the official metric of what was answered."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from toys import regions, toy_builder, toy_cmal

from cmal.data.records import VqaRecord
from cmal.tasks.vqa import Vqa

LABELS = ("yes", "no", "red")
IMAGES = {"toy:1": regions(["dog"]), "toy:2": regions(["cat", "tree"])}
RECORDS = [
    VqaRecord("q1", "toy:1", "is the dog red ?", ("yes",) * 8 + ("no",) * 2, "is the", "yes/no"),
    VqaRecord("q2", "toy:2", "the colour ?", ("red",) * 9 + ("blue",), "what colour", "other"),
]


def batch(records=RECORDS, labels=LABELS):
    return Vqa("vqa", labels).make_batch(records, toy_builder(IMAGES, anchors=False), np.random.default_rng(0))


def test_targets_are_soft_by_how_many_annotators_said_so():
    """Three or more of ten: 1.0; two: 0.6; what is not in the vocabulary is left out."""
    made = batch()
    torch.testing.assert_close(made.targets["answers"], torch.tensor([[1.0, 0.6, 0.0], [0.0, 0.0, 1.0]]))


def test_targets_follow_the_order_of_the_labels():
    assert batch(labels=("red", "no", "yes")).targets["answers"][0].tolist() == pytest.approx([0.0, 0.6, 1.0])


def test_questions_without_answers_have_no_target():
    assert batch([VqaRecord("q3", "toy:1", "the dog ?")]).targets["answers"].tolist() == [[0, 0, 0]]


def test_loss_is_the_cross_entropy_of_each_answer_summed_and_averaged_over_questions():
    """Logits 0 say 1/2 of everything: each of three answers costs log 2, whatever the target."""
    task = Vqa("vqa", LABELS)
    assert task.loss(torch.zeros(2, 3), batch()).item() == pytest.approx(3 * math.log(2), abs=1e-6)
    sure = torch.tensor([[50.0, -50.0, -50.0], [-50.0, -50.0, 50.0]])
    assert task.loss(sure, batch()).item() == pytest.approx(0.6 * 50 / 2, rel=1e-4), 'only the 0.6 of "no" costs'


def test_forward_gives_a_logit_an_answer_from_cls_alone():
    task, cmal = Vqa("vqa", LABELS), toy_cmal()
    head = task.build_head(8, 0.0)
    made = batch()
    output = task.forward(cmal, head, made)
    states = cmal.encode(*made.inputs)
    torch.testing.assert_close(output, head(cmal.unify(states)[:, 0]))
    assert output.shape == (2, 3)


def test_answers_are_strings_by_question():
    output = torch.tensor([[0.1, 0.9, 0.2], [0.3, 0.1, 0.7]])
    assert Vqa("vqa", LABELS).answers(output, batch()) == {"q1": "no", "q2": "red"}


def test_score_is_the_official_metric_by_type_with_chance():
    """Two of ten said "no": 8 leave-one-outs keep both (2/3), 2 keep one (1/3): 0.6. "red" is right."""
    scores = Vqa("vqa", LABELS).score({"q1": "no", "q2": "red"}, RECORDS, "official")
    assert scores.metrics == {"accuracy": pytest.approx((0.6 + 1) / 2)}
    assert scores.values.tolist() == pytest.approx([0.6, 1.0]) and scores.clusters == ["toy:1", "toy:2"]
    assert scores.tables["per_answer_type"]["yes/no"]["accuracy"] == pytest.approx(0.6)
    assert scores.chance == pytest.approx(0.5), "always yes (or no: both questions have it as often as any)"
    assert scores.main == "accuracy" and scores.counts == {"questions": 2}


def test_another_protocol_is_passed_on():
    records = [VqaRecord("q", "toy:1", "?", ("a dog",) * 9 + ("cat",), "what", "other")]
    official = Vqa("vqa", LABELS).score({"q": "dog"}, records, "official").metrics["accuracy"]
    albef = Vqa("vqa", LABELS).score({"q": "dog"}, records, "albef").metrics["accuracy"]
    assert (official, albef) == (1.0, 0.0), "official drops the article of the annotators' answers, albef does not"
