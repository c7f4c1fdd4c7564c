"""The content of a picture (`Thing`, `Scene`) and what is true of it. Truth has three values: True, False, and None
where people could disagree.

Texts only assert what is True and only deny what is False, so no label depends on a few pixels. Left and right are from
the viewer's side. Distance and depth come from the boxes and the drawing order (`Scene.things` is back to front).
"""

from __future__ import annotations

from dataclasses import dataclass

from cmal.scenes.world import KINDS_NAMED, PEOPLE

MIN_VISIBLE_SHARE = 0.4  # below this, people disagree about whether it is there and what it is
RELATIONS = ("left of", "right of", "above", "below", "next to", "in front of", "behind")
PLACES = ("left", "right", "middle")
CLEAR_GAP = 0.10  # of the picture's width or height: centres this far apart are clearly left/right, above/below

# A duck is a bird too, so a picture with a duck gets no text whose truth depends on "a bird".
ALSO_CALLED = {"bird": ("duck",)}


@dataclass(frozen=True)
class Description:
    """The content of a noun phrase: a kind or group word, colour and size ("" = not mentioned)."""

    noun: str
    colour: str = ""
    size: str = ""


@dataclass(frozen=True)
class Thing:
    """One drawn object of a scene.

    Attributes:
        kind: one of KINDS.
        colour: one of COLOURS, the colour of its main part. For a person: of the clothes.
        size: one of SIZES, relative to the usual size of its kind.
        pose: one of the poses of its kind ("left", "right", "front", ...). No text depends on it.
        box_xyxy_px: tight box of its *visible* pixels; x2 and y2 are exclusive.
        visible_share: visible pixels divided by drawn pixels, in (0, 1].
    """

    kind: str
    colour: str
    size: str
    pose: str
    box_xyxy_px: tuple[int, int, int, int]
    visible_share: float

    @property
    def is_clear(self) -> bool:
        """Is enough of it visible that everybody would name and count it?"""
        return self.visible_share >= MIN_VISIBLE_SHARE

    @property
    def centre(self) -> tuple[float, float]:
        """(x, y) centre of the box in pixels."""
        x1, y1, x2, y2 = self.box_xyxy_px
        return (x1 + x2) / 2, (y1 + y2) / 2

    @property
    def sides(self) -> tuple[int, int]:
        """Width and height of the box in pixels."""
        x1, y1, x2, y2 = self.box_xyxy_px
        return x2 - x1, y2 - y1

    @property
    def area(self) -> int:
        """Area of the box in square pixels."""
        return self.sides[0] * self.sides[1]

    def fits(self, description: Description) -> bool:
        """Is every word of the description true of the thing?"""
        return (
            self.kind in KINDS_NAMED[description.noun]
            and description.colour in ("", self.colour)
            and description.size in ("", self.size)
        )


