"""Evaluation: several processes, splits whose answers are not published, submission files, tables, validation."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from cmal.errors import DataError
from cmal.runs.evaluate import EvaluationRequest, run_evaluation
from cmal.runs.finetune import run_finetuning
from cmal.runs.recipe import FinetuneRecipe, load_recipe
from cmal.tasks.shortlist import fit_late_interaction
from cmal.training.retention import keep_best

ROOT = Path(__file__).resolve().parents[3]
QUICK = (
    "train.steps=1",
    "train.save_every=1",
    "train.batch_size=8",
    "train.micro_batch_size=8",
    "train.report_every=1",
)


def fine_tune(world: Path, task: str, out: Path, *changed: str) -> Path:
    paths = (f"init_from={world}/runs/tiny/last", f"data.regions={world}/data/scenes/regions", f"out={out}")
    root = f"data.root={world}/data/{'scenes' if task == 'retrieval' else f'scenes-{task}'}"
    path = ROOT / f"recipes/finetune/scenes_{task}.yaml"
    run_finetuning(
        load_recipe(FinetuneRecipe, path, (*QUICK, *paths, root, *changed)), lambda step: None, "fresh", "cpu"
    )
    return out


@pytest.fixture(scope="module")
def vqa_run(tiny_world, tmp_path_factory) -> Path:
    return fine_tune(tiny_world, "vqa", tmp_path_factory.mktemp("vqa") / "run")


@pytest.fixture
def cmal(command_in, tiny_world):
    return command_in(tiny_world)


VQA, RETRIEVAL = ("scenes-vqa", "val"), ("scenes-retrieval", "test")


def evaluate_both(vqa_run: Path, world: Path) -> dict[str, dict]:
    """Questions, and retrieval without fine-tuning: answers and result of each, as plain values."""
    data = world / "data"
    stores = {"regions": data / "scenes/regions"}
    vqa = EvaluationRequest(*VQA, vqa_run, records=data / "scenes-vqa", **stores)
    retrieval = EvaluationRequest(*RETRIEVAL, world / "runs/tiny", records=data / "scenes", zero_shot=True, **stores)
    found = {}
    for request in (vqa, retrieval):
        (one,) = run_evaluation(request, device="cpu")
        answers = {k: v.tolist() if hasattr(v, "tolist") else v for k, v in one.answers.items()}
        found[request.task] = {"answers": answers, "result": one.result.as_json()}
    return found


WORKER = """
import json, sys
from pathlib import Path
from cmal.runs import answers
from test_evaluate import evaluate_both
seen, plain = [], answers.answer_all
answers.answer_all = lambda loaded, records, *rest: (seen.extend(r.id for r in records), plain(loaded, records, *rest))[1]
found = evaluate_both(Path(sys.argv[1]), Path(sys.argv[2]))
Path(sys.argv[3]).write_text(json.dumps(found | {"seen": seen}))
"""


@pytest.fixture(scope="module")
def by_two(tiny_world, vqa_run, tmp_path_factory) -> list[dict]:
    """What each of two gloo processes found that evaluate together, and which records it answered."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    paths = f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}:{ROOT}"
    settings = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "PYTHONPATH": paths}
    files = [folder / f"{rank}.json" for rank in range(2)]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(vqa_run), str(tiny_world), str(file)],
            env=os.environ | settings | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank, file in enumerate(files)
    ]
    assert [process.wait(timeout=120) for process in started] == [0, 0]
    return [json.loads(file.read_text()) for file in files]


@pytest.fixture(scope="module")
def alone(tiny_world, vqa_run) -> dict[str, dict]:
    return evaluate_both(vqa_run, tiny_world)


def test_two_processes_answer_every_question_once_and_give_the_same_result(alone, by_two):
    """None is answered twice and none is padded in, so that no example can count twice."""
    first, second = by_two
    assert not set(first["seen"]) & set(second["seen"])
    assert sorted(first["seen"] + second["seen"]) == sorted(alone["scenes-vqa"]["answers"])
    assert first["scenes-vqa"] == second["scenes-vqa"] == alone["scenes-vqa"]
    result = alone["scenes-vqa"]["result"]
    assert result["counts"]["questions"] == len(first["seen"]) + len(second["seen"])


