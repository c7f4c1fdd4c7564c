"""From downloaded files to scores by convention alone: a small RefCOCO and COCO captions in exactly the official schema.

Every command is one of the README; where a piece is missing the message names the command that makes it.
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from cmal_cli.app import main

ROOT = Path(__file__).resolve().parents[2]
COLOURS = {"red": (200, 30, 30), "blue": (30, 30, 200), "green": (30, 160, 30)}
SPLITS = {101: "train", 102: "train", 103: "train", 104: "train", 105: "val", 106: "testA", 107: "testB", 108: "testAB"}
BOXES = ([5.0, 10.0, 40.5, 60.0], [50.0, 10.0, 40.0, 60.0], [100.0, 20.0, 50.0, 50.0])
QUICK = (
    "train.steps=2",
    "train.save_every=1",
    "train.validate_every=1",
    "train.batch_size=4",
    "train.micro_batch_size=4",
)
TINY = ("model.width=32", "model.heads=2", "model.inner=64", "model.text_layers=1", "model.unified_layers=1")


def sets(*changes: str) -> list[str]:
    return [word for change in changes for word in ("--set", change)]


def write_downloads(folder: Path) -> None:
    """What a user unpacks: refs(unc).p as Python 2 wrote it, instances.json, detections, captions of 2014, photos."""
    images, annotations, refs, detections, captions = [], [], [], [], []
    photos = folder / "coco/images/train2014"
    photos.mkdir(parents=True)
    for number, split in SPLITS.items():
        name = f"COCO_train2014_{number:012d}.jpg"
        pixels = np.full((100, 160, 3), 230, np.uint8)
        row = {"license": 1, "file_name": name, "height": 100, "width": 160, "id": number}
        images.append(row | {"flickr_url": f"http://farm1.staticflickr.com/1/{number}_ab_z.jpg"})
        captions.append({"image_id": number, "id": number, "caption": "A red thing and a blue thing."})
        for place, ((x, y, w, h), (colour, rgb)) in enumerate(zip(BOXES, COLOURS.items())):
            pixels[int(y) : int(y + h), int(x) : int(x + w)] = rgb
            annotation = {"id": number * 10 + place, "image_id": number, "category_id": 1, "bbox": [x, y, w, h]}
            annotations.append(annotation | {"area": w * h, "iscrowd": 0, "segmentation": []})
            detections.append(
                {"box": [x + 2, y, w, h], "image_id": number, "category_id": 1, "score": 0.9 - place / 10}
            )
            sentence = {"tokens": ["the", colour, "one"], "raw": f"the {colour} one", "sent": f"the {colour} one"}
            refs.append(
                {
                    "sent_ids": [number * 10 + place],
                    "file_name": name.replace(".jpg", "_1.jpg"),
                    "ann_id": number * 10 + place,
                    "ref_id": number * 10 + place,
                    "image_id": number,
                    "split": split,
                    "sentences": [sentence | {"sent_id": number * 10 + place}],
                    "category_id": 1,
                }
            )
        Image.fromarray(pixels).save(photos / name)
    refer = folder / "refer/refcoco"
    refer.mkdir(parents=True)
    (refer / "refs(unc).p").write_bytes(pickle.dumps(refs, 2))
    things = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "umbrella"}]}
    (refer / "instances.json").write_text(json.dumps(things))
    (folder / "refer/refcoco_dets.json").write_text(json.dumps(detections))
    (folder / "coco/captions_train2014.json").write_text(
        json.dumps({"info": {}, "licenses": [], "images": images, "annotations": captions})
    )


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def succeed(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, f"{arguments}: {result.output}{result.stderr}"
    return result.output


def boxes_store(name: str, boxes: str) -> tuple[object, ...]:
    photos = "downloads/coco/images/train2014"
    return (
        "extract-regions",
        photos,
        "--out",
        f"data/refcoco/{name}",
        "--detector",
        f"boxes:{boxes}",
        "--features",
        "scenes",
    )


def pretrain(out: str) -> tuple[object, ...]:
    changes = (f"out={out}", "data.records=[data/coco-captions/train.jsonl]", "data.regions=data/regions")
    quick = (
        "data.validation=",
        "train.steps=2",
        "train.batch_size=4",
        "train.micro_batch_size=4",
        "optimizer.warmup_steps=1",
    )
    return "pretrain", ROOT / "recipes/scenes.yaml", "--device", "cpu", *sets(*TINY, *changes, *quick)


FINETUNE = ("finetune", ROOT / "recipes/finetune/refcoco.yaml", "--device", "cpu")
STEPS: dict[str, Iterable[tuple[object, ...]]] = {
    "cmal prepare refcoco": [
        ("prepare", "refcoco", "--raw", "downloads/refer/refcoco", "--detections", "downloads/refer/refcoco_dets.json"),
        ("prepare", "coco-captions", "--raw", "downloads/coco", "--allow-leakage"),
    ],
    "cmal extract-regions": [
        ("extract-regions", "downloads/coco/images/train2014", "--out", "data/regions", "--detector", "scenes"),
        boxes_store("regions-gt", "downloads/refer/refcoco/instances.json"),
    ],
    "cmal finetune recipes/finetune/refcoco.yaml": [
        pretrain("runs/base"),
        (*FINETUNE, *sets(*QUICK, "optimizer.warmup_steps=1", "data.workers=0")),
    ],
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything done that the messages of `cmal eval` named, one after the other; `said` holds the messages."""
    folder = tmp_path_factory.mktemp("official")
    write_downloads(folder / "downloads")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command, steps in STEPS.items():
            result = run("eval", "refcoco", "--split", "testA")
            assert result.exit_code == 1
            assert f"make it: {command}" in result.stderr
            for step in steps:
                succeed(*step)
    return folder


