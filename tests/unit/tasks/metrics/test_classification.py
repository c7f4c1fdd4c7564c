"""Accuracy, the table per label, and NLVR2's consistency, with numbers a reader can count."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cmal.errors import DataError, ShapeError
from cmal.tasks.metrics import accuracy, accuracy_and_consistency, confusion_table, per_label_table, sentence_of

GOLD = ["yes", "yes", "no", "no", "maybe"]
PREDICTED = ["yes", "no", "no", "no", "yes"]


def test_accuracy_is_the_share_of_equal_labels():
    assert accuracy(PREDICTED, GOLD) == 3 / 5


def test_confusion_rows_are_gold_labels():
    assert confusion_table(PREDICTED, GOLD)["yes"] == {"maybe": 0, "no": 1, "yes": 1}
    assert list(confusion_table(PREDICTED, GOLD, labels=["yes", "no", "maybe"])) == ["yes", "no", "maybe"]


def test_table_per_label():
    table = per_label_table(PREDICTED, GOLD)
    assert table["no"] == {"count": 2, "predicted": 3, "precision": 2 / 3, "recall": 1.0, "f1": 0.8}
    assert table["maybe"] == {"count": 1, "predicted": 0, "precision": 0.0, "recall": 0.0, "f1": 0.0}
    assert per_label_table(["a"], ["a"], labels=["a", "unused"])["unused"]["f1"] == 0


def test_consistency_wants_every_image_pair_of_a_sentence_right():
    # Parts are split-set-pair-sentence: sentence 0 of set 7 comes with two pairs, so does sentence 1.
    identifiers = ["dev-7-0-0", "dev-7-1-0", "dev-7-0-1", "dev-7-1-1"]
    assert accuracy_and_consistency([True, True, True, False], identifiers) == {
        "accuracy": 0.75,
        "consistency": 0.5,
        "count": 4,
        "sentences": 2,
    }


def test_consistency_groups_by_sentence_and_not_by_image_pair():
    identifiers = ["dev-7-0-0", "dev-7-1-0", "dev-7-0-1", "dev-7-1-1"]
    for wrong_pair in ([True, False, True, False], [False, True, False, True]):
        assert accuracy_and_consistency(wrong_pair, identifiers)["consistency"] == 0


def test_the_same_sentence_number_in_another_set_or_split_is_another_sentence():
    assert sentence_of("dev-850-3-1") == "dev-850-1"
    assert len({sentence_of(i) for i in ("dev-1-0-0", "dev-2-0-0", "test1-1-0-0", "dev-1-5-0")}) == 3


def test_real_rows_that_share_a_sentence_name_share_its_text(real_data: Path):
    rows = [json.loads(line) for line in (real_data / "nlvr2" / "dev.json").read_text().splitlines()]
    texts: dict[str, set[str]] = {}
    for row in rows:
        texts.setdefault(sentence_of(row["identifier"]), set()).add(row["sentence"])
    assert len(rows) == 108
    assert all(len(group) == 1 for group in texts.values())
    assert len(texts) == len({row["sentence"] for row in rows}) == 102


def test_bad_input_gets_a_message():
    with pytest.raises(ShapeError, match="there are 1 and 2"):
        accuracy(["a"], ["a", "b"])
    with pytest.raises(DataError, match="there is none"):
        accuracy([], [])
    with pytest.raises(DataError, match='"c" is not among a, b'):
        confusion_table(["a"], ["c"], labels=["a", "b"])
    with pytest.raises(DataError, match="it has 2 parts"):
        sentence_of("dev-7")
    with pytest.raises(DataError, match='"dev-7-0-0" appears twice'):
        accuracy_and_consistency([True, True], ["dev-7-0-0", "dev-7-0-0"])
