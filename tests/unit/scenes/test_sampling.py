"""What scenes hold: compositions kept for the test split, duplicates, variety."""

from collections import Counter

import numpy as np
import pytest

from cmal.scenes.sampling import Plan, kinds_on, sample_plan, split_number
from cmal.scenes.things import LOOKS
from cmal.scenes.world import COLOUR_RGB, COLOURS, GROUNDS, KINDS, is_held_out


def _plans(split: str, count: int = 1000) -> list[Plan]:
    return [sample_plan(split, np.random.default_rng([1, split_number(split), index])) for index in range(count)]


def test_a_twelfth_of_the_compositions_is_held_out_evenly():
    pairs = [(kind, colour) for kind in KINDS for colour in COLOURS if is_held_out(kind, colour)]
    assert len(pairs) == 33
    assert max(Counter(kind for kind, _ in pairs).values()) == 1
    assert set(Counter(colour for _, colour in pairs).values()) == {3}


@pytest.mark.parametrize("split", ["train", "val", "detector"])
def test_held_out_compositions_never_appear_outside_test(split):
    assert not any(is_held_out(wish.kind, wish.colour) for plan in _plans(split) for wish in plan.wishes)


def test_held_out_compositions_are_over_sampled_in_test():
    plans = _plans("test")
    with_one = sum(any(is_held_out(wish.kind, wish.colour) for wish in plan.wishes) for plan in plans)
    assert with_one / len(plans) > 0.35


def test_every_kind_colour_and_ground_comes_up_and_stays_plausible():
    plans = _plans("train")
    assert {wish.kind for plan in plans for wish in plan.wishes} == set(KINDS)
    assert {wish.colour for plan in plans for wish in plan.wishes} == set(COLOURS)
    assert {plan.ground for plan in plans} == set(GROUNDS)
    assert all(plan.ground in LOOKS[wish.kind].places for plan in plans for wish in plan.wishes)
    assert all(wish.pose in LOOKS[wish.kind].poses for plan in plans for wish in plan.wishes)


def test_two_of_a_kind_and_two_of_a_colour_are_common():
    plans = _plans("train")
    duplicates = sum(max(Counter(wish.kind for wish in plan.wishes).values()) > 1 for plan in plans)
    same_colour = sum(max(Counter(wish.colour for wish in plan.wishes).values()) > 1 for plan in plans)
    assert duplicates / len(plans) > 0.4 and same_colour / len(plans) > 0.4


def test_every_ground_offers_many_kinds_and_every_kind_has_a_ground():
    assert all(len(kinds_on(ground)) >= 14 for ground in GROUNDS)
    assert {kind for ground in GROUNDS for kind in kinds_on(ground)} == set(KINDS)


def test_a_plan_holds_two_to_six_wishes():
    counts = {len(plan.wishes) for plan in _plans("train")}
    assert counts == {2, 3, 4, 5, 6}


def test_split_names_have_different_numbers_that_stay_the_same():
    names = ("train", "val", "test", "testA", "testB", "detector")
    assert len({split_number(name) for name in names}) == len(names)
    assert split_number("ab") == ord("a") * 257 + ord("b")


def test_the_world_lists_every_colour_and_look():
    assert set(COLOUR_RGB) == set(COLOURS) and set(LOOKS) == set(KINDS)
