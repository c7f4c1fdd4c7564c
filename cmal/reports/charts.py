"""Line charts as inline SVG: long runs thinned to means with a band from least to most, gaps where values are not finite."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cmal.reports.document import tag, text

WIDTH, HEIGHT = 460, 220
LEFT, RIGHT, TOP, BOTTOM = 58, 24, 12, 38
MAX_POINTS = 240
COLOURS = ("#1e66b8", "#d1570e", "#2e7d32", "#8e3fa8")


@dataclass(frozen=True)
class Series:
    """One line (or dots) of a chart: `x` and `y` in step; values that are not finite leave a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    is_dots: bool = False


@dataclass(frozen=True)
class Point:
    """Mean, least and most of the values of one stretch of x."""

    x: float
    mean: float
    least: float
    most: float


def line_chart(title: str, series: Sequence[Series], x_name: str = "step") -> str:
    """A chart with axes, and each series' last value in its legend."""
    thinned = [thin(one.x, one.y) for one in series]
    points = [p for line in thinned for part in line for p in part]
    if not points:
        return tag("figure", tag("figcaption", tag("b", text(title))), tag("p", "no finite values"))
    xs = scale([p.x for p in points], LEFT, WIDTH - RIGHT)
    ys = scale([v for p in points for v in (p.least, p.most)], HEIGHT - BOTTOM, TOP)
    inside = [*_axes(xs, ys, x_name)]
    for one, line, colour in zip(series, thinned, COLOURS):
        inside += _dots(line, xs, ys, colour) if one.is_dots else _line(line, xs, ys, colour)
    picture = tag("svg", *inside, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", class_="chart", aria_label=title)
    return tag("figure", tag("figcaption", tag("b", text(title)), *_legend(series)), picture)


def thin(x: Sequence[float], y: Sequence[float], most: int = MAX_POINTS) -> list[list[Point]]:
    """At most about `most` points, each of some neighbours, in stretches that part where y is not finite.

    Example: y [1, 2, nan, 3] gives two stretches, of two points and of one.
    """
    size = max(1, math.ceil(len(y) / most))
    stretches: list[list[Point]] = [[]]
    for start in range(0, len(y), size):
        values = [v for v in y[start : start + size] if math.isfinite(v)]
        if values:
            middle = sum(x[start : start + size]) / len(x[start : start + size])
            stretches[-1].append(Point(middle, sum(values) / len(values), min(values), max(values)))
        elif stretches[-1]:
            stretches.append([])
    return [stretch for stretch in stretches if stretch]


@dataclass(frozen=True)
class Scale:
    """A stretch of numbers laid on a stretch of the picture, and where its ticks are."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 2)


def scale(values: Sequence[float], start: float, end: float) -> Scale:
    """A scale that holds all values, with about four round ticks."""
    low, high = min(values), max(values)
    if high <= low:
        room = abs(low) / 2 or 0.5
        low, high = low - room, high + room
    step = round_step((high - low) / 4)
    first = math.ceil(low / step - 1e-9)
    ticks = tuple(n * step for n in range(first, math.floor(high / step + 1e-9) + 1))
    return Scale(low, high, start, end, ticks)


def round_step(wanted: float) -> float:
    """The nearest of 1, 2, 5 times a power of ten that is not below `wanted`."""
    power = 10.0 ** math.floor(math.log10(wanted))
    return next(f * power for f in (1.0, 2.0, 5.0, 10.0) if f * power >= wanted * (1 - 1e-9))


def _axes(xs: Scale, ys: Scale, x_name: str) -> Iterator[str]:
    for value in ys.ticks:
        yield tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=ys(value), y2=ys(value), class_="grid")
        yield tag("text", _number(value), x=LEFT - 6, y=ys(value) + 4, class_="tick y")
    for value in xs.ticks:
        yield tag("text", _number(value), x=xs(value), y=HEIGHT - BOTTOM + 16, class_="tick x")
    yield tag("text", text(x_name), x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 4, class_="tick x")
    yield tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=HEIGHT - BOTTOM, y2=HEIGHT - BOTTOM, class_="axis")


def _line(stretches: Sequence[Sequence[Point]], xs: Scale, ys: Scale, colour: str) -> Iterator[str]:
    for stretch in stretches:
        if any(p.most > p.least for p in stretch):
            edge = [(p.x, p.most) for p in stretch] + [(p.x, p.least) for p in reversed(stretch)]
            yield tag("polygon", points=_places(edge, xs, ys), fill=colour, class_="band")
        if len(stretch) == 1:
            yield tag("circle", cx=xs(stretch[0].x), cy=ys(stretch[0].mean), r=2, fill=colour)
        else:
            yield tag(
                "polyline", points=_places([(p.x, p.mean) for p in stretch], xs, ys), stroke=colour, class_="line"
            )


def _dots(stretches: Sequence[Sequence[Point]], xs: Scale, ys: Scale, colour: str) -> Iterator[str]:
    for point in (p for stretch in stretches for p in stretch):
        name = tag("title", f"{_number(point.x)}: {_number(point.mean)}")
        yield tag("circle", name, cx=xs(point.x), cy=ys(point.mean), r=3.5, fill=colour, class_="dot")


def _places(points: Sequence[tuple[float, float]], xs: Scale, ys: Scale) -> str:
    return " ".join(f"{xs(x)},{ys(y)}" for x, y in points)


def _legend(series: Sequence[Series]) -> Iterator[str]:
    for one, colour in zip(series, COLOURS):
        last = next((v for v in reversed(one.y) if math.isfinite(v)), None)
        if last is not None:
            name = f" {one.name} {_number(last)}"
            yield tag("span", tag("span", class_="swatch", style=f"background: {colour}"), text(name), class_="legend")


def _number(value: float) -> str:
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.2g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
