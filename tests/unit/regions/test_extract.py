"""Extraction: every image once, in whole shards; killed or not, damaged images or not, the store is the same."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import resource
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cmal.errors import CmalError, DataError, StoreError
from cmal.io.locks import hold_folder
from cmal.regions.extract import ExtractionReport, extract_regions, read_failures
from cmal.regions.store.layout import COLUMNS, read_index
from cmal.regions.store.shards import write_shard
from cmal.regions.store.store import RegionStore
from cmal.regions.store.verify import merge_store, verify_store
from cmal.regions.types import Regions


class MeanColour:
    """A detector one can check by eye: one region, the whole picture, its feature the mean colour."""

    name, weights_sha256, feature_size = "mean-colour", "w1", 3
    class_names, attribute_names = ("picture",), ()
    max_regions = 1

    def __init__(self, pause_s: float = 0.0):
        self.seen, self.batches, self.pause_s = 0, [], pause_s

    def detect(self, images):
        time.sleep(self.pause_s)
        self.seen += len(images)
        self.batches.append(len(images))
        return [self._region(image) for image in images]

    @staticmethod
    def _region(image: np.ndarray) -> Regions:
        height, width = image.shape[:2]
        one, top = np.ones(1), np.eye(1, 10)
        box = np.array([[0, 0, width, height]], np.float32)
        feature = image.reshape(-1, 3).mean(0)[None]
        return Regions(feature, box, one * 0, one, one * 0 - 1, one * 0, top * 0, top, (width, height))


@pytest.fixture
def pictures(tmp_path):
    """Ten plain pictures: number n is (n, n, n) throughout. As (id, path), in no good order."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(10):
        Image.new("RGB", (4, 3), (number, number, number)).save(folder / f"{number}.png")
    return [(f"toy:{number}", folder / f"{number}.png") for number in (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)]


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file of a store, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_each_image_is_stored_under_its_id_in_sorted_shards(pictures, tmp_path):
    detector = MeanColour()
    summary = extract_regions(pictures, detector, tmp_path / "s", batch_size=3, shard_size=4)
    assert (summary.images, summary.failed, summary.skipped) == (10, 0, 0)
    store = RegionStore.open(tmp_path / "s")
    assert store.image_ids == [f"toy:{number}" for number in range(10)]
    assert all(store[f"toy:{number}"].features[0].tolist() == [number] * 3 for number in range(10))
    assert [shard.images for shard in read_index(tmp_path / "s")[1]] == [4, 4, 2]
    assert detector.batches == [3, 1, 3, 1, 2], "a batch must not reach into the next shard"


def test_a_second_run_has_nothing_to_do_and_changes_nothing(pictures, tmp_path):
    extract_regions(pictures, MeanColour(), tmp_path / "s", shard_size=4)
    before, detector = bytes_of(tmp_path / "s"), MeanColour()
    summary = extract_regions(reversed(pictures), detector, tmp_path / "s", shard_size=4)
    assert (summary.images, summary.skipped, detector.seen) == (0, 10, 0)
    assert bytes_of(tmp_path / "s") == before


def test_only_missing_shards_are_done_again(pictures, tmp_path):
    extract_regions(pictures, MeanColour(), tmp_path / "s", shard_size=4)
    before, detector = bytes_of(tmp_path / "s"), MeanColour()
    (tmp_path / "s" / "part-00001.h5").write_bytes(b"damaged")
    assert verify_store(tmp_path / "s") == [("part-00001.h5", f"has 7 bytes, not {len(before['part-00001.h5']):,}")]
    extract_regions(pictures, detector, tmp_path / "s", shard_size=4)
    assert detector.seen == 4 and bytes_of(tmp_path / "s") == before


def test_a_single_flipped_bit_is_found(pictures, tmp_path):
    extract_regions(pictures, MeanColour(), tmp_path / "s", shard_size=4)
    assert verify_store(tmp_path / "s") == []
    path = tmp_path / "s" / "part-00002.h5"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    assert verify_store(tmp_path / "s") == [("part-00002.h5", "has other bytes than were written")]
    assert [shard.name for shard in read_index(tmp_path / "s")[1]] == ["part-00000.h5", "part-00001.h5"]


def test_new_images_go_into_new_shards(pictures, tmp_path):
    first = sorted(pictures)[2:8]
    extract_regions(first, MeanColour(), tmp_path / "s", shard_size=4)
    old, detector = bytes_of(tmp_path / "s"), MeanColour()
    summary = extract_regions(pictures, detector, tmp_path / "s", shard_size=4)
    assert (summary.images, summary.skipped, detector.seen) == (4, 6, 4)
    new = bytes_of(tmp_path / "s")
    assert all(new[name] == old[name] for name in ("part-00000.h5", "part-00001.h5"))
    assert len(RegionStore.open(tmp_path / "s")) == 10


