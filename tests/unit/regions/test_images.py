"""Every kind of picture is read rightly, every kind of damage says its reason. Files are made here, a few pixels each."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cmal.errors import ImageError
from cmal.regions.images import find_images, read_image, read_reduced

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def saved(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


def two_by_one(left: tuple, right: tuple, mode: str = "RGB") -> Image.Image:
    """A picture of two pixels side by side."""
    image = Image.new(mode, (2, 1))
    image.putpixel((0, 0), left)
    image.putpixel((1, 0), right)
    return image


def test_plain_rgb_keeps_its_pixels_and_its_axes(tmp_path):
    pixels = read_image(saved(tmp_path / "a.png", two_by_one(RED, BLUE)))
    assert pixels.shape == (1, 2, 3) and pixels.dtype == np.uint8
    assert pixels[0].tolist() == [list(RED), list(BLUE)]


def test_grey_becomes_three_equal_channels(tmp_path):
    pixels = read_image(saved(tmp_path / "a.png", Image.new("L", (2, 2), 77)))
    assert pixels.shape == (2, 2, 3) and set(pixels.ravel().tolist()) == {77}


def test_one_bit_pictures_are_black_and_white(tmp_path):
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    assert read_image(saved(tmp_path / "a.png", image))[0, :, 0].tolist() == [0, 255]


def test_sixteen_bit_grey_keeps_its_high_byte(tmp_path):
    values = np.array([[0, 256, 0x8000, 0xFFFF]], np.uint16)
    for name in ("a.png", "a.tif"):
        path = saved(tmp_path / name, Image.fromarray(values))
        assert read_image(path)[0, :, 1].tolist() == [0, 1, 128, 255]


def test_floating_point_grey_between_0_and_1_spans_the_range(tmp_path):
    path = saved(tmp_path / "a.tif", Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32)))
    assert read_image(path)[0, :, 2].tolist() == [0, 127, 255]


def test_a_palette_is_looked_up(tmp_path):
    image = two_by_one(RED, GREEN).convert("P", palette=Image.Palette.ADAPTIVE)
    assert read_image(saved(tmp_path / "a.gif", image))[0].tolist() == [list(RED), list(GREEN)]


def test_transparent_pixels_are_laid_on_white(tmp_path):
    image = two_by_one((255, 0, 0, 255), (9, 9, 9, 0), "RGBA")
    assert read_image(saved(tmp_path / "a.png", image))[0].tolist() == [list(RED), list(WHITE)]


def test_a_transparent_palette_entry_is_white_too(tmp_path):
    image = two_by_one(RED, GREEN).convert("P", palette=Image.Palette.ADAPTIVE)
    path = saved(tmp_path / "a.png", image, transparency=image.getpixel((1, 0)))
    assert read_image(path)[0].tolist() == [list(RED), list(WHITE)]


def test_cmyk_is_turned_into_rgb(tmp_path):
    path = saved(tmp_path / "a.jpg", Image.new("CMYK", (8, 8), (0, 255, 255, 0)), quality=95)
    red, green, blue = read_image(path)[4, 4].tolist()
    assert red > 240 and green < 15 and blue < 15


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (3, 3), colour) for colour in (RED, GREEN, BLUE)]
    path = saved(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert read_image(path)[1, 1].tolist() == list(RED)


@pytest.mark.parametrize(("orientation", "first_pixel"), [(1, RED), (3, BLUE), (6, RED), (8, BLUE)])
def test_exif_rotated_pictures_stand_upright(tmp_path, orientation, first_pixel):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = read_image(saved(tmp_path / "a.png", two_by_one(RED, BLUE), exif=exif))
    assert pixels.shape[:2] == ((2, 1) if orientation in (6, 8) else (1, 2))
    assert pixels[0, 0].tolist() == list(first_pixel)


@pytest.mark.filterwarnings("ignore")
def test_a_damaged_exif_block_does_not_cost_the_picture(tmp_path):
    path = saved(tmp_path / "a.jpg", Image.new("RGB", (16, 8), GREEN), exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")
    assert read_image(path).shape == (8, 16, 3)


def test_the_ending_of_the_name_does_not_matter(tmp_path):
    buffer = io.BytesIO()
    two_by_one(RED, BLUE).save(buffer, "PNG")
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue())
    assert read_image(tmp_path / "a.jpg")[0, 1].tolist() == list(BLUE)


def photo_bytes(kind: str) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_a_file_cut_in_half_is_refused(tmp_path, kind):
    raw = photo_bytes(kind)
    (tmp_path / "a").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(ImageError, match=r"damaged|not an image"):
        read_image(tmp_path / "a")


def test_a_flipped_byte_in_a_png_is_noticed_by_its_checksum(tmp_path):
    raw = bytearray(photo_bytes("PNG"))
    raw[len(raw) // 2] ^= 0x55
    (tmp_path / "a.png").write_bytes(raw)
    with pytest.raises(ImageError, match="damaged"):
        read_image(tmp_path / "a.png")


def png_head(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to no pixel."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0" * 64)
    parts = [struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (body, data)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("size", [(10_000, 10_000), (60_000, 60_000)])
def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, size):
    (tmp_path / "bomb.png").write_bytes(png_head(*size))
    with pytest.raises(ImageError, match="bomb-sized"):
        read_image(tmp_path / "bomb.png")


def test_what_is_no_picture_says_what_it_is(tmp_path):
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("no picture at all")
    (tmp_path / "program.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    for name, says in [
        ("empty.jpg", "empty"),
        ("text.jpg", "not an image"),
        ("program.eps", "not an image"),
        ("folder.jpg", "not a regular file"),
        ("pipe.jpg", "not a regular file"),
        ("nowhere.jpg", "No such file"),
    ]:
        with pytest.raises(ImageError, match=says):
            read_image(tmp_path / name)


def test_names_that_lead_outside_the_root_are_not_followed(tmp_path):
    outside = saved(tmp_path / "secret.png", two_by_one(RED, BLUE))
    root = tmp_path / "root"
    root.mkdir()
    (root / "link.png").symlink_to(outside)
    saved(root / "inside.png", two_by_one(RED, BLUE))
    (root / "good_link.png").symlink_to(root / "inside.png")
    for path in (root / "link.png", root / ".." / "secret.png"):
        with pytest.raises(ImageError, match="leads outside the image folder"):
            read_image(path, root)
    assert read_image(root / "good_link.png", root).shape == (1, 2, 3)


def test_images_of_a_folder_come_sorted_and_others_are_left_out(tmp_path):
    for name in ("b/2.JPG", "b/10.jpeg", "a.png", "notes.txt", ".hidden.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in find_images(tmp_path)] == ["a.png", "b/10.jpeg", "b/2.JPG"]


@pytest.mark.filterwarnings("ignore")
def test_five_hundred_damaged_files_are_read_or_refused_and_nothing_else(tmp_path):
    generator = np.random.default_rng(1)
    path, outcomes = tmp_path / "a", {"read": 0, "refused": 0}
    originals = [photo_bytes(kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")]
    for number in range(500):
        raw = bytearray(originals[number % len(originals)])
        if number % 2:
            raw = raw[: generator.integers(0, len(raw))]
        for place in generator.integers(0, max(1, len(raw)), 3 if len(raw) else 0):
            raw[place] ^= int(generator.integers(1, 256))
        path.write_bytes(raw)
        try:
            pixels = read_image(path)
        except ImageError as error:
            assert error.found
            outcomes["refused"] += 1
        else:
            assert pixels.ndim == 3 and pixels.shape[2] == 3
            outcomes["read"] += 1
    assert outcomes["refused"] > 200 and outcomes["read"] > 20


@pytest.mark.parametrize("name, turned", [("a.jpg", False), ("a.jpg", True), ("a.png", False), ("a.png", True)])
def test_a_large_picture_is_reduced_while_its_longer_side_keeps_enough_pixels(tmp_path, name, turned):
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1  # orientation: a quarter turn
    image = Image.new("RGB", (401, 120), RED)
    image.paste(BLUE, (200, 0, 401, 120))
    path = saved(tmp_path / name, image, exif=exif)
    pixels, size = read_reduced(path, None, enough_px=100)
    assert size == ((120, 401) if turned else (401, 120))
    assert 100 <= max(pixels.shape[:2]) <= 102 and (pixels.shape[0] > pixels.shape[1]) == turned
    first, last = (pixels[0, 0], pixels[-1, -1])
    assert abs(first.astype(int) - RED).max() < 6 and abs(last.astype(int) - BLUE).max() < 6


def test_a_picture_that_is_small_enough_is_read_as_it_is(tmp_path):
    path = saved(tmp_path / "a.jpg", Image.new("RGB", (150, 99), RED))
    pixels, size = read_reduced(path, None, enough_px=100)
    assert size == (150, 99) and np.array_equal(pixels, read_image(path))
