"""What each control of the association probe lets a slot see, and how answers become figures.

The running example, twice: [CLS] a dog runs [SEP], regions tree and dog; the anchor is piece 2 with region 1. Swapped, the
word's slot holds VISUAL(dog) and the region's slot TEXT(dog): they are each other's partner.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from toys import CLASSES, IMAGES_OF_A_GROUP, TEXTS_OF_A_GROUP, on_sphere, toy_builder, toy_cmal, toy_plan

from cmal.data.records import ImageTextRecord
from cmal.model.association import Association
from cmal.model.cmal import UniModal
from cmal.model.pretraining import CmalForPretraining
from cmal.tasks.association_probe import (
    COLUMNS,
    CONDITIONS,
    DIRECTIONS,
    AnchorQuery,
    AssociationProbe,
    accuracies_and_controls,
    disagreeing_sources,
    hide_context,
    probe_association,
    shuffle_swapped_in,
    unify_without_partners,
)

T, R, D, WORD, REGION = 5, 2, 8, 2, 1
PLAN = toy_plan(T, R, 2, example=[0, 1], region=[REGION] * 2, piece_anchor=[0, 1], piece_position=[WORD] * 2)


def states() -> UniModal:
    boxes = torch.rand(2, R, 7, generator=torch.Generator().manual_seed(3))
    real = torch.ones(2, T, dtype=torch.bool), torch.ones(2, R, dtype=torch.bool)
    return UniModal(on_sphere(2, T, D, seed=1), real[0], on_sphere(2, R, D, seed=2), boxes, real[1])


def with_other(states: UniModal, words: list[int], regions: list[int]) -> UniModal:
    """Other vectors at these words and regions of both examples."""
    text, visual = states.text.clone(), states.visual.clone()
    text[:, words], visual[:, regions] = on_sphere(2, len(words), D, seed=4), on_sphere(2, len(regions), D, seed=5)
    return replace(states, text=text, visual=visual)


def word_and_region_slot(hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return hidden[:, WORD], hidden[:, T + REGION]


def in_sight(model, states):
    return model.unify(states, PLAN)


def context_hidden_in_sight(model, states):
    return model.unify(hide_context(states, PLAN), PLAN)


def swapped(model, states):
    return unify_without_partners(model, states, PLAN)


def context_hidden(model, states):
    return unify_without_partners(model, hide_context(states, PLAN), PLAN)


@pytest.mark.parametrize(
    ("condition", "sees_context", "sees_partner"),
    [
        (swapped, True, False),
        (context_hidden, False, False),
        (in_sight, True, True),
        (context_hidden_in_sight, False, True),
    ],
)
@torch.no_grad()
def test_what_a_slot_of_a_swapped_anchor_sees(condition: Callable, sees_context: bool, sees_partner: bool):
    """Whatever it does not see can be another and changes nothing, to the bit; whatever it sees changes it."""
    model, given = toy_cmal(), states()
    word, region = word_and_region_slot(condition(model, given))
    changed = {
        "context": with_other(given, [0, 1, 3, 4], [0]),
        "text of the anchor": with_other(given, [WORD], []),
        "region of the anchor": with_other(given, [], [REGION]),
    }
    seen = {name: word_and_region_slot(condition(model, other)) for name, other in changed.items()}
    same = {name: (torch.equal(word, w), torch.equal(region, r)) for name, (w, r) in seen.items()}
    assert same["context"] == (not sees_context, not sees_context)
    assert same["text of the anchor"] == (not sees_partner, False), "the text is the region slot's guest"
    assert same["region of the anchor"] == (False, not sees_partner), "and the region the word slot's"


@torch.no_grad()
def test_a_slot_without_its_partner_is_what_a_model_without_that_slot_gives():
    """The word's slot comes from an example that has no such region, the region's from one that has no such word."""
    model, given = toy_cmal(), states()
    guests = model.prompt(given.text, given.visual, PLAN)
    no_word, no_region = given.token_mask.clone(), given.region_mask.clone()
    no_word[:, WORD], no_region[:, REGION] = False, False
    word, region = word_and_region_slot(swapped(model, given))
    boxes = given.boxes_unit
    torch.testing.assert_close(word, model.unified(*guests, boxes, given.token_mask, no_region)[:, WORD])
    torch.testing.assert_close(region, model.unified(*guests, boxes, no_word, given.region_mask)[:, T + REGION])


def test_shuffled_guests_visit_and_the_other_slots_stay():
    """Anchor 0 gets the region of anchor 1 and keeps its word; so the word's slot of example 0 holds example 1's region."""
    given = states()
    shuffled = shuffle_swapped_in(given, PLAN, torch.tensor([1, 0]), torch.tensor([0, 1]))
    assert torch.equal(shuffled.visual[:, REGION], given.visual[[1, 0], REGION])
    assert torch.equal(shuffled.visual[:, 0], given.visual[:, 0])
    torch.testing.assert_close(shuffled.text, given.text)


def test_guests_disagree_with_their_place_and_with_each_other():
    """Four anchors each of three concepts: no place has a guest of its own concept, nor two guests of one."""
    concepts = np.repeat([7, 3, 5], 4)
    regions, words = (concepts[guests.numpy()] for guests in disagreeing_sources(concepts, np.random.default_rng(0)))
    assert (regions != concepts).all() and (words != concepts).all() and (regions != words).all()
    assert sorted(regions) == sorted(words) == sorted(concepts), "everyone visits once"


@torch.no_grad()
def test_each_condition_of_the_probe_is_asked_of_its_own_hidden_states(monkeypatch):
    """What the head is given, condition after condition, beside what they are by name."""
    model = CmalForPretraining(toy_cmal(), {"amc": 1.0}, "batch", "unified", len(CLASSES), 3).eval()
    encoded, asked = [], []
    encode, among_micro_batch = model.cmal.encode, model.heads["amc"].among_micro_batch
    monkeypatch.setattr(model.cmal, "encode", lambda *inputs: encoded.append(encode(*inputs)) or encoded[-1])
    monkeypatch.setattr(
        model.heads["amc"],
        "among_micro_batch",
        lambda *given: asked.append((given[0], given[2])) or among_micro_batch(*given),
    )
    records = [ImageTextRecord(*text) for text in TEXTS_OF_A_GROUP]
    probe_association(model, records, toy_builder(IMAGES_OF_A_GROUP), seed=0)
    assert len(encoded) == 1 and len(asked) == 2 * len(CONDITIONS), "one group, without and with the partner"
    given, plan = encoded[0], asked[0][1]
    apart, in_sight = (dict(zip(CONDITIONS, (rows for rows, _ in half))) for half in (asked[:3], asked[3:]))
    alone = hide_context(given, plan)
    assert torch.equal(apart["swapped"], unify_without_partners(model.cmal, given, plan))
    assert torch.equal(apart["context_hidden"], unify_without_partners(model.cmal, alone, plan))
    assert torch.equal(in_sight["swapped"], model.cmal.unify(given, plan))
    assert torch.equal(in_sight["context_hidden"], model.cmal.unify(alone, plan))
    others = [*apart.values(), *in_sight.values()]
    for half in (apart, in_sight):
        shuffled = half["vectors_shuffled"]
        assert sum(torch.equal(shuffled, rows) for rows in others) == 1, "it is none of the others"


@torch.no_grad()
def test_an_answer_is_right_where_the_likeliest_candidate_shares_the_concept(monkeypatch):
    """The head is told what to say: to question i of the c-th of its twelve tables the right one where bit i of 3c + 1 is 1.

    Twelve tables: out of sight and in sight, three conditions each, two directions each.
    """
    model = CmalForPretraining(toy_cmal(), {"amc": 1.0}, "batch", "unified", len(CLASSES), 3).eval()
    reported, asked = [], []

    def among_micro_batch(hidden, tokens, plan):
        same = plan.concept[:, None] == plan.concept[None, :]
        asked.append(same)
        both = []
        for _ in range(2):
            reported.append((3 * len(reported) + 1 >> torch.arange(len(same)) & 1).bool())
            both.append(Association(torch.where(same == reported[-1][:, None], 2.0, 1.0), same))
        return tuple(both)

    monkeypatch.setattr(model.heads["amc"], "among_micro_batch", among_micro_batch)
    records = [ImageTextRecord(*text) for text in TEXTS_OF_A_GROUP]
    probe = probe_association(model, records, toy_builder(IMAGES_OF_A_GROUP), seed=0)
    tables = [half[name][way] for half in (probe.right, probe.in_sight) for name in CONDITIONS for way in DIRECTIONS]
    assert len(reported) == len(tables) == 12 and len({tuple(table.tolist()) for table in reported}) == 12
    for table, wanted in zip(tables, reported):
        assert table.tolist() == wanted.tolist()
    same = asked[0].tolist()
    assert probe.chance.tolist() == pytest.approx([sum(row) / len(row) for row in same])
    assert len({sum(row) for row in same}) > 1, "chance is not the same everywhere"
    assert [answer.is_right for answer in probe.answers["v2t"]] == reported[1].tolist()


def test_accuracies_are_told_under_their_names_and_in_the_order_of_the_columns():
    """Ten questions; of each condition and direction another number of them is right, from 9 down to 1, chance 1/20."""
    counts = iter((9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 10, 9))
    right, in_sight = (
        {name: {way: np.arange(10) < next(counts) for way in DIRECTIONS} for name in CONDITIONS} for _ in range(2)
    )
    questions = tuple(AnchorQuery(0, i, 0, (0, 1)) for i in range(10))
    kinds = np.arange(10) >= 8
    probe = AssociationProbe(questions, np.zeros(10), kinds, right, in_sight, np.full(10, 0.05), {}, 10.0)
    found = probe.accuracies()
    assert (found["association_t2v"], found["association_v2t"], found["anchors"]) == (0.9, 0.8, 10)
    assert found["controls"] == {
        "chance": {"t2v": pytest.approx(0.05), "v2t": pytest.approx(0.05)},
        "context_hidden": {"t2v": 0.7, "v2t": 0.6},
        "vectors_shuffled": {"t2v": 0.5, "v2t": 0.4},
    }
    assert found["partner_in_sight"] == {
        "swapped": {"t2v": 0.3, "v2t": 0.2},
        "context_hidden": {"t2v": 0.1, "v2t": 0.0},
        "vectors_shuffled": {"t2v": 1.0, "v2t": 0.9},
    }
    assert COLUMNS == ("right", "chance", "context hidden", "vectors shuffled", "partner in sight")
    assert accuracies_and_controls(found, "v2t") == (0.8, pytest.approx(0.05), 0.6, 0.4, 0.2)
    assert probe.accuracies(kinds)["association_t2v"] == 0.5, "of the last two the first is right"
