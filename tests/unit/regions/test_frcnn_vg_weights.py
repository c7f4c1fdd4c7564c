"""frcnn-vg's weight files: what loads, what is refused, and a file of full size through the command."""

from __future__ import annotations

import functools
import pickle
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from toy_frcnn_vg import TINY, photo, tiny_detector, tiny_network

from cmal.errors import CheckpointError, CmalError, DataError
from cmal.regions.detectors import frcnn_vg
from cmal.regions.detectors.frcnn_vg_model import FrcnnVg
from cmal.regions.store.store import RegionStore
from cmal_cli.app import main


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A folder as the hub has it, for a network of the same build but small."""
    monkeypatch.setattr(frcnn_vg, "FrcnnVg", functools.partial(FrcnnVg, **TINY))
    torch.save(tiny_network().state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.yaml").write_text("model: {}\n")
    (tmp_path / "objects_vocab.txt").write_text("dog,hound\ncat\ncup\ntree\nsky\n")
    (tmp_path / "attributes_vocab.txt").write_text("red\nblue\nold\n")
    return tmp_path


def test_build_loads_a_folder_and_says_whose_weights_they_are(weights):
    detector = frcnn_vg.build(weights=weights, device="cpu", max_regions=3)
    assert detector.name == "frcnn-vg" and detector.feature_size == 64 and len(detector.weights_sha256) == 64
    assert detector.class_names == ("dog", "cat", "cup", "tree", "sky")
    expected = tiny_network().backbone.stem.conv1.weight
    assert torch.equal(detector.model.backbone.stem.conv1.weight, expected)
    assert len(detector.detect([photo(600, 640)])[0]) == 3


def test_the_same_weights_load_from_the_file_itself_and_from_safetensors(weights):
    from safetensors.torch import save_file

    save_file(tiny_network().state_dict(), weights / "model.safetensors")
    (weights / "pytorch_model.bin").rename(weights / "other.bin")
    by_folder, by_file = (frcnn_vg.build(weights=w, device="cpu") for w in (weights, weights / "other.bin"))
    assert by_folder.weights_sha256 != by_file.weights_sha256
    a, b = by_folder.model.state_dict(), by_file.model.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in b)


def test_every_missing_unknown_and_misshapen_tensor_is_named(weights):
    state = tiny_network().state_dict()
    del state["backbone.stem.conv1.weight"]
    state["backbone.stem.extra"] = torch.zeros(1)
    state["roi_heads.box_predictor.cls_score.bias"] = torch.zeros(7)
    torch.save(state, weights / "pytorch_model.bin")
    with pytest.raises(CheckpointError) as caught:
        frcnn_vg.build(weights=weights, device="cpu")
    assert "backbone.stem.conv1.weight is missing" in caught.value.found
    assert "backbone.stem.extra is not a parameter" in caught.value.found
    assert "cls_score.bias has shape (7,), not (6,)" in caught.value.found


class Trap:
    """A pickle that would leave a mark, if it were executed."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_weight_file_that_would_run_code_is_refused_and_runs_nothing(weights):
    mark = weights / "mark"
    (weights / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Trap(mark)}, protocol=2))
    with pytest.raises(CheckpointError, match="cannot read the weights"):
        frcnn_vg.build(weights=weights, device="cpu")
    assert not mark.exists()


def test_class_names_that_do_not_fit_the_weights_are_refused(weights):
    (weights / "objects_vocab.txt").write_text("dog\ncat\n")
    with pytest.raises(DataError, match="it has 2 names; the weights have 5 objects"):
        frcnn_vg.build(weights=weights, device="cpu")


def test_missing_weights_say_what_to_do(tmp_path):
    for given in (tmp_path, tmp_path / "nothing.bin", "./nowhere"):
        with pytest.raises(CheckpointError, match="give its folder: --weights DIR"):
            frcnn_vg.build(weights=given)


def test_an_unknown_precision_or_device_is_told_at_once():
    with pytest.raises(CmalError, match="known precisions: auto, fp32, bf16"):
        tiny_detector(precision="fp8")
    with pytest.raises(CmalError, match='on the device "cuda:99"'):
        tiny_detector(device="cuda:99")


@pytest.mark.slow
def test_a_weight_file_of_full_size_gives_36_regions_of_a_photograph_through_the_command(tmp_path, real_data):
    """All 640 tensors, of the public file's names and shapes, with random values; a real photograph."""
    torch.manual_seed(0)
    (tmp_path / "weights").mkdir()
    torch.save(FrcnnVg().state_dict(), tmp_path / "weights" / "pytorch_model.bin")
    photographs = tmp_path / "train2014"
    photographs.mkdir()
    original = real_data / "butd" / "images" / "train2014" / "COCO_train2014_000000207647.jpg"
    shutil.copy(original, photographs)
    options = ["--detector", "frcnn-vg", "--weights", str(tmp_path / "weights"), "--device", "cpu"]
    result = CliRunner().invoke(main, ["extract-regions", str(photographs), "--out", str(tmp_path / "s"), *options])
    assert result.exit_code == 0, result.output
    store = RegionStore.open(tmp_path / "s")
    regions = store["coco:207647"]
    assert regions.features.shape == (36, 2048) and np.isfinite(regions.features).all()
    assert (len(store.class_names), len(store.attribute_names), store.detector) == (1600, 400, "frcnn-vg")
    width, height = regions.image_wh_px
    assert (regions.boxes_xyxy_px <= [width, height, width, height]).all() and regions.boxes_xyxy_px.min() >= 0
