"""Files made to do harm: every attempt fails, with a message, and leaves no trace. What the units test is not said again."""

from __future__ import annotations

import html
import io
import json
import os
import pickle
import re
import struct
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from hardening import seeds
from hardening.formats import MSGPACK, NPZ, write_lmdb
from hardening.fuzzing import write_files
from hardening.readers_regions import HEADER
from PIL import Image
from toys import numbered_regions

from cmal.datasets.prepare import prepare_dataset
from cmal.errors import CheckpointError, CmalError, DataError, ImageError, StoreError, printable
from cmal.hub.model import CmalModel
from cmal.model.text_weights import read_bert
from cmal.regions.detectors import build_detector
from cmal.regions.detectors.assembly import read_state_file
from cmal.regions.image_lists import images_of_folder, images_of_records
from cmal.regions.images import read_image
from cmal.regions.imports import import_features
from cmal.regions.store.shards import write_index, write_shard
from cmal.regions.store.store import RegionStore
from cmal.reports.charts import Series, line_chart
from cmal.reports.run_report import write_run_report
from cmal.training.checkpoint import load_weights
from cmal_cli.app import main
from cmal_cli.display import ProgressDisplay, echo, show_table

ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp.exe"
SCRIPT = '<script>alert(1)</script><img src=x onerror="alert(2)">'


