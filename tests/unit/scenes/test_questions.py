"""Questions: true answers, ten annotators, types as in VQA v2, and no good guess without the picture."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from cmal.scenes.language.nouns import NAMES
from cmal.scenes.language.questions import make_questions, question_type_of
from cmal.scenes.scene import Description, Scene, Thing
from cmal.scenes.world import COLOURS, GROUNDS, KINDS, LIGHTS


def random_scene(seed: int) -> Scene:
    draw = np.random.default_rng(seed)
    kinds = [KINDS[i] for i in draw.integers(len(KINDS), size=5)]
    kinds += kinds[:1] * int(draw.integers(0, 4))
    things = []
    for kind in kinds:
        x, y = (int(v) for v in draw.integers(0, 140, size=2))
        things.append(Thing(kind, COLOURS[draw.integers(11)], "medium", "front", (x, y, x + 40, y + 40), 1.0))
    return Scene("train", seed, GROUNDS[draw.integers(4)], LIGHTS[draw.integers(3)], (192, 192), tuple(things))


SCENES = [random_scene(seed) for seed in range(400)]
ASKED = [make_questions(scene, np.random.default_rng(i)) for i, scene in enumerate(SCENES)]


def test_four_questions_with_ten_answers_each():
    assert np.mean([len(questions) for questions in ASKED]) > 3.9
    for question in (q for questions in ASKED for q in questions):
        assert len(question.answers) == 10
        assert Counter(question.answers).most_common(1)[0][0] == question.answer


def test_annotators_disagree_now_and_then():
    agreeing = [len(set(q.answers)) == 1 for questions in ASKED for q in questions]
    assert 0.1 < np.mean(agreeing) < 0.6


def test_no_answer_is_a_good_guess():
    answers = Counter(q.answer for questions in ASKED for q in questions)
    assert answers.most_common(1)[0][1] / answers.total() < 0.3
    assert abs(answers["yes"] - answers["no"]) < 0.15 * (answers["yes"] + answers["no"])


def test_no_answer_is_a_good_guess_for_its_type():
    by_type: dict[str, Counter] = {}
    for question in (q for questions in ASKED for q in questions):
        by_type.setdefault(question.question_type, Counter())[question.answer] += 1
    right = sum(counts.most_common(1)[0][1] for counts in by_type.values())
    assert right / sum(counts.total() for counts in by_type.values()) < 0.35


def test_answer_types_follow_the_answer():
    for question in (q for questions in ASKED for q in questions):
        expected = "yes/no" if question.answer in ("yes", "no") else "number" if question.answer.isdigit() else "other"
        assert question.answer_type == expected


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("What color is the dog?", "what color is the"),
        ("Is there a cat?", "is there a"),
        ("Is there an umbrella?", "is there"),
        ("How many people are there?", "how many people are"),
        ("Where was this picture taken?", "none of the above"),
    ],
)
def test_the_longest_official_prefix_is_the_question_type(question, expected):
    assert question_type_of(question) == expected


def test_counts_and_presence_are_true():
    kind_of = {form: kind for kind in KINDS for pair in NAMES[kind] for form in pair}
    checked = 0
    for scene, questions in zip(SCENES, ASKED):
        for question in questions:
            words = question.text.rstrip("?")
            name = words.removeprefix("How many ").split(" are")[0].split(" can")[0]
            if words.startswith("How many") and name in kind_of:
                assert question.answer == str(len(scene.fitting(Description(kind_of[name])))), question
                checked += 1
            name = words.split(" in ")[0].partition("Is there a ")[2]
            if name in kind_of and " in " not in words.replace(" in the picture", "").replace(" in this photo", ""):
                assert question.answer == ("yes" if scene.fitting(Description(kind_of[name])) else "no"), question
                checked += 1
    assert checked > 100


def test_a_question_for_the_colour_of_a_lone_thing_has_its_colour_as_answer():
    lone = Scene("train", 0, "room", "day", (99, 99), (Thing("vase", "pink", "medium", "front", (9, 9, 50, 50), 1.0),))
    questions = [q for seed in range(30) for q in make_questions(lone, np.random.default_rng(seed))]
    colours = {q.answer for q in questions if q.text.startswith("What color is the vase")}
    assert colours == {"pink"}
