"""A model in Python: loaded from a run, saved, pushed, and asked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub.hub_mixin
import numpy as np
import pytest
import torch
import yaml

from cmal.errors import CheckpointError
from cmal.hub.model import CmalModel
from cmal.regions.images import read_image


@pytest.fixture(scope="module")
def pretrained(tiny_world) -> CmalModel:
    return CmalModel.from_pretrained(tiny_world / "runs" / "tiny")


@pytest.fixture(scope="module")
def photo(tiny_world, pretrained):
    [regions] = pretrained.find_regions([tiny_world / "data" / "scenes" / "images" / "test" / "000000.jpg"])
    return regions


def test_regions_of_a_file_and_of_an_array_are_those_of_the_store(tiny_world, pretrained, photo):
    from cmal.regions.store.store import RegionStore

    stored = RegionStore.open(tiny_world / "data" / "scenes" / "regions")["scenes:test/000000"]
    assert len(photo) == len(stored) > 1
    assert np.allclose(photo.boxes_xyxy_px, stored.boxes_xyxy_px, atol=0.1)
    [again] = pretrained.find_regions([read_image(tiny_world / "data/scenes/images/test/000000.jpg")])
    assert np.array_equal(again.boxes_xyxy_px, photo.boxes_xyxy_px)


def test_each_modality_is_encoded_alone_and_without_padding(pretrained, photo):
    short, long = pretrained.encode_texts(["a dog", "a red dog beside a very tall tree"])
    [alone] = pretrained.encode_texts(["a dog"])
    assert short.shape == alone.shape and torch.allclose(short, alone, atol=1e-5)
    assert len(long) > len(short) and short.shape[1] == pretrained.config.sizes["width"]
    [regions] = pretrained.encode_regions([photo])
    assert regions.shape == (len(photo), pretrained.config.sizes["width"])


def test_a_pretrained_model_scores_pairs_and_finds_phrases(pretrained, photo):
    scores = [pretrained.score(photo, text) for text in ("a table", "two dogs on a very red road")]
    assert all(0 < score < 1 for score in scores) and scores[0] != scores[1]
    found = pretrained.find(photo, "the car")
    assert sum(one.probability for one in found) == pytest.approx(1, abs=1e-5)
    assert [one.probability for one in found] == sorted((one.probability for one in found), reverse=True)
    assert sorted(one.region for one in found) == list(range(len(photo)))
    assert np.allclose(found[0].box_xyxy_px, photo.boxes_xyxy_px[found[0].region])


def test_fine_tuned_models_answer_as_their_evaluation_does(tiny_world, tiny_tasks):
    from cmal.regions.store.store import RegionStore
    from cmal.runs.evaluate import run_evaluation
    from cmal.runs.evaluation_inputs import EvaluationRequest

    store = tiny_world / "data" / "scenes" / "regions"
    for task, split, text_of in (("rec", "testA", "expression"), ("vqa", "test", "question")):
        request = EvaluationRequest(f"scenes-{task}", split, checkpoint=tiny_tasks[task], regions=store)
        [evaluation] = run_evaluation(request, device="cpu")
        model = CmalModel.from_pretrained(tiny_tasks[task])
        record = evaluation.records[3]
        regions, text = RegionStore.open(store)[record.image_id], getattr(record, text_of)
        if task == "rec":
            assert model.find(regions, text)[0].box_xyxy_px == pytest.approx(evaluation.answers[record.id][0], abs=0.01)
        else:
            assert next(iter(model.answer(regions, text))) == evaluation.answers[record.id]


def test_entailment_probabilities_sum_to_one_under_their_names(tiny_tasks, photo):
    answers = CmalModel.from_pretrained(tiny_tasks["ve"]).answer(photo, "There is a dog.")
    assert set(answers) == {"contradiction", "entailment", "neutral"}
    assert sum(answers.values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("task", "method", "message"),
    [
        ("ve", "score", 'this model cannot score pairs\n  its task is "scenes-ve"'),
        ("vqa", "find", 'this model cannot find phrases\n  its task is "scenes-vqa"'),
        ("rec", "answer", 'this model cannot answer\n  its task is "scenes-rec"'),
    ],
)
def test_what_a_model_cannot_do_is_told_with_what_can(tiny_tasks, photo, task, method, message):
    with pytest.raises(CheckpointError) as caught:
        getattr(CmalModel.from_pretrained(tiny_tasks[task]), method)(photo, "a dog")
    assert str(caught.value).startswith(message)


def test_a_saved_model_is_the_same_model(tiny_tasks, photo, tmp_path):
    model = CmalModel.from_pretrained(tiny_tasks["ve"])
    model.save_pretrained(tmp_path / "saved")
    names = {path.name for path in (tmp_path / "saved").iterdir()}
    assert names == {"model.safetensors", "vocab.txt", "config.json", "README.md", "recipe.yaml"}
    again = CmalModel.from_pretrained(tmp_path / "saved")
    assert again.answer(photo, "There is a dog.") == model.answer(photo, "There is a dog.")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["id2label"] == {str(i): label for i, label in enumerate(model.config.labels)}
    assert config["label2id"]["neutral"] == model.config.labels.index("neutral")


def test_the_card_is_filled_from_the_run(tiny_tasks, tiny_world, tmp_path):
    from cmal.runs.evaluate import run_evaluation
    from cmal.runs.evaluation_inputs import EvaluationRequest

    run = Path(shutil.copytree(tiny_tasks["ve"], tmp_path / "run", symlinks=True))
    regions = tiny_world / "data" / "scenes" / "regions"
    [evaluation] = run_evaluation(EvaluationRequest("scenes-ve", "test", checkpoint=run, regions=regions), device="cpu")
    evaluation.result.write_result(run / "results" / "scenes-ve-test.json")
    CmalModel.from_pretrained(run).save_pretrained(tmp_path / "saved")
    card = (tmp_path / "saved" / "README.md").read_text(encoding="utf-8")
    head = yaml.safe_load(card.split("---")[1])
    assert head["library_name"] == "cmal" and "scenes-ve" in head["tags"]
    value = evaluation.result.metrics["accuracy"].value
    assert f"| scenes-ve | test | accuracy | {100 * value:.2f} %" in card
    assert "1 of 1 steps" in card and "train_split: train" in card and "contradiction, entailment, neutral" in card
    assert "leakage: scenes: generated" in card and "arxiv.org/abs/2410.12595" in card


def test_push_to_hub_sends_the_saved_files(tiny_tasks, tmp_path, monkeypatch):
    sent: dict[str, object] = {}

    class Hub:
        """A hub that keeps what it is sent in a folder."""

        def __init__(self, token=None):
            sent["token"] = token

        def create_repo(self, repo_id, private=None, exist_ok=False):
            return type("Repository", (), {"repo_id": repo_id})

        def upload_folder(self, *, repo_id, folder_path, **others):
            shutil.copytree(folder_path, tmp_path / "hub")
            return f"https://hub/{repo_id}"

    monkeypatch.setattr(huggingface_hub.hub_mixin, "HfApi", Hub)
    model = CmalModel.from_pretrained(tiny_tasks["ve"])
    assert model.push_to_hub("me/cmal-ve", token="secret") == "https://hub/me/cmal-ve"
    assert sent["token"] == "secret"
    assert "secret" not in "".join(p.read_text("utf-8", "replace") for p in (tmp_path / "hub").iterdir())
    monkeypatch.setattr("cmal.hub.model.snapshot_download", lambda name, **options: tmp_path / "hub")
    assert CmalModel.from_pretrained("me/cmal-ve").config == model.config


def test_what_is_no_model_is_told(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no config\.json in it"):
        CmalModel.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="it is no folder here, and the hub says"):
        CmalModel.from_pretrained(tmp_path / "no" / "such" / "folder")


def test_damaged_weights_are_told(tiny_tasks, tmp_path):
    CmalModel.from_pretrained(tiny_tasks["ve"]).save_pretrained(tmp_path / "saved")
    path = tmp_path / "saved" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError):
        CmalModel.from_pretrained(tmp_path / "saved")
