"""The steps of the quickstart on 18 scenes, with the recipes it uses: fine-tune, score and predict four tasks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from cmal.regions.store.store import RegionStore
from cmal_cli.app import main

ROOT = Path(__file__).resolve().parents[2]
QUICK = ("train.steps=2", "train.batch_size=8", "train.micro_batch_size=8", "init_from=runs/tiny/last")


@pytest.fixture
def cmal(command_in, tiny_world):
    return command_in(tiny_world)


@pytest.fixture(scope="module")
def given_boxes(tiny_world, tmp_path_factory) -> Path:
    """The store of all annotated boxes, as the quickstart makes it."""
    store = tmp_path_factory.mktemp("gt") / "regions-gt"
    scenes = tiny_world / "data/scenes"
    detector = f"boxes:{scenes / 'official/instances.json'}"
    arguments = ["extract-regions", scenes / "images", "--out", store, "--detector", detector, "--features", "scenes"]
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    assert len(RegionStore.open(store)) == 12 + 2 + 4
    return store


def fine_tuned(cmal, tmp_path: Path, task: str, *changed: str) -> Path:
    recipe = ROOT / "recipes/finetune" / f"scenes_{task}.yaml"
    sets = [word for change in (*QUICK, f"out={tmp_path}/run", *changed) for word in ("--set", change)]
    result = cmal("finetune", recipe, "--device", "cpu", *sets)
    assert result.exit_code == 0, result.output
    assert "done: 2 steps" in result.output
    return tmp_path / "run"


@pytest.mark.parametrize(("task", "split"), [("vqa", "test"), ("ve", "test"), ("retrieval", "test")])
def test_a_task_is_fine_tuned_scored_and_predicted(cmal, tmp_path, task, split):
    run = fine_tuned(cmal, tmp_path, task)
    files = ("--json", tmp_path / "s.json", "--predictions", tmp_path / "p.json")
    result = cmal("eval", f"scenes-{task}", "--split", split, "--checkpoint", run, "--device", "cpu", *files)
    assert result.exit_code == 0, result.output
    score = json.loads((tmp_path / "s.json").read_text())
    for words in (f"scenes-{task} {split}", "95% interval", "chance", "protocol:", "regions:", "leakage:"):
        assert words in result.output
    main_metric = next(iter(score["metrics"].values()))
    assert 0 <= main_metric["low"] <= main_metric["value"] <= main_metric["high"] <= 1
    assert json.loads((tmp_path / "p.json").read_text())


def test_expressions_are_scored_on_given_and_on_detected_boxes(cmal, given_boxes, tmp_path):
    run = fine_tuned(cmal, tmp_path, "rec", f"data.regions={given_boxes}")
    result = cmal("eval", "scenes-rec", "--split", "testA", "--checkpoint", run, "--json", tmp_path / "s.json")
    assert result.exit_code == 0, result.output
    assert "testA, gt boxes" in result.output and "testA, det boxes" in result.output
    score = json.loads((tmp_path / "s.json").read_text())
    assert score["metrics"]["oracle_recall"]["value"] == 1.0, "the object is among the given boxes"
    assert (
        score["det"]["proposal_set"].startswith("det boxes") and score["det"]["metrics"]["oracle_recall"]["value"] > 0.5
    )


def test_retrieval_without_fine_tuning_uses_the_pre_trained_head(cmal, tmp_path):
    run = shutil.copytree("runs/tiny", tmp_path / "tiny", symlinks=True)  # a result is kept in the run's folder
    scenes = ("--records", "data/scenes", "--regions", "data/scenes/regions", "--checkpoint", run)
    result = cmal("eval", "scenes-retrieval", "--split", "val", *scenes, "--zero-shot", "--json", tmp_path / "s.json")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "s.json").read_text())["counts"]["images"] == 2


def test_the_labels_order_is_kept_in_the_checkpoint(cmal, tmp_path):
    """A head whose labels stand in another order answers in that order: eval reads them beside the weights."""
    run = fine_tuned(cmal, tmp_path, "ve")
    config = json.loads((run / "last/config.json").read_text())
    trained = [*config["id2label"].values()]
    assert trained == ["contradiction", "entailment", "neutral"] and config["task"] == "scenes-ve"
    answers = {}
    for turn, labels in (("as trained", trained), ("turned", ["neutral", "contradiction", "entailment"])):
        (run / "last/config.json").write_text(json.dumps(config | {"id2label": dict(enumerate(labels))}))
        out = tmp_path / "p.json"
        result = cmal("eval", "scenes-ve", "--split", "dev", "--checkpoint", run, "--predictions", out, "--quiet")
        assert result.exit_code == 0, result.output
        answers[turn] = [row["answer"] for row in json.loads(out.read_text())]
    turned = dict(zip(trained, ["neutral", "contradiction", "entailment"]))
    assert answers["turned"] == [turned[answer] for answer in answers["as trained"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("scenes-ve", "--split", "test"), "there is no run folder runs/scenes-ve"),
        (("scenes-ve", "--split", "test", "--checkpoint", "runs/tiny"), "it is a checkpoint of a pre-training"),
        (
            ("scenes-ve", "--split", "test", "--checkpoint", "runs/tiny", "--zero-shot"),
            "only retrieval and phrase grounding can",
        ),
        (("no-task", "--split", "test", "--checkpoint", "runs/tiny"), "no-task"),
    ],
)
def test_what_cannot_be_scored_is_three_lines(cmal, arguments, message):
    result = cmal("eval", *arguments)
    assert result.exit_code == 1 and message in result.stderr
    assert result.stderr.startswith("Error: ") and "Traceback" not in result.output


def test_fine_tuning_says_what_is_missing(cmal, tmp_path):
    recipe = ROOT / "recipes/finetune/scenes_vqa.yaml"
    result = cmal("finetune", recipe, "--set", f"out={tmp_path}/run", "--set", "init_from=runs/nowhere")
    assert result.exit_code == 1 and "there is no such folder" in result.stderr
    other = (*QUICK, f"out={tmp_path}/run", "data.train_split=trian")
    result = cmal("finetune", recipe, *[word for change in other for word in ("--set", change)])
    assert result.exit_code == 1 and "test, train, val" in result.stderr
