"""The frame of a page, and how data gets into it: escaped text, tags, images as data URIs."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

from PIL import Image

from cmal.io.files import write_text
from cmal.io.json_stream import replace_surrogates
from cmal.regions.images import read_image

JPEG_QUALITY = 85


def text(value: object) -> str:
    """The value as text in HTML, in an element or in a quoted attribute; half a character is shown as "?"."""
    return replace_surrogates(html.escape(str(value), quote=True))


def tag(name: str, *inner: str, **attributes: object) -> str:
    """An element; `inner` is HTML already, attribute values are escaped. `class_` is class, `data_x` is data-x."""
    pairs = "".join(f' {key.rstrip("_").replace("_", "-")}="{text(value)}"' for key, value in attributes.items())
    return f"<{name}{pairs}>{''.join(inner)}</{name}>"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table of escaped cells; numbers and intervals ("1.2 to 3.4") are right-aligned and stay on a line."""
    head = tag("tr", *(tag("th", text(c)) for c in columns))
    body = [tag("tr", *(tag("td", text(cell), class_=_alignment(cell)) for cell in row)) for row in rows]
    return tag("table", tag("thead", head), tag("tbody", *body))


def _alignment(cell: object) -> str:
    return "number" if str(cell).replace(" to ", "").strip("%-.,+0123456789 ") == "" else "words"


def image_uri(path: Path, largest_px: int) -> str:
    """An image file, upright, each side at most `largest_px` pixels, as a data URI.

    Raises:
        ImageError: it cannot be read.
    """
    picture = Image.fromarray(read_image(path))
    picture.thumbnail((largest_px, largest_px))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def write_page(path: Path, title: str, body: Iterable[str], scripts: Sequence[str] = ()) -> None:
    """Writes the page atomically: a failed write leaves no file.

    Args:
        title: plain text.
        body: HTML.
        scripts: names of scripts among this package's files, run in this order.
    """
    frame = Template(asset("page.html"))
    source = "\n".join(asset(script) for script in scripts)
    write_text(path, frame.substitute(title=text(title), style=asset("page.css"), body="\n".join(body), script=source))


def folded(title: str, inner: str) -> str:
    """HTML that unfolds at a click on its title."""
    return tag("details", tag("summary", text(title)), inner)


def percent(value: float | None) -> str:
    """A share as "12.3 %", or "-" for None."""
    return "-" if value is None else f"{100 * value:.1f} %"


def asset(name: str) -> str:
    """A file of this package."""
    return files("cmal.reports").joinpath(name).read_text(encoding="utf-8")
