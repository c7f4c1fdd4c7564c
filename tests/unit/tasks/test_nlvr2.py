"""NLVR2: a sentence about two images, each read with it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from toys import regions, toy_builder, toy_cmal

from cmal.data.records import PairRecord
from cmal.tasks.nlvr2 import Nlvr2

IMAGES = {
    "l1": regions(["dog"]),
    "r1": regions(["cat", "tree"]),
    "l2": regions(["tree"]),
    "r2": regions(["dog", "dog"]),
}
RECORDS = [
    PairRecord("a", "l1", "r1", "two dogs", "dev-1-0-0", "False"),
    PairRecord("b", "l2", "r2", "a dog and a tree", "dev-1-1-0", "True"),
    PairRecord("c", "l1", "r2", "the dog", "dev-2-0-0", "True"),
]
TASK = Nlvr2("nlvr2")


def batch(records=RECORDS[:2]):
    return TASK.make_batch(records, toy_builder(IMAGES, anchors=False), np.random.default_rng(0))


def test_all_left_images_come_first_each_with_its_sentence():
    made = batch()
    assert len(made.token_ids) == 4 and made.ids == ("a", "b")
    assert made.region_mask.sum(1).tolist() == [1, 1, 2, 2], "l1 l2 r1 r2"
    assert torch.equal(made.token_ids[:2], made.token_ids[2:])
    assert made.targets["label"].tolist() == [0, 1]


def test_forward_joins_the_two_cls_states_of_a_pair():
    cmal, head, made = toy_cmal(), TASK.build_head(8, 0.0), batch()
    states = cmal.encode(*made.inputs)
    at_cls = cmal.unify(states)[:, 0]
    wanted = head(torch.cat([at_cls[[0, 1]], at_cls[[2, 3]]], dim=1))
    torch.testing.assert_close(TASK.forward(cmal, head, made), wanted)


def test_left_and_right_are_told_apart():
    cmal, head = toy_cmal(), TASK.build_head(8, 0.0)
    turned = PairRecord("a", "r1", "l1", "two dogs", "dev-1-0-0")
    one, other = (TASK.forward(cmal, head, batch([r])) for r in (RECORDS[0], turned))
    assert not torch.allclose(one, other, atol=1e-3)


def test_loss_and_answers_in_numbers():
    logits = torch.tensor([[math.log(0.8), math.log(0.2)], [math.log(0.6), math.log(0.4)]])
    assert TASK.loss(logits, batch()).item() == pytest.approx(-(math.log(0.8) + math.log(0.4)) / 2, abs=1e-6)
    assert TASK.answers(logits, batch()) == {"a": "False", "b": "False"}
    unlabelled = batch([RECORDS[0], PairRecord("d", "l1", "r1", "a cat", "dev-3-0-0")])
    assert TASK.loss(logits, unlabelled).item() == pytest.approx(-math.log(0.8), abs=1e-6)


def test_score_counts_pairs_and_sentences_that_are_right_on_all_of_theirs():
    """Sentence 1 has two pairs, one wrong; sentence 2 has one, right."""
    scores = TASK.score({"a": "False", "b": "False", "c": "True"}, RECORDS, "official")
    assert scores.metrics == {"accuracy": pytest.approx(2 / 3), "consistency": pytest.approx(1 / 2)}
    assert scores.chance == pytest.approx(2 / 3), "always True"