class Runs:
    """Pickled, it runs a command when a trusting reader opens it."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


# pickles


def test_refs_that_run_a_command_run_nothing(tmp_path):
    trace, files = tmp_path / "trace", {"instances.json": seeds.INSTANCES}
    write_files(tmp_path / "raw", {**files, "refs(unc).p": pickle.dumps([Runs(trace)], 2)})
    with pytest.raises(DataError, match=r"system, which is no plain container; nothing was run"):
        prepare_dataset("refcoco", tmp_path / "raw", tmp_path / "out")
    assert not trace.exists()


def test_a_feature_database_that_runs_a_command_runs_nothing(tmp_path):
    trace = tmp_path / "trace"
    data = write_lmdb({b"coco_9": pickle.dumps({"features": Runs(trace)}, 2), b"keys": pickle.dumps(Runs(trace))})
    write_files(tmp_path / "db", {"data.mdb": data})
    with pytest.raises(DataError, match=r"the pickle asks for \w+.system"):
        import_features(tmp_path / "db", tmp_path / "store", format="volta-lmdb")
    assert not trace.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pth"])
def test_detector_weights_that_run_a_command_run_nothing(tmp_path, name):
    trace = tmp_path / "trace"
    (tmp_path / name).write_bytes(pickle.dumps({"w": Runs(trace)}, 2))
    with pytest.raises(CheckpointError, match="files that would run code when opened are refused"):
        read_state_file(tmp_path / name)
    assert not trace.exists()


def test_a_text_checkpoint_that_runs_a_command_runs_nothing(tmp_path):
    trace = tmp_path / "trace"
    config = {"model_type": "bert", "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 5}
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 8}))
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"w": Runs(trace)}, 2))
    with pytest.raises(CheckpointError, match="cannot read the text checkpoint"):
        read_bert(str(tmp_path))
    assert not trace.exists()


# paths


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/hostname", "a/../../secret.jpg", "..\\secret.jpg", "link.jpg"])
def test_a_picture_outside_its_folder_is_not_taken(tmp_path, name):
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    files = write_files(tmp_path / "pictures", {"in.jpg": b"x"})
    (files / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    row = json.dumps({"image": name, "caption": "a dog"})
    (tmp_path / "captions.jsonl").write_text(row)
    from cmal.datasets.job import Options

    options = Options(image_folder=files, captions=tmp_path / "captions.jsonl", name="mine")
    with pytest.raises(DataError, match=r"is outside|plain path below the image folder"):
        prepare_dataset("pairs", None, tmp_path / "out", options=options)
    assert not list((tmp_path / "out").rglob("*.jsonl"))


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "train2014/../../x.jpg"])
def test_a_file_name_of_an_annotation_that_leads_out_is_refused(tmp_path, name):
    captions = {"images": [{"id": 9, "file_name": name}], "annotations": [{"id": 1, "image_id": 9, "caption": "a"}]}
    write_files(tmp_path / "raw", {"captions_train2014.json": json.dumps(captions).encode()})
    with pytest.raises(DataError, match="images row 1: found"):
        prepare_dataset("coco-captions", tmp_path / "raw", tmp_path / "out")


def test_records_that_name_files_elsewhere_read_none(tmp_path):
    (tmp_path / "out.png").write_bytes(_png())
    folder = write_files(tmp_path / "images", {"9.png": _png()})
    for name in ("../out.png", f"{tmp_path}/out.png"):
        rows = [{"image_id": "coco:9"}, {"image_id": f"coco:{name}"}]
        (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        found = dict(images_of_records(tmp_path / "r.jsonl", folder, "coco"))
        with pytest.raises(ImageError, match="outside the image folder"):
            read_image(found[f"coco:{name}"], root=folder)


def test_a_linked_picture_outside_of_the_root_is_listed_and_not_read(tmp_path):
    (tmp_path / "out.png").write_bytes(_png())
    folder = write_files(tmp_path / "images", {"a.png": _png()})
    (folder / "b.png").symlink_to(tmp_path / "out.png")
    (folder / "c").symlink_to(tmp_path, target_is_directory=True)
    found = dict(images_of_folder(folder, "mine"))
    assert set(found) == {"mine:a", "mine:b"}, "linked folders are not entered"
    with pytest.raises(ImageError, match="outside the image folder"):
        read_image(found["mine:b"], root=folder)


def test_an_archive_of_arrays_that_names_paths_writes_nothing(tmp_path):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in ("../escaped.npy", "/escaped.npy", "features.npy"):
            archive.writestr(name, b"\x93NUMPY")
    write_files(tmp_path / "db", {"data.mdb": write_lmdb({b"coco_9": out.getvalue(), b"__keys__": b"[]"})})
    with pytest.raises(DataError, match="cannot import"):
        import_features(tmp_path / "db", tmp_path / "store")
    assert not list(tmp_path.rglob("*escaped*"))


def test_an_archive_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("features.npy", "w") as entry:
        for _ in range(300):
            entry.write(bytes(1 << 20))
    assert len(out.getvalue()) < 1 << 20
    write_files(tmp_path / "db", {"data.mdb": write_lmdb({b"coco_9": out.getvalue(), b"__keys__": b"[]"})})
    with pytest.raises(DataError, match="it unpacks to more than 256 MB"):
        import_features(tmp_path / "db", tmp_path / "store")


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc", "a/b/c", "..", "hub//x", "owner/../name", "-x", "a b", "C:\\x"]
)
def test_a_hub_name_that_looks_like_a_path_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError):
        CmalModel.from_pretrained(name)
    with pytest.raises(CheckpointError):
        read_bert(name)
    with pytest.raises(CmalError):
        build_detector(f"hf:{name}")


# pages


def test_a_run_report_shows_markup_as_text(tmp_path):
    result = json.loads(seeds.RESULT)
    result |= {"protocol": SCRIPT, "proposal_set": SCRIPT, "split": SCRIPT, "task": SCRIPT}
    rows = [json.loads(line) for line in seeds.METRICS.splitlines()]
    rows[0]["losses"] = {SCRIPT: 1.0, "loss": 1.0}
    files = {
        "recipe.yaml": SCRIPT.encode(),
        "metrics.jsonl": seeds.as_lines(rows),
        "environment.json": json.dumps({SCRIPT: SCRIPT}).encode(),
        "text_encoder.json": json.dumps({"source": SCRIPT, "used": [], "left": [SCRIPT]}).encode(),
        "results/val.json": json.dumps(result).encode(),
    }
    page = write_run_report(write_files(tmp_path, files)).read_text(encoding="utf-8")
    assert "<script>alert" not in page and "<img src=x" not in page
    assert page.count(html.escape(SCRIPT)) >= 5, "they are there, as text"


def test_a_charts_names_are_text():
    chart = line_chart(SCRIPT, [Series(SCRIPT, [1, 2], [0.5, 1.0])], SCRIPT)
    assert "<script" not in chart and "<img" not in chart


# terminals


def steers(text: str) -> bool:
    """Whether a text has a character that a terminal would obey."""
    return bool(re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text))


def test_control_characters_are_spelled_out():
    assert printable("a\x1b[2Jb\n\u202ec") == "a\\x1b[2Jb\n\\u202ec"
    assert printable("ünï ☂ \u05d0\u05d1 \U0001f436\u200d\U0001f525") == "ünï ☂ \u05d0\u05d1 \U0001f436\u200d\U0001f525"


def test_no_message_steers_the_terminal(tmp_path):
    (tmp_path / "recipe.yaml").write_text('"\\e]0;owned\\a\\e[2J": 1\n')
    result = CliRunner().invoke(main, ["pretrain", str(tmp_path / "recipe.yaml")])
    assert result.exit_code == 1 and "\\x1b]0;owned\\x07" in result.output and not steers(result.output)


def test_tables_and_lines_spell_controls_out(capsys):
    show_table(ESCAPES, ("caption", "class"), [(ESCAPES, ESCAPES)])
    echo(ESCAPES)
    with ProgressDisplay("x") as progress:
        progress.say(ESCAPES)
    out = capsys.readouterr().out
    assert "owned" in out and not steers(out)


def test_controls_in_captions_and_class_names_reach_no_output(tmp_path):
    captions = json.loads(seeds.CAPTIONS)
    captions["annotations"][0]["caption"] = f"a {ESCAPES} dog"
    write_files(tmp_path / "raw", {"captions_train2014.json": json.dumps(captions).encode()})
    result = CliRunner().invoke(
        main, ["prepare", "coco-captions", "--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "data")]
    )
    assert result.exit_code == 0 and not steers(result.output)
    first = json.loads((tmp_path / "data/coco-captions/train.jsonl").read_text().splitlines()[0])
    assert not re.search("[\x00-\x1f\x7f-\x9f]", first["caption"])
    header = type(HEADER)("toy", "", 3, (ESCAPES, "tree", "cat"), ("red",))
    write_index(
        tmp_path / "s", header, [write_shard(tmp_path / "s/part-00000.h5", [("coco:1", numbered_regions(2))], header)]
    )
    result = CliRunner().invoke(main, ["extract-regions", "--inspect", str(tmp_path / "s")])
    assert result.exit_code == 0 and "owned" in result.output and not steers(result.output)


# stores and weights


@pytest.mark.parametrize("name", ["header", "image_ids", "offsets", "sizes_wh_px", "features", "class_top_probs"])
@pytest.mark.parametrize(
    "link", [h5py.SoftLink("/boxes_xyxy_px"), h5py.ExternalLink("other.h5", "/x")], ids=["soft", "out"]
)
def test_no_link_of_a_store_is_followed(tmp_path, name, link):
    path = tmp_path / "part.h5"
    write_shard(path, [("coco:1", numbered_regions(2))], HEADER)
    write_shard(tmp_path / "other.h5", [("coco:1", numbered_regions(2))], HEADER)
    with h5py.File(path, "r+") as file:
        del file[name]
        file[name] = link
    with pytest.raises(StoreError, match=f"{name} is not a dataset in the file itself"):
        RegionStore.open(path)


def test_a_virtual_dataset_is_not_followed(tmp_path):
    path = tmp_path / "part.h5"
    write_shard(path, [("coco:1", numbered_regions(2))], HEADER)
    with h5py.File(path, "r+") as file:
        del file["features"]
        layout = h5py.VirtualLayout((2, 3), "<f2")
        layout[:] = h5py.VirtualSource("other.h5", "features", (2, 3))
        file.create_virtual_dataset("features", layout)
    with pytest.raises(StoreError, match="features is not a dataset in the file itself"):
        RegionStore.open(path)


def lying(header: dict | bytes, size: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + bytes(16)


FOUR = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
LIES = {
    "a header longer than the file": lying(b"{}", 1 << 62),
    "a tensor behind the end": lying({"w": {**FOUR, "data_offsets": [0, 1 << 40]}}),
    "a tensor before the beginning": lying({"w": {**FOUR, "data_offsets": [-16, 0]}}),
    "a shape of other bytes": lying({"w": {**FOUR, "shape": [1 << 40]}}),
    "a shape that overflows": lying({"w": {**FOUR, "shape": [1 << 33, 1 << 33]}}),
    "tensors that overlap": lying({"a": FOUR, "b": FOUR}),
    "an unknown type": lying({"w": {**FOUR, "dtype": "X99"}}),
    "no JSON": lying(b"nonsense"),
    "deep JSON": lying(b"[" * 100_000),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_safetensors_header_that_lies(tmp_path, lie):
    for name in ("model.safetensors", "other.safetensors"):
        (tmp_path / name).write_bytes(LIES[lie])
    with pytest.raises(CheckpointError, match="cannot load the checkpoint"):
        load_weights(tmp_path)
    with pytest.raises(CheckpointError, match="cannot read the weights"):
        read_state_file(tmp_path / "other.safetensors")


@pytest.mark.slow
def test_the_largest_picture_of_16_bits_takes_less_than_two_gigabytes(tmp_path):
    """89 million pixels in 300 kB: just within the bound that bombs are told by."""
    import resource
    import subprocess
    import sys

    Image.fromarray(np.full((9_400, 9_500), 40_000, np.uint16)).save(tmp_path / "big.png")
    script = "import sys, resource; from cmal.regions.images import read_image; a = read_image(sys.argv[1]);"
    script += "assert a.shape == (9400, 9500, 3) and a[0, 0].tolist() == [156] * 3"
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "big.png"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (2 << 30, 2 << 30)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def _png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 4)).save(out, "PNG")
    return out.getvalue()


def test_the_seeds_of_this_file_are_right(tmp_path):
    """The same archives and weights without the lie are read, so that the lie is what is refused."""
    (tmp_path / "w.safetensors").write_bytes(lying({"w": FOUR}))
    assert read_state_file(tmp_path / "w.safetensors")["w"].tolist() == [0, 0, 0, 0]
    arrays = {
        "features": np.zeros((1, 4), np.float16),
        "norm_bb": np.array([[0, 0, 1, 1, 1, 1]], np.float16),
        "conf": np.ones(1, np.float16),
    }
    for number, form in enumerate((MSGPACK, NPZ)):
        write_files(
            tmp_path / f"db{number}", {"data.mdb": write_lmdb({b"coco_9": form.build(arrays), b"__keys__": b"[]"})}
        )
        assert import_features(tmp_path / f"db{number}", tmp_path / f"store{number}").images == 1
