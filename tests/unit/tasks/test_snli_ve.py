"""Visual entailment: three labels, in an order that the checkpoint keeps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from toys import regions, toy_builder, toy_cmal

from cmal.data.records import EntailmentRecord
from cmal.tasks.snli_ve import LABELS, SnliVe

IMAGES = {"toy:1": regions(["dog"]), "toy:2": regions(["cat", "tree"])}
RECORDS = [
    EntailmentRecord("a", "toy:1", "a dog is running", "entailment"),
    EntailmentRecord("b", "toy:1", "a red dog", "neutral"),
    EntailmentRecord("c", "toy:2", "two dogs", "contradiction"),
    EntailmentRecord("d", "toy:2", "a cat", "entailment"),
]


def batch(task: SnliVe, records=RECORDS):
    return task.make_batch(records, toy_builder(IMAGES, anchors=False), np.random.default_rng(0))


def test_targets_and_answers_follow_the_heads_own_order_of_labels():
    """Peers number the three in three ways: with another order both change together."""
    for labels, wanted in ((LABELS, [1, 2, 0, 1]), (("entailment", "neutral", "contradiction"), [0, 1, 2, 0])):
        task = SnliVe("snli-ve", labels)
        made = batch(task)
        assert made.targets["label"].tolist() == wanted
        perfect = torch.nn.functional.one_hot(made.targets["label"], 3).float()
        assert task.answers(perfect, made) == {r.id: r.label for r in RECORDS}


def test_loss_in_numbers_and_hypotheses_without_a_label_cost_nothing():
    task = SnliVe("snli-ve")
    made = batch(task, [RECORDS[0], EntailmentRecord("e", "toy:1", "a dog")])
    logits = torch.tensor([[math.log(0.2), math.log(0.7), math.log(0.1)], [9.0, 0.0, 0.0]])
    assert task.loss(logits, made).item() == pytest.approx(-math.log(0.7), abs=1e-6)


def test_forward_gives_three_logits_a_hypothesis():
    task = SnliVe("snli-ve")
    output = task.forward(toy_cmal(), task.build_head(8, 0.0), batch(task))
    assert output.shape == (4, 3) and len({tuple(row) for row in output.tolist()}) == 4


def test_score_in_numbers():
    """Three of four right; entailment is the commonest label, half of all."""
    answers = {"a": "entailment", "b": "neutral", "c": "neutral", "d": "entailment"}
    scores = SnliVe("snli-ve").score(answers, RECORDS, "official")
    assert scores.metrics == {"accuracy": 0.75} and scores.chance == 0.5
    assert scores.values.tolist() == [1, 1, 0, 1] and scores.clusters == ["toy:1", "toy:1", "toy:2", "toy:2"]
    assert scores.tables["confusion"]["contradiction"]["neutral"] == 1
    assert scores.tables["per_label"]["contradiction"]["recall"] == 0.0
