"""The pictures of a page: each embedded once, however often it is shown, and a grey field where a file is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cmal.errors import DataError, ImageError
from cmal.regions.image_lists import images_of_folder
from cmal.reports.document import image_uri, tag, text

Box = Sequence[float]
LETTER_WIDTH = 0.66  # of a letter's height, on average


def find_pictures(image_ids: Iterable[str], folders: Sequence[Path], only_in: Path | None) -> dict[str, Path]:
    """Image id -> file.

    Args:
        image_ids: of the pictures to find; the part before ":" names the data set.
        folders: folders to search in this order; missing ones are skipped.
        only_in: the folder to search instead of `folders`, or None.

    Raises:
        DataError: `only_in` holds none of them. ImageError: `only_in` is not a folder.
    """
    needed = set(image_ids)
    datasets = sorted({image_id.partition(":")[0] for image_id in needed})
    found: dict[str, Path] = {}
    for folder in [only_in] if only_in else [folder for folder in folders if folder.is_dir()]:
        for dataset in datasets:
            files = images_of_folder(folder, dataset)
            found |= {image_id: path for image_id, path in files if image_id in needed and image_id not in found}
    if only_in and not found:
        raise DataError(
            f"cannot find images in {only_in}",
            f"the page needs {len(needed):,}, e.g. {min(needed, default='none')}; none of them is there",
            "check --images, or leave it away to go without pictures",
        )
    return found


class Album:
    """Collects the pictures that are shown.

    Args:
        files: image id -> file, as far as known.
        largest_px: pictures with a longer side are scaled down to it.
    """

    def __init__(self, files: Mapping[str, Path], largest_px: int):
        self._files, self._largest_px = files, largest_px
        self._symbols: dict[str, str] = {}

    @property
    def pictures(self) -> int:
        """How many of the images shown have their picture."""
        return sum(bool(symbol) for symbol in self._symbols.values())

    def show(self, image_id: str, image_wh_px: tuple[float, float], over: Iterable[str] = ()) -> str:
        """The picture as SVG in its own pixels, with `over` (SVG as well) drawn on it."""
        width, height = image_wh_px
        if image_id not in self._symbols:
            self._symbols[image_id] = self._symbol(image_id, len(self._symbols))
        if self._symbols[image_id]:
            index = list(self._symbols).index(image_id)
            inside = [tag("use", href=f"#picture-{index}", width=width, height=height)]
        else:
            field = tag("rect", width=width, height=height, class_="nothing")
            words = tag("text", "no picture", x=width / 2, y=height / 2, font_size=width / 24, class_="absent")
            inside = [field, words]
        return tag("svg", *inside, *over, viewBox=f"0 0 {width} {height}", class_="picture", role="img")

    def _symbol(self, image_id: str, index: int) -> str:
        """The picture in a unit square, stretched where it is shown; "" where the file is missing or unreadable."""
        try:
            uri = image_uri(self._files[image_id], self._largest_px)
        except (KeyError, ImageError):
            return ""
        picture = tag("image", href=uri, width=1, height=1, preserveAspectRatio="none")
        return tag("symbol", picture, id=f"picture-{index}", viewBox="0 0 1 1", preserveAspectRatio="none")

    def symbols(self) -> str:
        """The definitions that `show` refers to; they belong on the page once."""
        return tag("svg", *self._symbols.values(), width=0, height=0, class_="album", aria_hidden="true")


def box_of(
    box: Box, name: str, image_wh_px: tuple[float, float], kind: str, colour: str, at_foot: bool = False, **data: object
) -> str:
    """A box with its name in an upper corner (a lower one with `at_foot`), as SVG; the name stays within the image."""
    x1, y1, x2, y2 = (round(float(v), 1) for v in box)
    width, height = image_wh_px
    letter = width / 34
    rect = tag("rect", x=x1, y=y1, width=round(x2 - x1, 1), height=round(y2 - y1, 1), stroke=colour)
    is_cut = x1 + LETTER_WIDTH * letter * len(name) > width  # written leftwards from the right edge instead
    side = (
        {"x": round(min(x2, width) - letter / 4, 1), "text_anchor": "end"}
        if is_cut
        else {"x": round(x1 + letter / 4, 1)}
    )
    y = min(y2, height) - letter / 3 if at_foot else max(y1, 0) + letter
    at = side | {"y": round(y, 1), "font_size": round(letter, 2)}
    return tag("g", rect, tag("text", text(name), fill=colour, **at), class_=f"box {kind}", **data)