def test_parts_done_by_several_runs_make_the_same_store(pictures, tmp_path):
    extract_regions(pictures, MeanColour(), tmp_path / "whole", shard_size=2)
    for number in (2, 0, 1):
        extract_regions(pictures, MeanColour(), tmp_path / "parts", shard_size=2, shard=(number, 3))
    assert bytes_of(tmp_path / "parts") == bytes_of(tmp_path / "whole")


def test_a_shard_is_written_while_the_detector_looks_at_the_next(pictures, tmp_path, monkeypatch):
    looks_at_the_second = threading.Event()

    class Telling(MeanColour):
        def detect(self, images):
            if self.seen == 5:
                looks_at_the_second.set()
            return super().detect(images)

    def patient(*arguments):
        assert looks_at_the_second.wait(20), "the detector waits for the writing"
        return write_shard(*arguments)

    monkeypatch.setattr("cmal.regions.extract.write_shard", patient)
    assert extract_regions(pictures, Telling(), tmp_path / "s", shard_size=5).images == 10


def test_unreadable_images_are_listed_with_their_reason_and_the_run_goes_on(pictures, tmp_path):
    root = tmp_path / "images"
    (root / "4.png").write_bytes(b"")
    (root / "7.png").write_bytes((root / "7.png").read_bytes()[:50])
    (root / "9.png").unlink()
    (root / "9.png").symlink_to("/etc/hostname")
    summary = extract_regions(pictures, MeanColour(), tmp_path / "s", shard_size=4, root=root)
    assert (summary.images, summary.failed) == (7, 3)
    lines = read_failures(tmp_path / "s")
    assert [(line["image_id"], line["path"]) for line in lines] == [
        ("toy:4", "4.png"),
        ("toy:7", "7.png"),
        ("toy:9", "9.png"),
    ]
    assert lines[0]["reason"] == "the file is empty (zero bytes)"
    assert lines[1]["reason"].startswith("damaged") and "leads outside" in lines[2]["reason"]
    assert "toy:4" not in RegionStore.open(tmp_path / "s")


def test_another_detector_or_other_settings_are_refused_with_the_difference(pictures, tmp_path):
    extract_regions(pictures, MeanColour(), tmp_path / "s")
    other = MeanColour()
    other.weights_sha256, other.settings = "w2", {"max_regions": 5}
    with pytest.raises(StoreError) as error:
        extract_regions(pictures, other, tmp_path / "s")
    assert "detector.weights_sha256: 'w1' in the store, 'w2' now" in str(error.value)
    assert "settings.max_regions: None in the store, 5 now" in str(error.value)


def test_a_store_that_the_disk_cannot_hold_is_refused_before_the_first_image(pictures, tmp_path, monkeypatch):
    detector = MeanColour()
    detector.max_regions = 10**13
    with pytest.raises(StoreError, match=r"10 images with up to 10000000000000 regions need [\d.]+ GB; the disk has"):
        extract_regions(pictures, detector, tmp_path / "s")
    assert detector.seen == 0


def test_the_size_is_foretold(pictures, tmp_path):
    reported: list[ExtractionReport] = []
    extract_regions(pictures, MeanColour(), tmp_path / "s", report=reported.append, batch_size=5)
    assert reported[0].note.startswith("10 images, 0.0 MB at up to 1 regions an image")
    assert (reported[-1].done, reported[-1].total, reported[-1].failed) == (10, 10, 0)


def test_two_writers_do_not_meet_and_the_second_is_told_of_the_first(pictures, tmp_path):
    says = rf"process {os.getpid()} on .* has held it since"
    with hold_folder(tmp_path / "s"), pytest.raises(CmalError, match=says):
        extract_regions(pictures, MeanColour(), tmp_path / "s")
    with hold_folder(tmp_path / "s", (0, 2)):
        with pytest.raises(CmalError, match="cannot write into"):
            extract_regions(pictures, MeanColour(), tmp_path / "s", shard=(0, 2))
        extract_regions(pictures, MeanColour(), tmp_path / "s", shard=(1, 2), shard_size=5)
    extract_regions(pictures, MeanColour(), tmp_path / "s", shard_size=5)
    assert len(RegionStore.open(tmp_path / "s")) == 10


def test_two_files_of_one_id_and_an_empty_list_are_refused(pictures, tmp_path):
    with pytest.raises(DataError, match='the image id "toy:3" stands for two files'):
        extract_regions([*pictures, ("toy:3", Path("elsewhere.png"))], MeanColour(), tmp_path / "s")
    with pytest.raises(DataError, match="there is no image"):
        extract_regions([], MeanColour(), tmp_path / "s")


