"""Readers of checkpoints and what lies beside them; see `readers.py`."""

from __future__ import annotations

import hashlib
import math
import tempfile
from pathlib import Path

import torch
from hardening.formats import JSON, LINES, SAFETENSORS, TORCH
from hardening.fuzzing import Reader
from torch import nn

from cmal.data.text import WordPieces
from cmal.hub.model import CmalModel
from cmal.io.files import sha256_of
from cmal.regions.detectors.assembly import read_state_file
from cmal.runs.building import build_pretraining_model, write_beside_weights
from cmal.runs.model_config import ModelConfig
from cmal.training.checkpoint import load_optimizer, load_weights, save_checkpoint
from cmal.training.retention import keep_best
from cmal.training.state import Progress, load_progress, validation_at

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "runs", "##s"]
SIZES = {
    "width": 8, "heads": 2, "inner": 8, "text_layers": 1, "visual_layers": 0, "unified_layers": 1, "dropout": 0.1,
    "hypersphere": True, "max_tokens": 8, "vocabulary": len(VOCABULARY), "region_features": 3,
}  # fmt: skip
CONFIG = ModelConfig("pretraining", SIZES, {"itm": 1.0, "amc": 1.0}, "both", "both", 4, detector="toy", leakage="none")
STEP = "checkpoints/step-00000003"


def _model() -> nn.Module:
    torch.manual_seed(0)
    return build_pretraining_model(CONFIG)


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer


def _checkpoint_files() -> dict[str, bytes]:
    """The files of a run folder with one checkpoint, and of that checkpoint's folder."""
    model, pieces = _model(), WordPieces.from_vocab(VOCABULARY)
    state = _optimizer(model).state_dict()
    with tempfile.TemporaryDirectory() as place:
        run = Path(place)
        save_checkpoint(
            run,
            Progress(3, 1),
            model.state_dict(),
            state,
            lambda folder: write_beside_weights(folder, CONFIG, pieces),
            2,
        )
        keep_best(run, 3, {"main": 0.5, "loss": 1.0}, 2)
        return {path.name: path.read_bytes() for path in (run / STEP).iterdir()}


def _read_model(folder: Path) -> None:
    model = CmalModel.from_pretrained(folder)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in model.state_dict().values())
    states = model.encode_texts(["a dog runs"])[0]
    assert states.shape[1] == model.config.sizes["width"] and bool(torch.isfinite(states).all())


def _read_optimizer(folder: Path) -> None:
    optimizer = torch.optim.AdamW(_READ_MODEL.parameters(), lr=1e-3)
    load_optimizer(folder, optimizer)
    for group in optimizer.param_groups:
        assert math.isfinite(group["lr"]) and group["lr"] >= 0
    for parameter, state in optimizer.state.items():
        for name in ("exp_avg", "exp_avg_sq"):
            assert state[name].shape == parameter.shape and bool(torch.isfinite(state[name]).all())
    optimizer.step()


def _read_hashed(folder: Path) -> None:
    """Weights or optimizer state with any byte changed are noticed by their hash."""
    load_weights(folder)
    load_optimizer(folder, torch.optim.AdamW(_READ_MODEL.parameters(), lr=1e-3))
    assert {path.name: sha256_of(path) for path in folder.glob("[mo]*.[sp]*")} == _HASHES, "passed over"


def _read_progress(folder: Path) -> None:
    progress = load_progress(folder)
    assert 0 <= progress.skipped <= progress.step
    measures = validation_at(folder)
    assert measures is None or all(type(value) is float for value in measures.values())  # NaN too: a run may diverge


def _read_detector_weights(folder: Path) -> None:
    for name in ("weights.safetensors", "weights.bin"):
        state = read_state_file(folder / name)
        assert state and all(isinstance(tensor, torch.Tensor) for tensor in state.values())


_READ_MODEL = _model()
_HASHES: dict[str, str] = {}


def model_readers() -> list[Reader]:
    """Checkpoints: weights, facts, vocabulary, optimizer, progress; weight files of detectors."""
    files = _checkpoint_files()
    _HASHES.update({name: hashlib.sha256(files[name]).hexdigest() for name in ("model.safetensors", "optimizer.pt")})
    weights = {
        "weights.safetensors": files["model.safetensors"],
        "weights.bin": TORCH.build({"w": torch.ones(2, 3).numpy()}),
    }
    saved = {name: data for name, data in files.items() if name != "state.json"}  # as a hub's folder: no hashes
    old = {**files, "state.json": b'{"step": 3, "skipped": 1}'}
    return [
        Reader("checkpoint weights", saved, {"model.safetensors": SAFETENSORS}, _read_model, 2.0),
        Reader("checkpoint, hashed", files, {"model.safetensors": None, "optimizer.pt": None}, _read_hashed, 0.5),
        Reader("checkpoint facts", saved, {"config.json": JSON, "vocab.txt": LINES}, _read_model, 2.0),
        Reader("checkpoint optimizer", old, {"optimizer.pt": TORCH}, _read_optimizer, 2.0),
        Reader("checkpoint state", files, {"state.json": JSON, "validation.json": JSON}, _read_progress),
        Reader(
            "detector weights",
            weights,
            {"weights.safetensors": SAFETENSORS, "weights.bin": TORCH},
            _read_detector_weights,
        ),
    ]
