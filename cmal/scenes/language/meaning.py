"""What is true of a scene. Three values: True, False, and None where people could disagree.

Texts only assert what is True and only deny what is False, so no label depends on a few pixels. Left and right are from
the viewer's side. Distance and depth come from the boxes and the drawing order (`Scene.things` is back to front).
"""

from __future__ import annotations

from dataclasses import dataclass

from cmal.scenes.language.nouns import ALSO_CALLED, kinds_named
from cmal.scenes.world import PEOPLE, Scene, Thing

MIN_VISIBLE_SHARE = 0.4  # below this, people disagree about whether it is there and what it is
RELATIONS = ("left of", "right of", "above", "below", "next to", "in front of", "behind")
PLACES = ("left", "right", "middle")
CLEAR_GAP = 0.10  # of the picture's width or height: centres this far apart are clearly left/right, above/below


@dataclass(frozen=True)
class Description:
    """The content of a noun phrase: a kind or group word, colour and size ("" = not mentioned)."""

    noun: str
    colour: str = ""
    size: str = ""


def is_clear(thing: Thing) -> bool:
    """Is enough of it visible that everybody would name and count it?"""
    return thing.visible_share >= MIN_VISIBLE_SHARE


def fits(thing: Thing, description: Description) -> bool:
    """Is every word of the description true of the thing?"""
    return (
        thing.kind in kinds_named(description.noun)
        and description.colour in ("", thing.colour)
        and description.size in ("", thing.size)
    )


def fitting(scene: Scene, description: Description) -> tuple[int, ...]:
    """Indices of all things that the description fits, including hidden ones."""
    kinds = kinds_named(description.noun)
    colour, size = description.colour, description.size
    return tuple(
        [  # innermost loop: a list is twice as fast as a generator
            i
            for i, thing in enumerate(scene.things)
            if thing.kind in kinds and colour in ("", thing.colour) and size in ("", thing.size)
        ]
    )


def is_disputed(scene: Scene, description: Description) -> bool:
    """Is there a thing that only some people would call by this noun (a duck "bird", a person "thing")?"""
    if description.noun == "thing":
        return any(t.kind in PEOPLE and description.colour in ("", t.colour) for t in scene.things)
    disputed = ALSO_CALLED.get(description.noun)
    return disputed is not None and any(t.kind in disputed for t in scene.things)


def is_countable(scene: Scene, description: Description) -> bool:
    """Would everybody count the same number? False if one is nearly hidden or the noun is disputed."""
    if is_disputed(scene, description):
        return False
    kinds = kinds_named(description.noun)
    return not any(t.kind in kinds and not is_clear(t) for t in scene.things)


def centre(thing: Thing) -> tuple[float, float]:
    """(x, y) centre of the box in pixels."""
    x1, y1, x2, y2 = thing.box_xyxy_px
    return (x1 + x2) / 2, (y1 + y2) / 2


def area(thing: Thing) -> int:
    """Area of the box, in square pixels."""
    x1, y1, x2, y2 = thing.box_xyxy_px
    return (x2 - x1) * (y2 - y1)


def _overlap(a: Thing, b: Thing, axis: int) -> int:
    """Overlap of the boxes on an axis in pixels (0 = x, 1 = y). Negative = gap between them."""
    return min(a.box_xyxy_px[axis + 2], b.box_xyxy_px[axis + 2]) - max(a.box_xyxy_px[axis], b.box_xyxy_px[axis])


def _side(scene: Scene, a: Thing, b: Thing, axis: int) -> bool | None:
    """True: `a` is clearly left of (axis 0) or above (axis 1) `b`. False: clearly not. None: unclear."""
    gap = (centre(b)[axis] - centre(a)[axis]) / scene.size_wh_px[axis]
    shorter = min(t.box_xyxy_px[axis + 2] - t.box_xyxy_px[axis] for t in (a, b))
    if gap >= CLEAR_GAP and _overlap(a, b, axis) <= 0.25 * shorter:
        return True
    return False if gap <= -CLEAR_GAP / 2 else None


def _is_next_to(scene: Scene, a: Thing, b: Thing) -> bool | None:
    width, height = scene.size_wh_px
    gap = max(-_overlap(a, b, 0) / width, 0.0)
    gap_down = max(-_overlap(a, b, 1) / height, 0.0)
    shorter = min(t.box_xyxy_px[3] - t.box_xyxy_px[1] for t in (a, b))
    narrower = min(t.box_xyxy_px[2] - t.box_xyxy_px[0] for t in (a, b))
    beside = _overlap(a, b, 1) >= 0.5 * shorter and _overlap(a, b, 0) <= 0.3 * narrower
    if beside and gap <= 0.08:
        return True
    return False if gap >= 0.25 or gap_down >= 0.25 else None


def _is_before(scene: Scene, front: int, back: int) -> bool | None:
    """Does one thing stand in front of the other? None unless their boxes overlap by 12% of the smaller."""
    a, b = scene.things[front], scene.things[back]
    shared = max(_overlap(a, b, 0), 0) * max(_overlap(a, b, 1), 0)
    if shared < 0.12 * min(area(a), area(b)):
        return None
    return front > back


def related(scene: Scene, relation: str, a: int, b: int) -> bool | None:
    """Is thing `a` in this relation (one of RELATIONS) to thing `b`? False if they are the same thing."""
    if a == b:
        return False
    first, second = scene.things[a], scene.things[b]
    if relation in ("left of", "above"):
        return _side(scene, first, second, int(relation == "above"))
    if relation in ("right of", "below"):
        return _side(scene, second, first, int(relation == "below"))
    if relation == "next to":
        return _is_next_to(scene, first, second)
    return _is_before(scene, a, b) if relation == "in front of" else _is_before(scene, b, a)


def placed(scene: Scene, place: str, a: int) -> bool | None:
    """Is the thing on the left, on the right, or in the middle of the picture?"""
    x1, _, x2, _ = scene.things[a].box_xyxy_px
    width = scene.size_wh_px[0]
    x = (x1 + x2) / 2 / width
    if place == "middle":
        return True if 0.42 < x < 0.58 else False if x < 0.3 or x > 0.7 else None
    x = x if place == "left" else 1 - x
    if x < 0.36:
        return True
    return False if x > 0.5 else None


def any_of(values: list[bool | None]) -> bool | None:
    """Three-valued "or"; False of an empty list."""
    return True if True in values else None if None in values else False


def clear_things(scene: Scene) -> list[int]:
    """Indices of the things that texts may mention."""
    return [i for i, thing in enumerate(scene.things) if is_clear(thing)]


def only_fit(scene: Scene, description: Description) -> int | None:
    """The only thing that the description fits. None if there is not exactly one, or it is unclear or disputed."""
    found = fitting(scene, description)
    if len(found) != 1 or not is_clear(scene.things[found[0]]):
        return None
    return None if is_disputed(scene, description) else found[0]


def only_of_kind(scene: Scene) -> list[int]:
    """Indices of the clear things that are the only one of their kind."""
    return [i for i in clear_things(scene) if only_fit(scene, Description(scene.things[i].kind)) == i]


def clear_others(scene: Scene, thing: int) -> list[int]:
    """Indices of the clear things of other kinds than this thing's."""
    return [i for i in clear_things(scene) if scene.things[i].kind != scene.things[thing].kind]
