"""Referring expressions fit exactly one thing, by an evaluation of what they mean."""

from __future__ import annotations

import numpy as np

from cmal.scenes.drawing import make_scene
from cmal.scenes.language.expressions import Expression, make_references, put_in_words, referents
from cmal.scenes.scene import Description, Scene, Thing
from cmal.scenes.world import COLOURS, KINDS, SIZES


def thing(kind: str, colour: str, x: int, width: int = 20, visible: float = 1.0) -> Thing:
    return Thing(kind, colour, "medium", "front", (x, 50, x + width, 70), visible)


# From the left: red cup, blue cup, red cup (twice as wide), lamp.
CUPS = Scene(
    "train",
    0,
    "room",
    "day",
    (200, 100),
    (thing("cup", "red", 10), thing("cup", "blue", 60), thing("cup", "red", 110, 40), thing("lamp", "white", 170)),
)


def random_scene(seed: int) -> Scene:
    """Boxes of six to ten things at random, several of one kind."""
    draw = np.random.default_rng(seed)
    kinds = [KINDS[i] for i in draw.integers(len(KINDS), size=5)]
    kinds += kinds[:1] * int(draw.integers(1, 4)) + kinds[1:2] * int(draw.integers(0, 2))
    things = []
    for kind in kinds:
        (w, h), x, y = draw.integers(20, 60, size=2), draw.integers(0, 130), draw.integers(30, 130)
        box = (int(x), int(y), int(x + w), int(y + h))
        colour, size = COLOURS[draw.integers(11)], SIZES[draw.integers(3)]
        things.append(Thing(kind, colour, size, "front", box, float(draw.choice([1.0, 0.9, 0.3]))))
    return Scene("train", seed, "field", "day", (192, 192), tuple(things))


def test_evaluator_counts_what_the_words_fit():
    cup, red_cup = Description("cup"), Description("cup", "red")
    assert referents(CUPS, Expression(cup)) == (0, 1, 2)
    assert referents(CUPS, Expression(red_cup)) == (0, 2)
    assert referents(CUPS, Expression(cup, side="left")) == (0,)
    assert referents(CUPS, Expression(cup, side="left", rank=1)) == (1,)
    assert referents(CUPS, Expression(red_cup, side="right", rank=1)) == (0,)
    assert referents(CUPS, Expression(cup, side="middle")) == (1,)
    assert referents(CUPS, Expression(cup, extreme="largest")) == (2,)
    assert (
        referents(CUPS, Expression(cup, relation="next to", other=Description("lamp"))) is None
    )  # 20 px off: who knows
    assert referents(CUPS, Expression(red_cup, relation="left of", other=Description("cup", "blue"))) == (0,)
    assert referents(CUPS, Expression(cup, extreme="smallest")) is None  # two of one size


def test_hidden_doubles_make_an_expression_a_matter_of_opinion():
    hidden = Scene(
        "train", 0, "room", "day", (200, 100), (thing("cup", "red", 10), thing("cup", "red", 60, visible=0.1))
    )
    assert referents(hidden, Expression(Description("cup"))) is None


def test_every_expression_fits_only_its_thing():
    checked = 0
    for seed in range(150):
        scene = random_scene(seed)
        for reference in make_references(scene, np.random.default_rng(seed)):
            assert 1 <= len(reference.sentences) <= 3
            for meaning in reference.meanings:
                assert referents(scene, meaning) == (reference.thing,)
                checked += 1
    assert checked > 500


def test_the_noun_alone_is_seldom_enough():
    alone = total = 0
    for index in range(60):
        _, scene = make_scene(0, "val", index)
        for reference in make_references(scene, np.random.default_rng(index)):
            for meaning in reference.meanings:
                alone += referents(scene, Expression(Description(meaning.what.noun))) == (reference.thing,)
                total += 1
    assert alone / total < 0.3


def test_words_say_what_the_expression_means():
    def words(**meaning) -> set[str]:
        texts = (put_in_words(CUPS, Expression(**meaning), np.random.default_rng(seed)).text for seed in range(60))
        return {text.lower().removeprefix("the ") for text in texts}

    cup = Description("cup")
    assert words(what=cup, side="left", rank=1) == {"second cup from the left"}
    assert words(what=cup, side="left") == {"left cup", "leftmost cup", "cup on the left", "cup on the far left"}
    assert words(what=Description("cup", "red")) == {"red cup"}
    assert words(what=cup, relation="left of", other=Description("lamp")) == {
        "cup to the left of the lamp",
        "cup left of the lamp",
    }
