"""Numbers that go wrong: infinite gradients, half precision, temperatures, nothing to look at; and the same run twice.

The loop's skipped steps are in `unit/training/test_loop.py`, padding and empty images layer by layer in `unit/model/`.
"""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from toys import THESAURUS, VOCAB, ToyStore, regions, toy_cmal

from cmal.data.micro_batches import MicroBatch
from cmal.io.files import sha256_of
from cmal.model.association import AssociativeMapping
from cmal.model.pretraining import ContrastiveHead, Losses
from cmal.regions.imports import import_features
from cmal.regions.store.store import RegionStore
from cmal.runs.recipe import FinetuneRecipe, PretrainRecipe, load_recipe
from cmal.training.distributed import DistributedContext
from cmal.training.loop import TrainingLoop, fit
from cmal.training.state import Progress

ROOT = Path(__file__).resolve().parents[2]


class Root(nn.Module):
    """The loss is sqrt(w - batch): finite at w = batch, where its gradient is not."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(1))

    def forward(self, batch: Floats) -> Losses:
        return Losses((self.w - batch[0]).sqrt().sum(), {})


class Floats(list):
    def to(self, device: torch.device) -> Floats:
        return self


def test_a_gradient_that_is_infinite_where_the_loss_is_not_is_skipped_and_counted():
    model = Root()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.0)
    micro_batches = [(MicroBatch(1, 0, 0, number, (0,)), Floats([bad])) for number, bad in enumerate((1.0, 0.0, 1.0))]
    reports = []
    loop = TrainingLoop(
        model=model, optimizer=optimizer, scheduler=LambdaLR(optimizer, lambda step: 1.0), micro_batches=micro_batches[:2],
        micro_batches_per_step=1, steps=2, seed=0, clip_norm=1.0, context=DistributedContext(),
        report=reports.append, report_every=1,
    )  # fmt: skip
    assert fit(loop) == Progress(2, 1)
    assert reports[0].losses["loss"] == 0 and not np.isfinite(reports[0].grad_norm) and reports[0].skipped == 1
    assert model.w.item() == pytest.approx(0.9) and bool(torch.isfinite(model.w).all())


def test_feature_numbers_beyond_half_precision_are_cut_counted_and_told(tmp_path):
    features = np.array([[1e5, -7e4, 65504, 1], [0, 65519, -1e30, np.inf]], np.float32)
    boxes = np.array([[0, 0, 5, 5], [1, 1, 9, 9]], np.float32)
    cells = (9, 64, 48, 2, *(base64.b64encode(array.tobytes()).decode() for array in (boxes, features)))
    (tmp_path / "f.tsv").write_text("\t".join(map(str, cells)) + "\n")
    summary = import_features(tmp_path / "f.tsv", tmp_path / "store", dataset="coco")
    assert (summary.clipped_numbers, summary.clipped_images) == (4, 1)  # 65,519 rounds to 65,504, which is no cut
    assert "4 feature numbers in 1 images were beyond float16 and were cut to 65,504" in str(summary)
    kept = RegionStore.open(tmp_path / "store")["coco:9"].features
    assert kept.tolist() == [[65504, -65504, 65504, 1], [0, 65504, -65504, 65504]]


@pytest.mark.parametrize("log", [-1e30, -1000.0, -88.0, 0.0, 88.0, 1000.0, 1e30])
@pytest.mark.parametrize("make", [lambda: AssociativeMapping(8), lambda: ContrastiveHead(8)], ids=["amc", "itc"])
def test_a_temperature_that_ran_away_gives_finite_logits_and_gradients(make, log):
    head = make()
    with torch.no_grad():
        head.log_temperature.fill_(log)
    cosines = torch.tensor([[1.0, -1.0, 0.3]], requires_grad=True)
    loss = nn.functional.cross_entropy(cosines / head.temperature, torch.tensor([0]))
    loss.backward()
    assert 0.001 <= float(head.temperature.detach()) <= 100 + 1e-3 and bool(torch.isfinite(loss))
    assert bool(torch.isfinite(head.log_temperature.grad).all()) and bool(torch.isfinite(cosines.grad).all())


@pytest.mark.parametrize("tags", [[[], []], [["dog"], []]], ids=["no image has regions", "one has none"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_attention_over_no_regions_is_finite_forwards_and_backwards(tags, dropout):
    from cmal.anchors.finder import AnchorFinder
    from cmal.data.batch import make_batch
    from cmal.data.example import ExampleBuilder
    from cmal.data.text import WordPieces
    from cmal.tasks.base import cls_states

    store = ToyStore({f"toy:{number}": regions(some) for number, some in enumerate(tags)})
    finder = AnchorFinder(THESAURUS, store.class_names, store.attribute_names)
    builder = ExampleBuilder(WordPieces.from_vocab(VOCAB), store, 20, finder)
    batch = make_batch([builder.build(str(number), f"toy:{number}", "a red dog") for number in range(len(tags))])
    cmal = toy_cmal(dropout=dropout).train()
    states = cls_states(cmal, batch)
    states.sum().backward()
    assert states.shape[0] == 2 and bool(torch.isfinite(states).all())
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in cmal.parameters())


def test_an_all_masked_row_changes_no_other_row():
    cmal = toy_cmal().eval()
    tokens = torch.tensor([[2, 5, 9, 3], [2, 5, 9, 3]])
    features, boxes = torch.rand(2, 3, 3), torch.rand(2, 3, 7)
    none = torch.zeros(2, 3, dtype=torch.bool)
    some = none.clone()
    some[0] = True
    text = cmal.textual(tokens, torch.ones_like(tokens, dtype=torch.bool))
    assert bool(torch.isfinite(text).all())
    both, alone = cmal.visual(features, boxes, some), cmal.visual(features[:1], boxes[:1], some[:1])
    torch.testing.assert_close(both[:1], alone)
    assert bool(torch.isfinite(both).all()) and bool(torch.isfinite(cmal.visual(features, boxes, none)).all())


# the same run twice


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "last" / "model.safetensors")


def assert_same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def pretrain(world: Path, out: Path, *more: str) -> dict[str, torch.Tensor]:
    from cmal.runs.pretrain import run_pretraining

    recipe = load_recipe(PretrainRecipe, world / "runs/tiny/recipe.yaml", [f"out={out}", "train.steps=2", *more])
    run_pretraining(recipe, report=lambda step: None, start="fresh", device="cpu")
    return weights_of(out)


def finetune(source: Path, out: Path, *more: str) -> dict[str, torch.Tensor]:
    from cmal.runs.finetune import run_finetuning

    recipe = load_recipe(FinetuneRecipe, source / "recipe.yaml", [f"out={out}", "train.steps=2", *more])
    run_finetuning(recipe, report=lambda step: None, start="fresh", device="cpu")
    return weights_of(out)


def test_pretraining_is_the_same_bits_again_with_two_workers_and_not_with_another_seed(tiny_world, tmp_path):
    first = pretrain(tiny_world, tmp_path / "a", "data.workers=0")
    assert_same_bits(first, pretrain(tiny_world, tmp_path / "b", "data.workers=0"))
    assert_same_bits(first, pretrain(tiny_world, tmp_path / "c", "data.workers=2"))
    other = pretrain(tiny_world, tmp_path / "d", "data.workers=0", "train.seed=8")
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["rec", "vqa", "ve", "retrieval"])
def test_finetuning_is_the_same_bits_again_and_with_two_workers(tiny_tasks, tmp_path, task):
    first = finetune(tiny_tasks[task], tmp_path / "a", "data.workers=0")
    assert_same_bits(first, finetune(tiny_tasks[task], tmp_path / "b", "data.workers=0"))
    assert_same_bits(first, finetune(tiny_tasks[task], tmp_path / "c", "data.workers=2"))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_prepare_and_extract_write_the_same_bytes_again(tiny_world, tmp_path, command_in, workers):
    cmal = command_in(tmp_path)
    made = cmal("prepare", "scenes", "--images", 12, "--seed", 0, "--workers", workers, "--out", "data")
    assert made.exit_code == 0, made.output
    done = cmal("extract-regions", "data/scenes/images", "--out", "data/scenes/regions", "--detector", "scenes")
    assert done.exit_code == 0, done.output
    ours, theirs = tmp_path / "data", tiny_world / "data"
    names = [path.relative_to(theirs) for path in theirs.rglob("*") if path.is_file() and path.name != "plan.json"]
    assert len(names) > 30
    differing = [
        name for name in names if name.suffix != ".lock" and sha256_of(ours / name) != sha256_of(theirs / name)
    ]
    assert differing == []


@pytest.mark.slow
def test_evaluations_and_probes_say_the_same_again(tiny_world, tiny_tasks, tmp_path, command_in):
    cmal = command_in(tiny_world)
    for turn in "ab":
        for task, split in (("rec", "testA"), ("vqa", "test"), ("ve", "test"), ("retrieval", "test")):
            run = shutil.copytree(tiny_tasks[task], tmp_path / f"{task}{turn}", symlinks=True)
            arguments = (
                "--checkpoint",
                run,
                "--regions",
                "data/scenes/regions",
                "--json",
                tmp_path / f"{task}{turn}.json",
            )
            done = cmal("eval", f"scenes-{task}", "--split", split, *arguments)
            assert done.exit_code == 0, done.output
        arguments = (
            "--records",
            "data/scenes/val.jsonl",
            "--regions",
            "data/scenes/regions",
            "--checkpoint",
            "runs/tiny",
        )
        done = cmal("probe-anchors", *arguments, "--json", tmp_path / f"probe{turn}.json")
        assert done.exit_code == 0, done.output
    for name in ("rec", "vqa", "ve", "retrieval", "probe"):
        one, other = (json.loads((tmp_path / f"{name}{turn}.json").read_text()) for turn in "ab")
        assert _without_paths(one) == _without_paths(other)


def _without_paths(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_paths(item) for key, item in value.items() if key != "path"}
    return [_without_paths(item) for item in value] if isinstance(value, list) else value