def test_two_processes_share_the_rows_of_retrieval(alone, by_two):
    ours = alone["scenes-retrieval"]
    assert by_two[0]["scenes-retrieval"] == by_two[1]["scenes-retrieval"] == ours
    assert ours["result"]["counts"]["images"] == len(ours["answers"]["scores"]) == 4


@pytest.fixture
def unanswered(tiny_world, tmp_path) -> Path:
    """The test questions as VQA v2 publishes them: without answers."""
    folder = tmp_path / "records" / "vqa"
    folder.mkdir(parents=True)
    rows = [json.loads(line) for line in (tiny_world / "data/scenes-vqa/test.jsonl").read_text().splitlines()]
    for row in rows:
        row["answers"] = []
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_unpublished_answers_are_predicted_for_the_server_and_not_scored(cmal, vqa_run, unanswered, tmp_path):
    arguments = ("eval", "scenes-vqa", "--split", "test", "--checkpoint", vqa_run, "--records", unanswered)
    refused = cmal(*arguments)
    assert refused.exit_code == 1 and "--predictions FILE" in refused.stderr
    result = cmal(*arguments, "--predictions", tmp_path / "p.json", "--json", tmp_path / "s.json")
    assert result.exit_code == 0, result.output
    assert "nothing is scored" in result.output and not (tmp_path / "s.json").exists()
    rows = json.loads((tmp_path / "p.json").read_text())
    ids = [json.loads(line)["id"] for line in (unanswered / "test.jsonl").read_text().splitlines()]
    assert sorted(row["question_id"] for row in rows) == sorted(int(id.rpartition(":")[2]) for id in ids)
    answers = [*json.loads((vqa_run / "last/config.json").read_text())["label2id"]]
    assert all(set(row) == {"question_id", "answer"} and row["answer"] in answers for row in rows)


def test_per_type_tables_of_vqa_are_shown_and_written(cmal, vqa_run, tmp_path):
    result = cmal("eval", "scenes-vqa", "--split", "val", "--checkpoint", vqa_run, "--json", tmp_path / "s.json")
    assert result.exit_code == 0, result.output
    tables = json.loads((tmp_path / "s.json").read_text())["tables"]
    assert set(tables) == {"per_answer_type", "per_question_type"}
    for words in ("per answer type", "per question type", *tables["per_answer_type"]):
        assert words in result.output
    counts = [row["count"] for row in tables["per_answer_type"].values()]
    assert sum(counts) == json.loads((tmp_path / "s.json").read_text())["counts"]["questions"]


def test_the_albef_protocol_is_named_in_the_result(cmal, vqa_run, tmp_path):
    arguments = ("eval", "scenes-vqa", "--split", "val", "--checkpoint", vqa_run, "--json", tmp_path / "s.json")
    assert cmal(*arguments, "--protocol", "albef").exit_code == 0
    assert json.loads((tmp_path / "s.json").read_text())["protocol"].startswith("albef string metric")
    assert cmal(*arguments, "--protocol", "volta").exit_code == 1


