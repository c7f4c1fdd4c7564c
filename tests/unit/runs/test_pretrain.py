"""Pre-training starts its text encoder from a BERT-like checkpoint, and the run folder tells what was used of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from cmal.data.text import SPECIAL_PIECES
from cmal.errors import CheckpointError
from cmal.hub.model import CmalModel
from cmal.runs.building import build_pretraining_model
from cmal.runs.model_config import read_pretraining_config
from cmal.runs.pretrain import run_pretraining
from cmal.runs.recipe import PretrainRecipe, load_recipe
from cmal.runs.train import loader_workers

RECIPE = Path(__file__).resolve().parents[3] / "recipes" / "scenes.yaml"


@pytest.fixture
def bert(tmp_path) -> Path:
    """A folder as `transformers` saves a BERT of width 32 and three layers."""
    pieces = [*SPECIAL_PIECES, *"abcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz")]
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "num_hidden_layers": 3}
    BertModel(BertConfig(vocab_size=len(pieces), max_position_embeddings=40, **sizes)).save_pretrained(
        tmp_path / "bert"
    )
    (tmp_path / "bert" / "vocab.txt").write_text("\n".join(pieces) + "\n")
    return tmp_path / "bert"


@pytest.fixture
def pretrain(tiny_world, tmp_path, bert):
    def call(*more: str) -> Path:
        scenes = tiny_world / "data" / "scenes"
        overrides = [
            *("model.width=32", "model.heads=2", "model.inner=64", "model.text_layers=1", "model.unified_layers=1"),
            *(f"model.text_checkpoint={bert}", f"out={tmp_path}/run", f"data.records=[{scenes}/val.jsonl]"),
            *(f"data.regions={scenes}/regions", "data.validation=", "train.steps=1", "train.batch_size=8"),
            *("train.micro_batch_size=8", "optimizer.warmup_steps=0", "optimizer.lr=0.0", *more),
        ]
        run_pretraining(load_recipe(PretrainRecipe, RECIPE, overrides), report=lambda step: None, device="cpu")
        return tmp_path / "run"

    return call


def test_the_run_tells_what_was_used_of_the_text_checkpoint(pretrain, bert):
    run = pretrain()
    said = json.loads((run / "text_encoder.json").read_text())
    assert said["source"] == str(bert) and len(said["used"]) == 5 + 2 * 16
    assert {name.split(".")[0] for name in said["left"]} == {"pooler", "encoder"}
    theirs = BertModel.from_pretrained(bert).embeddings.word_embeddings.weight
    ours = CmalModel.from_pretrained(run).model.cmal.textual.tokens.weight
    assert theirs.shape == ours.shape and (theirs - ours).abs().max() < 1e-6


def test_a_bert_that_is_too_small_is_an_error(pretrain):
    with pytest.raises(CheckpointError, match="cannot start the text encoder from"):
        pretrain("model.unified_layers=3")


@pytest.mark.parametrize(
    ("changed", "heads"),
    [
        ((), (True, "both", True)),
        (("prompt.attend_across_swap=false",), (False, "both", True)),
        (("objectives.candidates=batch", "objectives.amc_at=unified"), (True, "batch", False)),
    ],
)
def test_what_the_recipe_says_of_association_reaches_the_model_and_its_checkpoint(pretrain, changed, heads):
    run = pretrain(*changed)
    config = read_pretraining_config(run / "last", "look at")
    model = build_pretraining_model(config)
    assert (model.attend_across_swap, model.candidates, "amc_unimodal" in model.heads) == heads


@pytest.mark.parametrize(
    ("setting", "device", "count"), [(-1, "cpu", 0), (-1, "cuda", 4), (3, "cpu", 3), (0, "cuda", 0)]
)
def test_loader_processes_are_started_beside_a_gpu_or_where_the_recipe_sets_them(setting, device, count):
    assert loader_workers(setting, torch.device(device)) == count
