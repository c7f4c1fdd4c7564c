"""Contact sheets: many generated pictures with their boxes in one image, for inspection."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from cmal.scenes.scene import Scene
from cmal.scenes.things.pen import luminance
from cmal.scenes.world import COLOUR_RGB

GAP_PX = 6
LINE_PX = 11


def contact_sheet(pictures: Sequence[tuple[Image.Image, Scene]], columns: int = 6, labels: bool = False) -> Image.Image:
    """Arranges pictures in rows and draws a box around every thing, in the thing's colour.

    Args:
        pictures: at least one picture with its scene; all pictures have the same size.
        columns: pictures per row.
        labels: list "colour kind" of every thing below its picture.
    """
    columns = min(columns, len(pictures))
    width, height = pictures[0][1].size_wh_px
    below = LINE_PX * max(len(scene.things) for _, scene in pictures) if labels else 0
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (width + GAP_PX) + GAP_PX, rows * (height + below + GAP_PX) + GAP_PX), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (picture, scene) in enumerate(pictures):
        left = GAP_PX + (number % columns) * (width + GAP_PX)
        top = GAP_PX + (number // columns) * (height + below + GAP_PX)
        sheet.paste(picture, (left, top))
        for line, thing in enumerate(scene.things):
            x0, y0, x1, y1 = thing.box_xyxy_px
            colour = COLOUR_RGB[thing.colour]
            draw.rectangle((left + x0, top + y0, left + x1 - 1, top + y1 - 1), None, colour)
            if labels:
                ink = colour if luminance(colour) < 170 else tuple(c * 2 // 3 for c in colour)
                draw.text((left, top + height + line * LINE_PX), f"{thing.colour} {thing.kind}", fill=ink)
    return sheet