def test_retrieval_rankings_put_every_item_in_the_order_of_its_score(cmal, tmp_path, tiny_world):
    run = shutil.copytree("runs/tiny", tmp_path / "tiny", symlinks=True)  # a result is kept in the run's folder
    paths = ("--records", "data/scenes", "--regions", "data/scenes/regions", "--checkpoint", run, "--zero-shot")
    file = tmp_path / "p.json"
    assert cmal("eval", "scenes-retrieval", "--split", "test", *paths, "--predictions", file).exit_code == 0
    rankings = json.loads(file.read_text())
    request = EvaluationRequest(
        "scenes-retrieval",
        "test",
        tiny_world / "runs/tiny",
        tiny_world / "data/scenes/regions",
        tiny_world / "data/scenes",
        zero_shot=True,
    )
    (found,) = run_evaluation(request, device="cpu")
    scores, images = found.answers["scores"], list(dict.fromkeys(r.image_id for r in found.records))
    column = {r.id: context for context, r in enumerate(found.records)}
    for caption, ranked in rankings["images_of_caption"].items():
        values = [scores[images.index(image), column[caption]] for image in ranked]
        assert sorted(ranked) == sorted(images) and values == sorted(values, reverse=True)
    for image, ranked in rankings["captions_of_image"].items():
        values = [scores[images.index(image), column[caption]] for caption in ranked]
        assert len(set(ranked)) == 10 and values == sorted(values, reverse=True)
        assert values[0] == scores[images.index(image)].max()


def test_a_shortlist_is_said_in_the_result_and_holds_all_where_it_is_long(cmal, tmp_path, monkeypatch):
    monkeypatch.setattr("cmal.runs.evaluate.fit_late_interaction", partial(fit_late_interaction, steps=20))
    run = shutil.copytree("runs/tiny", tmp_path / "tiny", symlinks=True)  # a result is kept in the run's folder
    paths = ("--records", "data/scenes", "--regions", "data/scenes/regions", "--checkpoint", run, "--zero-shot")
    found = {}
    for keep in (0, 2, 64):
        file = tmp_path / f"{keep}.json"
        reported = cmal("eval", "scenes-retrieval", "--split", "test", *paths, "--shortlist", keep, "--json", file)
        assert reported.exit_code == 0, reported.output
        found[keep] = json.loads(file.read_text())
    assert "all 4 x" in found[0]["protocol"] and "shortlist of 2" in found[2]["protocol"]
    assert found[64]["metrics"]["image_shortlist_recall"]["value"] == 1.0, "four images"
    metrics = {name: value["value"] for name, value in found[0]["metrics"].items()}
    assert {name: found[64]["metrics"][name]["value"] for name in metrics} == pytest.approx(metrics)
    assert (run / "results/scenes-retrieval-test-zero-shot-shortlist-2.json").is_file()
    refused = cmal("eval", "scenes-vqa", "--split", "val", "--shortlist", 64, "--checkpoint", run)
    assert refused.exit_code == 1 and "only retrieval ranks" in refused.stderr


def test_training_on_train_and_validation_uses_the_records_of_both(tiny_world, tmp_path):
    seen = {}
    for splits in ("train", "train+dev"):
        out = fine_tune(tiny_world, "ve", tmp_path / splits, f"data.train_split={splits}", "train.steps=1")
        seen[splits] = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])["losses"]["loss"]
    assert seen["train"] != seen["train+dev"]
    with pytest.raises(DataError, match='cannot read split "nothing"'):
        fine_tune(tiny_world, "ve", tmp_path / "x", "data.train_split=train+nothing")


def test_the_first_of_equally_good_checkpoints_is_the_best(tmp_path):
    values = {1: 0.2, 2: 0.5, 3: 0.5, 4: 0.1}
    for step, value in values.items():
        (tmp_path / f"checkpoints/step-{step:08d}").mkdir(parents=True)
        keep_best(tmp_path, step, {"main": value}, keep=4)
    assert (tmp_path / "best").readlink().name.endswith("2")


def test_the_error_of_a_store_that_lacks_an_image_names_the_image(cmal, vqa_run, tmp_path, tiny_world):
    folder = tmp_path / "vqa"
    shutil.copytree(tiny_world / "data/scenes-vqa", folder)
    line = (folder / "val.jsonl").read_text().splitlines()[0]
    (folder / "val.jsonl").write_text(json.dumps(json.loads(line) | {"image_id": "scenes:val/999999"}) + "\n")
    result = cmal("eval", "scenes-vqa", "--split", "val", "--checkpoint", vqa_run, "--records", folder)
    assert result.exit_code == 1 and 'has no image "scenes:val/999999"' in result.stderr