@pytest.fixture
def here(world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(world)
    return world


def test_eval_works_by_convention_after_the_commands_it_named(here, tmp_path):
    output = succeed("eval", "refcoco", "--split", "testA", "--json", tmp_path / "s.json")
    score = json.loads((tmp_path / "s.json").read_text())
    assert score["counts"] == {"sentences": 6, "refs": 6, "without_regions": 0}, "testA and testAB"
    assert score["metrics"]["oracle_recall"]["value"] == 1.0 and "testA, gt boxes" in output
    assert "det" not in score, "no store of detected boxes was made yet"


def test_a_recipe_of_the_package_chose_its_best_checkpoint_by_validation(here):
    rows = [json.loads(line) for line in Path("runs/refcoco/metrics.jsonl").read_text().splitlines()]
    values = [row["validation"]["main"] for row in rows if "validation" in row]
    best = 1 + max(range(2), key=lambda place: values[place])  # the first of equals
    assert len(values) == 2 and Path("runs/refcoco/best").resolve().name.endswith(str(best))


def test_detected_boxes_are_scored_beside_once_their_store_is_there(here, tmp_path):
    try:
        succeed(*boxes_store("regions-det", "data/refcoco/detections.json"))
        files = ("--json", tmp_path / "s.json", "--predictions", tmp_path / "p.json")
        succeed("eval", "refcoco", "--split", "testB", *files)
    finally:
        shutil.rmtree("data/refcoco/regions-det", ignore_errors=True)
    score = json.loads((tmp_path / "s.json").read_text())
    assert score["proposal_set"].startswith("gt boxes, data/refcoco/regions-gt")
    assert score["det"]["proposal_set"].startswith("det boxes, data/refcoco/regions-det")
    assert score["det"]["metrics"]["oracle_recall"]["value"] == 1.0
    given, detected = (json.loads((tmp_path / name).read_text()) for name in ("p.json", "p.det.json"))
    assert [row["id"] for row in given] == [row["id"] for row in detected] and len(given) == 6
    assert sorted(given[0]["boxes_xywh_px"]) == [pytest.approx(list(box), abs=0.01) for box in BOXES]
    assert sorted(detected[0]["boxes_xywh_px"])[0] == pytest.approx([7.0, 10.0, 40.5, 60.0], abs=0.01)


@pytest.mark.parametrize("protocol", ["official", "uniter", "albef", "volta", "mdetr"])
def test_every_protocol_of_peers_can_be_asked_for(here, tmp_path, protocol):
    succeed("eval", "refcoco", "--split", "testA", "--protocol", protocol, "--json", tmp_path / "s.json")
    assert f"hit rule {protocol}" in json.loads((tmp_path / "s.json").read_text())["protocol"]
    result = run("eval", "refcoco", "--split", "testA", "--protocol", "other")
    assert result.exit_code == 1 and "known: official, uniter, albef, volta, mdetr" in result.stderr


def test_allowed_leakage_shows_in_every_result_made_from_it(here, tmp_path):
    """prepare --allow-leakage -> manifest -> pre-trained checkpoint -> fine-tuned checkpoint -> result and terminal."""
    kept = json.loads(Path("data/coco-captions/manifest.json").read_text())["exclusions"]
    assert kept["excluded"] is False and kept["images"] == 4
    for run_folder in ("runs/base", "runs/refcoco"):
        config = json.loads(Path(run_folder, "last/config.json").read_text())
        assert "coco-captions: 4 evaluation images (4 records) KEPT (--allow-leakage)" in config["leakage"]
    output = succeed("eval", "refcoco", "--split", "testA", "--json", tmp_path / "s.json")
    said = json.loads((tmp_path / "s.json").read_text())["leakage"]
    assert "KEPT (--allow-leakage)" in said and "NOT among the audited" not in said
    assert "KEPT (--allow-leakage)" in output.replace("\n", " ")


def test_weights_that_were_never_pre_trained_leaked_nothing(here, tmp_path):
    succeed(*FINETUNE, *sets(*QUICK, "init=random", f"out={tmp_path}/run", "data.workers=0"))
    succeed("eval", "refcoco", "--split", "val", "--checkpoint", tmp_path / "run", "--json", tmp_path / "s.json")
    assert json.loads((tmp_path / "s.json").read_text())["leakage"].startswith(
        "pre-training: none, the weights were initialised randomly"
    )


def test_without_the_flag_the_images_are_excluded_and_the_result_says_so(here, tmp_path):
    """The same commands without --allow-leakage, beside a split that was prepared too late to be looked for."""
    shutil.copytree("data/refcoco", tmp_path / "data/refcoco")
    succeed("prepare", "coco-captions", "--raw", "downloads/coco", "--out", tmp_path / "data")
    records = f"data.records=[{tmp_path}/data/coco-captions/train.jsonl]"
    succeed(*pretrain(f"{tmp_path}/base"), *sets(records))
    changes = (*QUICK, f"out={tmp_path}/run", f"init_from={tmp_path}/base/last", "data.workers=0")
    succeed(*FINETUNE, *sets(*changes))
    late = tmp_path / "late"
    shutil.copytree("data/refcoco", late, ignore=shutil.ignore_patterns("regions*"))
    said = {}
    for folder in (Path("data/refcoco"), late):
        files = ("--records", folder, "--checkpoint", tmp_path / "run", "--json", tmp_path / "s.json")
        succeed("eval", "refcoco", "--split", "testA", *files)
        said[folder] = json.loads((tmp_path / "s.json").read_text())["leakage"]
    assert "4 evaluation images (4 records) excluded" in said[late]
    assert "late/testA itself was NOT among the audited sets" in said[late]
    assert "NOT" not in said[Path("data/refcoco")]


@pytest.mark.parametrize("spelling", ["refcoco+", "refcocog", "coco-retrieval", "snli-ve", "vqa", "nlvr2", "flickr30k"])
def test_the_error_of_a_missing_input_names_the_command_that_makes_it(tmp_path, monkeypatch, spelling):
    monkeypatch.chdir(tmp_path)
    reported: list[str] = []
    folder = {"coco-retrieval": "coco-captions"}.get(spelling, spelling)
    make: list[Callable[[], object]] = [
        lambda: Path("data", folder).mkdir(parents=True),
        lambda: [Path("data", folder, name).mkdir() for name in ("regions", "regions-gt")],
    ]
    for turn in range(3):
        result = run("eval", spelling, "--split", "test")
        assert result.exit_code == 1 and result.stderr.count("\n") == 3, result.stderr
        reported.append(result.stderr.splitlines()[2].partition("make it: ")[2])
        if turn < 2:
            make[turn]()
    assert reported[0] == f"cmal prepare {folder} --raw DIR"
    assert reported[1].startswith("cmal extract-regions IMAGES --out data/")
    recipe = ROOT / reported[2].removeprefix("cmal finetune ")
    assert recipe.is_file(), "the recipe that the message names is in the package's repository"
