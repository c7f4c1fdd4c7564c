"""500 damaged image files among whole ones, through the command: each is stored as what it shows, or listed and why."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections import Counter

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from cmal.regions.store.store import RegionStore
from cmal.regions.types import Regions
from cmal_cli.app import main

KINDS = {"png": "PNG", "jpg": "JPEG", "gif": "GIF", "bmp": "BMP", "tif": "TIFF", "webp": "WEBP", "ppm": "PPM"}
DAMAGES = ("cut", "flipped", "renamed", "empty", "bomb", "text", "tail lost")
SIZE_WH = (48, 40)


class Thumbnail:
    """A detector of one region, the whole picture, whose feature is the picture itself made 4 x 4."""

    name, weights_sha256, feature_size = "thumbnail", "", 48
    class_names, attribute_names, max_regions = ("picture",), (), 1

    def detect(self, images):
        found = []
        for image in images:
            height, width = image.shape[:2]
            small = np.asarray(Image.fromarray(image).resize((4, 4), Image.Resampling.BOX), np.float32).reshape(1, 48)
            box, one, top = np.array([[0, 0, width, height]], np.float32), np.ones(1), np.eye(1, 10)
            found.append(Regions(small, box, one * 0, one, one * 0 - 1, one * 0, top * 0, top, (width, height)))
        return found


def picture(number: int) -> Image.Image:
    """A picture of large soft patches, so that formats with loss keep it."""
    patches = np.random.default_rng([number, 5]).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize(SIZE_WH, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 95} if kind in ("JPEG", "WEBP") else {}))
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG of a few hundred bytes that unpacks to 60,000 x 60,000 pixels."""
    parts = (b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(b"\0" * 64))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in parts
    )


def damaged(raw: bytes, damage: str, generator: np.random.Generator) -> bytes:
    if damage == "cut":
        return raw[: generator.integers(1, len(raw) - 1)]
    if damage == "flipped":
        changed = bytearray(raw)
        for place in generator.integers(0, len(raw), 3):
            changed[place] ^= int(generator.integers(1, 256))
        return bytes(changed)
    if damage == "tail lost":  # a download that was filled up with zeros
        return raw[: len(raw) * 2 // 3] + bytes(len(raw) - len(raw) * 2 // 3)
    return {"renamed": raw, "empty": b"", "bomb": bomb(), "text": b"<html>404 Not Found</html>"}[damage]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """(damage, format) of each damaged file by image id, the store, the reasons by image id, what the command printed."""
    folder, out = tmp_path_factory.mktemp("damaged"), tmp_path_factory.mktemp("out") / "store"
    generator, kinds, what = np.random.default_rng(4), list(KINDS), {}
    for number in range(500):
        damage, ending = DAMAGES[number % len(DAMAGES)], kinds[number // len(DAMAGES) % len(kinds)]
        raw = damaged(encoded(picture(number), KINDS[ending]), damage, generator)
        written = kinds[(kinds.index(ending) + 1) % len(kinds)] if damage == "renamed" else ending
        (folder / f"{number}.{written}").write_bytes(raw)
        what[f"toy:{number}"] = (damage, ending)
    for number in range(500, 510):
        (folder / f"{number}.jpg").write_bytes(encoded(picture(number), "JPEG"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cmal.regions.detectors.build_detector", lambda *_, **__: Thumbnail())
        options = ["--out", str(out), "--dataset", "toy", "--shard-size", "100", "--workers", "2"]
        result = CliRunner().invoke(main, ["extract-regions", str(folder), *options])
    reasons = {}
    for line in (out / "failed.jsonl").read_text().splitlines():
        row = json.loads(line)
        reasons[row["image_id"]] = row["reason"]
    return what, RegionStore.open(out), reasons, result


def test_the_run_ends_well_and_counts(outcome):
    _, store, reasons, result = outcome
    assert result.exit_code == 0, result.output
    assert f"{len(store)} images stored" in result.output and f"{len(reasons)} failed" in result.output


def test_each_file_is_stored_or_listed_and_none_is_both(outcome):
    what, store, reasons, _ = outcome
    ids = {*what, *(f"toy:{number}" for number in range(500, 510))}
    assert set(store) | set(reasons) == ids and not set(store) & set(reasons)
    assert all(reason.strip() for reason in reasons.values())


def test_reasons_are_those_of_the_damage(outcome):
    what, _, reasons, _ = outcome
    expected = {"empty": "the file is empty", "bomb": "bomb-sized", "text": "not an image"}
    for image_id, (damage, _) in what.items():
        if damage in expected:
            assert reasons[image_id].startswith(expected[damage]), (image_id, damage)
    counts = Counter(damage for image_id, (damage, _) in what.items() if image_id in reasons)
    assert counts["cut"] >= 70 and counts["flipped"] >= 15


def gap(store: RegionStore, image_id: str) -> float:
    """How far the stored thumbnail is from the undamaged picture's, grey levels on average."""
    (original,) = Thumbnail().detect([np.asarray(picture(int(image_id.partition(":")[2])))])
    return float(np.abs(store[image_id].features.astype(np.float32) - original.features).mean())


def test_whole_files_of_a_wrong_name_show_their_picture(outcome):
    what, store, _, _ = outcome
    renamed = [image_id for image_id, (damage, _) in what.items() if damage == "renamed"]
    whole = [f"toy:{number}" for number in range(500, 510)]
    assert len(renamed) >= 70
    for image_id in (*renamed, *whole):
        tolerance = 12 if what.get(image_id, ("", ""))[1] == "gif" else 4  # 256 colours, or a lossy format
        assert gap(store, image_id) < tolerance, image_id
        assert store[image_id].image_wh_px == SIZE_WH


def test_a_file_that_was_cut_short_is_never_taken_for_a_picture(outcome):
    what, store, _, _ = outcome
    assert not [image_id for image_id, (damage, _) in what.items() if damage == "cut" and image_id in store]


def test_a_png_that_is_stored_shows_its_picture_to_the_last_bit(outcome):
    """It has checksums over everything that counts; the other formats let some changed bytes pass unseen."""
    what, store, _, _ = outcome
    flipped = {ending: [] for ending in KINDS}
    for image_id, (damage, ending) in what.items():
        if damage != "renamed" and image_id in store:
            assert store[image_id].image_wh_px == SIZE_WH or ending != "png"
            flipped[ending] += [gap(store, image_id)] if damage == "flipped" else []
            assert ending != "png" or gap(store, image_id) == 0
    for ending in ("bmp", "tif", "ppm"):  # three bytes of 5,760 are three wrong numbers
        assert flipped[ending] and max(flipped[ending]) < 1
