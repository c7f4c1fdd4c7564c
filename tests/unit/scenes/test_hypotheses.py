"""Hypotheses: labels that are right, as many of each, and words that give little away."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np

from cmal.scenes.language.hypotheses import LABELS, _about, _claim, _definite, _unknowable, make_hypotheses
from cmal.scenes.language.nouns import NAMES
from cmal.scenes.scene import Scene, Thing
from cmal.scenes.world import COLOURS, GROUNDS, KINDS, LIGHTS


def random_scene(seed: int) -> Scene:
    draw = np.random.default_rng(seed)
    kinds = [KINDS[i] for i in draw.integers(len(KINDS), size=6)] + [KINDS[seed % len(KINDS)]] * 2
    things = []
    for kind in kinds:
        x, y = (int(v) for v in draw.integers(0, 140, size=2))
        things.append(Thing(kind, COLOURS[draw.integers(11)], "medium", "front", (x, y, x + 40, y + 40), 1.0))
    return Scene("train", seed, GROUNDS[draw.integers(4)], LIGHTS[draw.integers(3)], (192, 192), tuple(things))


SCENES = [random_scene(seed) for seed in range(640)]


def blocks(scenes: list[Scene], first_seed: int = 0):
    return [
        make_hypotheses(scenes[i : i + 16], np.random.default_rng([first_seed, i])) for i in range(0, len(scenes), 16)
    ]


MADE = [hypothesis for block in blocks(SCENES) for scene in block for hypothesis in scene]


def words_of(text: str) -> list[str]:
    words = text.lower().rstrip(".").split()
    return words + [f"{a} {b}" for a, b in itertools.pairwise(words)]


def naive_bayes_accuracy(train, test) -> float:
    """Accuracy of guessing the label from the hypothesis' words and word pairs alone."""
    counts = {label: Counter(w for h in train if h.label == label for w in words_of(h.text)) for label in LABELS}
    prior = Counter(h.label for h in train)
    vocabulary = len(set().union(*counts.values()))

    def score(label: str, text: str) -> float:
        total = counts[label].total() + vocabulary
        return np.log(prior[label]) + sum(np.log((counts[label][w] + 1) / total) for w in words_of(text))

    return float(np.mean([max(LABELS, key=lambda label: score(label, h.text)) == h.label for h in test]))


def one(kind: str, colour: str, ground: str = "room") -> Scene:
    return Scene("train", 0, ground, "day", (99, 99), (Thing(kind, colour, "medium", "front", (5, 5, 40, 40), 1.0),))


def test_about_four_an_image_and_a_third_of_each_label():
    labels = Counter(h.label for h in MADE)
    assert 3.5 < len(MADE) / len(SCENES) < 4.5
    assert max(labels.values()) - min(labels.values()) < 0.03 * len(MADE)


def test_the_words_alone_tell_little():
    half = len(MADE) // 2
    assert naive_bayes_accuracy(MADE[:half], MADE[half:]) < 0.5


def test_every_sentence_comes_under_several_labels():
    labels: dict[str, set[str]] = {}
    for block in blocks(SCENES[:160]):
        here: dict[str, set[str]] = {}
        for hypothesis in (h for scene in block for h in scene):
            here.setdefault(hypothesis.text, set()).add(hypothesis.label)
        assert all(len(found) >= 2 for found in here.values())
        labels |= here
    assert sum(len(found) == 3 for found in labels.values()) > len(labels) / 4


def test_a_sentence_about_the_dog_says_nothing_where_no_dog_is_shown():
    label_in = _about(["dog"], lambda scene, dog: scene.things[dog].colour == "brown")
    assert label_in(one("dog", "brown")) == "entailment"
    assert label_in(one("dog", "black")) == "contradiction"
    assert label_in(one("cat", "brown")) == "neutral"


def test_sentences_drawn_from_a_scene_are_true_of_it():
    for scene in SCENES[:150]:
        for seed in range(3):
            rng = np.random.default_rng([scene.index, seed])
            for maker, label in ((_definite, "entailment"), (_claim, "entailment"), (_unknowable, "neutral")):
                statement = maker(scene, rng)
                if statement is not None:
                    assert statement.label_in(scene) in (label, None), statement.text


def test_labels_of_colours_are_right():
    kind_of = {form: kind for kind in KINDS for pair in NAMES[kind] for form in pair}
    checked = 0
    for start, block in zip(range(0, len(SCENES), 16), blocks(SCENES)):
        for scene, hypotheses in zip(SCENES[start:], block):
            for hypothesis in hypotheses:
                name, _, colour = hypothesis.text.rstrip(".").removeprefix("The ").partition(" is ")
                if hypothesis.text.startswith("The ") and name in kind_of and colour in COLOURS:
                    shown = [thing.colour for thing in scene.things if thing.kind == kind_of[name]]
                    expected = "neutral" if not shown else "entailment" if shown == [colour] else "contradiction"
                    assert hypothesis.label == expected, hypothesis
                    checked += 1
    assert checked > 300


def test_what_no_picture_can_settle_is_neutral_if_the_thing_is_there_and_false_if_not():
    statement = next(s for seed in range(9) if (s := _unknowable(one("cat", "red"), np.random.default_rng(seed))))
    assert statement.label_in(one("cat", "red")) == "neutral"
    assert statement.label_in(one("bus", "red")) == "contradiction"


def test_same_seed_same_hypotheses():
    assert blocks(SCENES[:32]) == blocks(SCENES[:32]) != blocks(SCENES[:32], first_seed=1)