@dataclass(frozen=True)
class Scene:
    """The content of one generated image. `things` are ordered back to front; each is at least partly visible."""

    split: str
    index: int
    ground: str
    light: str
    size_wh_px: tuple[int, int]
    things: tuple[Thing, ...]

    @property
    def name(self) -> str:
        """Path of the picture below the image root, without suffix: "train/000012"."""
        return f"{self.split}/{self.index:06d}"

    def clear_things(self) -> list[int]:
        """Indices of the things that texts may mention."""
        return [i for i, thing in enumerate(self.things) if thing.is_clear]

    def clear_others(self, thing: int) -> list[int]:
        """Indices of the clear things of other kinds than this thing's."""
        return [i for i in self.clear_things() if self.things[i].kind != self.things[thing].kind]

    def fitting(self, description: Description) -> tuple[int, ...]:
        """Indices of all things that the description fits, including hidden ones."""
        return tuple([i for i, thing in enumerate(self.things) if thing.fits(description)])

    def is_disputed(self, description: Description) -> bool:
        """Is there a thing that only some people would call by this noun (a duck "bird", a person "thing")?"""
        if description.noun == "thing":
            return any(t.kind in PEOPLE and description.colour in ("", t.colour) for t in self.things)
        return any(t.kind in ALSO_CALLED.get(description.noun, ()) for t in self.things)

    def is_countable(self, description: Description) -> bool:
        """Would everybody count the same number? False if one is nearly hidden or the noun is disputed."""
        kinds = KINDS_NAMED[description.noun]
        return all(t.is_clear or t.kind not in kinds for t in self.things) and not self.is_disputed(description)

    def only_fit(self, description: Description) -> int | None:
        """The only thing that the description fits. None if there is not exactly one, or it is unclear or disputed."""
        found = self.fitting(description)
        if len(found) != 1 or not self.things[found[0]].is_clear or self.is_disputed(description):
            return None
        return found[0]

    def only_of_kind(self) -> list[int]:
        """Indices of the clear things that are the only one of their kind."""
        return [i for i in self.clear_things() if self.only_fit(Description(self.things[i].kind)) == i]

    def related(self, relation: str, a: int, b: int) -> bool | None:
        """Is thing `a` in this relation (one of RELATIONS) to thing `b`? False if they are the same thing."""
        if a == b:
            return False
        if relation in ("right of", "below", "behind"):
            a, b = b, a
        if relation == "next to":
            return self._is_next_to(a, b)
        if relation in ("in front of", "behind"):
            return self._is_before(a, b)
        return self._is_ahead(a, b, axis=int(relation in ("above", "below")))

    def placed(self, place: str, a: int) -> bool | None:
        """Is the thing on the left, on the right, or in the middle of the picture?"""
        x = self.things[a].centre[0] / self.size_wh_px[0]
        if place == "middle":
            return True if 0.42 < x < 0.58 else False if x < 0.3 or x > 0.7 else None
        x = x if place == "left" else 1 - x
        return True if x < 0.36 else False if x > 0.5 else None

    def _overlap(self, a: int, b: int, axis: int) -> int:
        """Overlap of the boxes on an axis in pixels (0 = x, 1 = y). Negative = gap between them."""
        one, other = self.things[a].box_xyxy_px, self.things[b].box_xyxy_px
        return min(one[axis + 2], other[axis + 2]) - max(one[axis], other[axis])

    def _shorter(self, a: int, b: int, axis: int) -> int:
        """The shorter side of the two boxes on an axis in pixels."""
        return min(self.things[a].sides[axis], self.things[b].sides[axis])

    def _is_ahead(self, a: int, b: int, axis: int) -> bool | None:
        """True: `a` is clearly left of (axis 0) or above (axis 1) `b`. False: clearly not. None: unclear."""
        gap = (self.things[b].centre[axis] - self.things[a].centre[axis]) / self.size_wh_px[axis]
        if gap >= CLEAR_GAP and self._overlap(a, b, axis) <= 0.25 * self._shorter(a, b, axis):
            return True
        return False if gap <= -CLEAR_GAP / 2 else None

    def _is_next_to(self, a: int, b: int) -> bool | None:
        across, down = self._overlap(a, b, 0), self._overlap(a, b, 1)
        gap, gap_down = max(-across / self.size_wh_px[0], 0.0), max(-down / self.size_wh_px[1], 0.0)
        beside = down >= 0.5 * self._shorter(a, b, 1) and across <= 0.3 * self._shorter(a, b, 0)
        if beside and gap <= 0.08:
            return True
        return False if gap >= 0.25 or gap_down >= 0.25 else None

    def _is_before(self, front: int, back: int) -> bool | None:
        """Does one thing stand in front of the other? None unless their boxes overlap by 12% of the smaller."""
        shared = max(self._overlap(front, back, 0), 0) * max(self._overlap(front, back, 1), 0)
        if shared < 0.12 * min(self.things[front].area, self.things[back].area):
            return None
        return front > back


def any_of(values: list[bool | None]) -> bool | None:
    """Three-valued "or"; False of an empty list."""
    return True if True in values else None if None in values else False
