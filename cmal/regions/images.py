"""Reads image files as upright RGB arrays; an error gives the reason.

Files come from anywhere: a name that leads outside the image root (by `..` or a link) is refused, only plain raster
formats are opened (Pillow would start a PostScript interpreter for some others), and nothing larger than
`MAX_PIXELS` is decoded. A file that was cut short is refused. Only PNG has checksums that detect every
changed byte; in other formats a changed byte can go unnoticed.
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from cmal.errors import ImageError, system_word
from cmal.regions.image_ids import IMAGE_ENDINGS

MAX_PIXELS = 89_478_485  # Pillow's own bound against decompression bombs: a quarter of a gigabyte as RGB
PIXELS_PER_CHUNK = 1 << 22  # of grey values beyond 8 bits
_RASTER_FORMATS = ("JPEG", "MPO", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "AVIF", "JPEG2000")

Image.init()  # loads Pillow's readers; which of them exist depends on how it was built
FORMATS = tuple(name for name in _RASTER_FORMATS if name in Image.OPEN)

# read_image refuses by the same bound and says so: Pillow's own line on the terminal would say it twice
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", module=r"PIL\.TiffImagePlugin")  # of damaged tags, which cost no picture


def find_images(root: Path) -> Iterator[Path]:
    """Files below `root` with an image's ending, in sorted order of each folder; linked folders are not entered.

    Raises:
        ImageError: `root` is not a folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise ImageError(f"cannot list images in {root}", "it is not a folder", "check the path")
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            if os.path.splitext(name)[1].lower() in IMAGE_ENDINGS and not name.startswith("."):
                yield Path(folder, name)


def read_image(path: Path, root: Path | None = None) -> np.ndarray:
    """One image as (H, W, 3) uint8 RGB, upright as its EXIF orientation says.

    16-bit grey becomes 8-bit by its high byte, transparency is laid on white, an animation gives its first frame.

    Args:
        path: the file.
        root: the folder that must contain the file, links resolved; None: no restriction.

    Raises:
        ImageError: with the reason in `found`: outside the root, not a file, empty, not an image, truncated, bomb-sized.
    """
    return read_reduced(path, root, None)[0]


def read_reduced(path: Path, root: Path | None, enough_px: int | None) -> tuple[np.ndarray, tuple[int, int]]:
    """One image like `read_image`, and its full (width, height). Fast and small for photographs of many megapixels.

    Args:
        enough_px: a larger image is divided by a whole number while its longer side keeps this many pixels (JPEG is then
            decoded at a fraction of its size); None: the image at its full size.

    Raises:
        ImageError: see `read_image`.
    """
    path = Path(path)
    try:
        raw = _read_bytes(path, root)
        return _decode(raw, enough_px)
    except ImageError:
        raise
    except (Image.DecompressionBombError, MemoryError) as error:
        raise _failed(path, f"bomb-sized: {error}") from error
    except Image.UnidentifiedImageError as error:
        raise _failed(path, "not an image of a known format") from error
    except Exception as error:  # a damaged file can raise any exception inside a decoder
        raise _failed(path, f"damaged: {_one_line(error)}") from error


def _read_bytes(path: Path, root: Path | None) -> bytes:
    if root is not None and not path.resolve().is_relative_to(Path(root).resolve()):
        raise _failed(path, f"it leads outside the image folder {root}")
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise _failed(path, "not a regular file")
        raw = path.read_bytes()
    except OSError as error:
        raise _failed(path, f"the system says: {system_word(error)}") from error
    if not raw:
        raise _failed(path, "the file is empty (zero bytes)")
    return raw


def _decode(raw: bytes, enough_px: int | None) -> tuple[np.ndarray, tuple[int, int]]:
    with Image.open(io.BytesIO(raw), formats=FORMATS) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise Image.DecompressionBombError(f"{width:,} x {height:,} pixels; at most {MAX_PIXELS:,} are read")
        is_png = image.format == "PNG"
    if is_png:  # its checksums detect a flipped byte that the decoder accepts
        with Image.open(io.BytesIO(raw), formats=("PNG",)) as image:
            image.verify()
    with Image.open(io.BytesIO(raw), formats=FORMATS) as image:
        if enough_px:
            share = enough_px / max(width, height)
            image.draft(None, (max(1, int(width * share)), max(1, int(height * share))))
        image.load()
        upright = _upright(image)
        pixels = _as_rgb(upright)
        is_turned = upright.size != image.size
    factor = max(pixels.shape[:2]) // enough_px if enough_px else 1
    if factor > 1:
        pixels = np.array(Image.fromarray(pixels).reduce(factor))
    return pixels, (height, width) if is_turned else (width, height)


def _upright(image: Image.Image) -> Image.Image:
    """Rotated as its EXIF orientation says; unchanged if the EXIF block is damaged."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # the block is foreign binary data: anything may be raised
        return image


def _as_rgb(image: Image.Image) -> np.ndarray:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        grey = _eight_bits(np.asarray(image))
        return np.repeat(grey[:, :, None], 3, axis=2)  # (H, W) -> (H, W, 3)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"))


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Integer or float grey values of 16 or 32 bits as 8 bits; the largest value determines the range.

    Works on some rows at a time, because a large picture would take gigabytes as float64.
    """
    rows = max(1, PIXELS_PER_CHUNK // max(values.shape[1], 1))
    turns = [slice(first, first + rows) for first in range(0, len(values), rows)]
    largest = max((np.nan_to_num(values[turn].astype(np.float64)).max(initial=0.0) for turn in turns), default=0.0)
    out = np.empty(values.shape, np.uint8)
    for turn in turns:
        out[turn] = _in_range(np.nan_to_num(values[turn].astype(np.float64)), largest)
    return out


def _in_range(values: np.ndarray, largest: float) -> np.ndarray:
    if largest > 65535:
        values = values * (255.0 / largest)
    elif largest > 255:
        values = values // 256
    elif 0 < largest <= 1:
        values = values * 255.0
    return np.clip(values, 0, 255).astype(np.uint8)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _failed(path: Path, reason: str) -> ImageError:
    return ImageError(f"cannot read the image {path}", reason, "replace the file, or leave it out")
