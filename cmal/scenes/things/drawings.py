"""Renders a kind from its description in `people.txt`, `animals.txt`, `vehicles.txt`, `outdoor.txt` or `indoor.txt`.

A description is the name of the kind, followed by one indented line per part, in drawing order:

    polygon main*0.8 12,4 20,8 16,12     a shape of `Pen`, its fill, its numbers in units
    limb skin 21,74 21,95 width=5        options of the shape follow as name=value
    let tail 12..26                      a random number for the following parts, as in "8,10+tail"
    [walk wave]                          the following parts are for these poses only, until "[all]"
    petals                               a function of `variations`

Fills: "main", "dark" and "light" are the thing's own paint, "ink", "metal", "glass" and "pale" are fixed; "skin", "hair",
"wood" and "roof" are chosen at random once per thing. "main*0.8" is `shade(main, 0.8)`. "pale|620|#78a0d2" is "pale" if
red, green and blue of the thing's main tone sum to less than 620, else "#78a0d2".
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cmal.scenes.things.pen import DARK, GLASS, HAIRS, METAL, PALE, ROOFS, SKINS, WOODS, Colour, Paint, Pen, pick, shade
from cmal.scenes.things.variations import VARIATIONS

FAMILIES = ("people", "animals", "vehicles", "outdoor", "indoor")
ALL: tuple[str, ...] = ("all",)  # every pose
FIXED_FILLS = {"ink": DARK, "metal": METAL, "glass": GLASS, "pale": PALE}
RANDOM_FILLS = {"skin": SKINS, "hair": HAIRS, "wood": WOODS, "roof": ROOFS}


@dataclass(frozen=True)
class Part:
    """One line of a description: the poses that show it ("all" for every pose) and its words."""

    poses: tuple[str, ...]
    words: tuple[str, ...]


@functools.cache
def descriptions() -> dict[str, list[Part]]:
    """The parts of every kind, read from the files."""
    parts: dict[str, list[Part]] = defaultdict(list)
    kind, poses = "", ALL
    for family in FAMILIES:
        for line in Path(__file__).with_name(f"{family}.txt").read_text(encoding="utf-8").splitlines():
            text = line.partition("# ")[0].strip()
            if text.startswith("["):
                poses = tuple(text.strip("[]").split())
            elif line.startswith(" "):
                parts[kind].append(Part(poses, tuple(text.split())))
            elif text:
                kind, poses = text, ALL
    return dict(parts)


@dataclass
class Drawing:
    """Renders the parts of one thing, and keeps its random fills and numbers."""

    pen: Pen
    paint: Paint
    generator: np.random.Generator
    fills: dict[str, Colour] = field(default_factory=FIXED_FILLS.copy)
    numbers: dict[str, float] = field(default_factory=dict)

    def draw(self, kind: str, pose: str) -> None:
        """Renders all parts of the kind in this pose."""
        self.fills |= {"main": self.paint.main, "dark": self.paint.dark, "light": self.paint.light}
        for part in descriptions()[kind]:
            if pose in part.poses or "all" in part.poses:
                self._draw_part(*part.words)

    def _draw_part(self, shape: str, *words: str) -> None:
        if shape in VARIATIONS:
            VARIATIONS[shape](self.pen, self.paint, self.generator)
        elif shape == "let":
            first, last = words[1].split("..")
            self.numbers[words[0]] = self.generator.uniform(float(first), float(last))
        else:
            options = {name: float(value) for name, _, value in (word.partition("=") for word in words) if value}
            numbers = [self._number(text) for word in words[1:] if "=" not in word for text in word.split(",")]
            points = [list(zip(numbers[::2], numbers[1::2]))] if shape in ("polygon", "line", "limb") else numbers
            getattr(self.pen, shape)(*points, self._fill(words[0]), **options)

    def _number(self, text: str) -> float:
        """The sum of the numbers and names in a text like "-8+tail"."""
        total = 0.0
        for sign, term in re.findall(r"([+-]?)([^+-]+)", text):
            value = self.numbers[term] if term in self.numbers else float(term)
            total += -value if sign == "-" else value
        return total

    def _fill(self, text: str) -> Colour:
        name, _, factor = text.partition("*")
        if factor:
            return shade(self._fill(name), float(factor))
        if "|" in name:
            pale, limit, other = name.split("|")
            return self._fill(pale if sum(self.paint.main) < int(limit) else other)
        if name in RANDOM_FILLS and name not in self.fills:
            self.fills[name] = pick(RANDOM_FILLS[name], self.generator)
        if name.startswith("#"):
            red, green, blue = bytes.fromhex(name[1:])
            return red, green, blue
        return self.fills[name]
