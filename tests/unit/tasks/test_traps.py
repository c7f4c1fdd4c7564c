"""Traps that cost other toolkits their numbers: label orders, mirrored pictures, texts without a known word."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from toys import PIECES, regions, toy_builder, toy_cmal

from cmal.data.batch import make_batch
from cmal.data.records import EntailmentRecord, ImageTextRecord, ReferringRecord, VqaRecord
from cmal.tasks.rec import ReferringExpressions
from cmal.tasks.retrieval import Retrieval
from cmal.tasks.snli_ve import SnliVe
from cmal.tasks.vqa import Vqa

IMAGES = {"toy:1": regions(["dog", "cat"], boxes=[[0, 0, 10, 10], [80, 0, 100, 10]]), "toy:2": regions(["tree"])}
UNKNOWN = "zzz qqq"
ORDERS = {
    "UNITER": ("contradiction", "entailment", "neutral"),
    "ALBEF": ("entailment", "neutral", "contradiction"),
    "OFA": ("contradiction", "neutral", "entailment"),
}


@pytest.mark.parametrize("trained", ORDERS)
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_head_with_labels_in_any_foreign_order_gets_the_same_score(trained, order):
    """Labels are strings: a head whose outputs are permuted together with its labels answers the same."""
    labels = ORDERS[trained]
    records = [EntailmentRecord(str(n), "toy:1", "a dog", labels[n % 3]) for n in range(6)]
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    first, turned = SnliVe("snli-ve", labels), SnliVe("snli-ve", [labels[i] for i in order])
    batch = first.make_batch(records, toy_builder(IMAGES, anchors=False), np.random.default_rng(0))
    answers = first.answers(logits, batch)
    assert turned.answers(logits[:, list(order)], batch) == answers
    assert len(set(answers.values())) > 1
    assert first.score(answers, records, "official").metrics == turned.score(answers, records, "official").metrics


def test_nothing_is_ever_mirrored_so_left_stays_left():
    """However often and with whatever draws a batch is made, boxes, features and words are those of the store and record."""
    record = ReferringRecord("1", "1", "toy:1", "the dog", (0.0, 0.0, 10.0, 10.0))
    builder, task = toy_builder(IMAGES, anchors=False), ReferringExpressions("refcoco")
    first = task.make_batch([record], builder, np.random.default_rng(0))
    assert first.boxes_unit[0, :, 0].tolist() == pytest.approx([0.0, 0.8]), "the dog is on the left"
    for seed in range(1, 200):
        batch = task.make_batch([record], builder, np.random.default_rng(seed))
        for name in ("boxes_unit", "features", "token_ids"):
            assert torch.equal(getattr(batch, name), getattr(first, name))
        assert torch.equal(batch.targets["region"], first.targets["region"])


@torch.no_grad()
def test_a_text_without_a_word_of_the_vocabulary_is_unknown_words_and_nothing_breaks():
    builder, cmal = toy_builder(IMAGES), toy_cmal()
    example = builder.build("1", "toy:1", UNKNOWN)
    assert example.token_ids.tolist() == [PIECES.cls_id, PIECES.unknown_id, PIECES.unknown_id, PIECES.sep_id]
    assert len(example.anchors.anchors) == 0
    assert torch.isfinite(cmal.unify(cmal.encode(*make_batch([example]).inputs))).all()
    downstream = toy_builder(IMAGES, anchors=False)
    for task, record in (
        (Retrieval("flickr30k"), ImageTextRecord("1", "toy:1", UNKNOWN)),
        (Vqa("vqa", ["yes", "no"]), VqaRecord("1", "toy:1", UNKNOWN, ("maybe",) * 10)),
        (ReferringExpressions("refcoco"), ReferringRecord("1", "1", "toy:1", UNKNOWN, (0.0, 0.0, 10.0, 10.0))),
    ):
        batch = task.make_batch([record], downstream, np.random.default_rng(0))
        output = task.forward(cmal, task.build_head(8, 0.0).eval(), batch)
        assert torch.isfinite(task.loss(output, batch)) and set(task.answers(output, batch)) == {"1"}


def test_an_answer_outside_the_vocabulary_has_no_target_and_still_counts_in_the_score():
    records = [VqaRecord("1", "toy:1", "a dog ?", ("zebra",) * 10), VqaRecord("2", "toy:1", "a cat ?", ("yes",) * 10)]
    task = Vqa("vqa", ["yes", "no"])
    batch = task.make_batch(records, toy_builder(IMAGES, anchors=False), np.random.default_rng(0))
    assert batch.targets["answers"].tolist() == [[0.0, 0.0], [1.0, 0.0]]
    assert task.score({"1": "yes", "2": "yes"}, records, "official").metrics["accuracy"] == 0.5


def test_expressions_without_a_candidate_box_are_misses_and_are_counted():
    records = [
        ReferringRecord("1", "1", "toy:1", "the dog", (0.0, 0.0, 10.0, 10.0)),
        ReferringRecord("2", "2", "toy:9", "the cat", (0.0, 0.0, 10.0, 10.0)),
    ]
    scores = ReferringExpressions("refcoco").score({"1": [[0, 0, 10, 10]], "2": []}, records, "official")
    assert scores.metrics == {"accuracy": 0.5, "oracle_recall": 0.5} and scores.counts["without_regions"] == 1