def test_features_that_are_not_finite_fail_their_image_alone(pictures, tmp_path):
    class Broken(MeanColour):
        def detect(self, images):
            found = super().detect(images)
            for one in found:
                one.features[one.features == 6] = np.nan
            return found

    summary = extract_regions(pictures, Broken(), tmp_path / "s")
    assert (summary.images, summary.failed) == (9, 1)
    assert read_failures(tmp_path / "s")[0]["reason"] == "the detector gave features that are not finite"


def test_one_merged_file_holds_what_the_folder_holds(pictures, tmp_path):
    extract_regions(pictures, MeanColour(), tmp_path / "s", shard_size=4)
    folder, merged = (
        RegionStore.open(path) for path in (tmp_path / "s", merge_store(tmp_path / "s", tmp_path / "s.h5"))
    )
    assert merged.image_ids == folder.image_ids and merged.header == folder.header
    for image_id in folder:
        assert merged[image_id].features.tolist() == folder[image_id].features.tolist()
        assert merged[image_id].image_wh_px == (4, 3)


def _slow_extraction(pictures: list, out: Path) -> None:
    extract_regions(pictures, MeanColour(pause_s=0.004), out, batch_size=1, shard_size=2)


def _kill_and_finish(pictures: list, out: Path, generator: np.random.Generator, most: int) -> int:
    """Starts extractions, kills up to `most` of them at work at random moments, lets the last one finish; how many died."""
    killed, context = 0, multiprocessing.get_context("fork")
    for _ in range(most):
        process = context.Process(target=_slow_extraction, args=(pictures, out))
        process.start()
        time.sleep(float(generator.uniform(0.0, 0.12)))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        killed += process.exitcode == -signal.SIGKILL and not _is_finished(out, pictures)
        if (out / "index.json").exists():
            json.loads((out / "index.json").read_text())
            RegionStore.open(out)
    _slow_extraction(pictures, out)
    return killed


def _is_finished(out: Path, pictures: list) -> bool:
    return (out / "index.json").exists() and len(read_index(out)[1]) == len(pictures) // 2


@pytest.mark.parametrize("kills", [6, pytest.param(50, marks=pytest.mark.slow)])
def test_kill_9_at_any_moment_leaves_the_bytes_of_an_undisturbed_run(pictures, tmp_path, kills):
    (tmp_path / "images" / "4.png").write_bytes(b"no picture")
    _slow_extraction(pictures, tmp_path / "whole")
    generator, killed, stores = np.random.default_rng(0), 0, 0
    while killed < kills and stores < 4 * kills:  # how many hit depends on how busy the machine is
        shutil.rmtree(tmp_path / "cut", ignore_errors=True)
        killed += _kill_and_finish(pictures, tmp_path / "cut", generator, most=3)  # more would find it finished
        stores += 1
        assert bytes_of(tmp_path / "cut") == bytes_of(tmp_path / "whole")
    assert killed >= kills


def test_parts_done_by_processes_side_by_side_make_the_same_store(pictures, tmp_path):
    extract_regions(pictures, MeanColour(), tmp_path / "whole", shard_size=2)
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(
            target=extract_regions,
            args=(pictures, MeanColour(pause_s=0.02), tmp_path / "parts"),
            kwargs={"batch_size": 1, "shard_size": 2, "shard": (number, 3)},
        )
        for number in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert bytes_of(tmp_path / "parts") == bytes_of(tmp_path / "whole")


def test_a_disk_that_fills_up_is_a_message_and_what_is_whole_stays(pictures, tmp_path):
    """A process that may write files of at most 300 kB: the first shard fits, the second, of large pictures, does not."""

    class Wide(MeanColour):
        @staticmethod
        def _region(image):
            one = MeanColour._region(image)
            count = 1 if image.shape[0] == 3 else 2000
            return dataclasses.replace(one, **{name: np.repeat(getattr(one, name), count, 0) for name in COLUMNS})

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            extract_regions(pictures, Wide(), tmp_path / "s", shard_size=5)
        except CmalError as error:
            (tmp_path / "said").write_text(str(error))

    Image.new("RGB", (40, 30)).save(tmp_path / "images" / "9.png")
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    assert "cannot write" in (tmp_path / "said").read_text() and "part-00001.h5" in (tmp_path / "said").read_text()
    assert RegionStore.open(tmp_path / "s").image_ids == [f"toy:{number}" for number in range(5)]
    extract_regions(pictures, Wide(), tmp_path / "s", shard_size=5)
    extract_regions(pictures, Wide(), tmp_path / "whole", shard_size=5)
    assert bytes_of(tmp_path / "s") == bytes_of(tmp_path / "whole")
