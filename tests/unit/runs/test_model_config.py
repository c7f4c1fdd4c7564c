"""config.json: written in Hugging Face's form, read back equal; the model.json of earlier versions is read too."""

from __future__ import annotations

import dataclasses
import json

import pytest

from cmal.errors import CheckpointError
from cmal.runs.model_config import ModelConfig

SIZES = {
    **{"width": 8, "heads": 2, "inner": 16, "text_layers": 1, "visual_layers": 1, "unified_layers": 1},
    **{"dropout": 0.1, "hypersphere": True, "max_tokens": 8, "vocabulary": 9, "region_features": 4},
}
CONFIG = ModelConfig("task", SIZES, {"amc": 1.0}, task="scenes-ve", labels=("no", "yes"), attend_across_swap=False)


def old_text(**changed: object) -> str:
    values = dataclasses.asdict(CONFIG)
    values["partners_in_sight"] = values.pop("attend_across_swap")
    return json.dumps(values | changed)


def test_config_json_is_read_back_equal_and_names_labels_as_hugging_face_does(tmp_path):
    CONFIG.write(tmp_path)
    assert ModelConfig.read(tmp_path) == CONFIG
    values = json.loads((tmp_path / "config.json").read_text())
    assert values["model_type"] == "cmal" and values["architectures"] == ["CmalModel"]
    assert values["id2label"] == {"0": "no", "1": "yes"} and values["label2id"] == {"no": 0, "yes": 1}


def test_model_json_of_an_earlier_version_is_read(tmp_path):
    (tmp_path / "model.json").write_text(old_text())
    assert ModelConfig.read(tmp_path) == CONFIG


def test_model_json_wins_over_the_config_json_that_lay_beside_it_and_writing_removes_it(tmp_path):
    """Earlier versions saved for the hub: model.json, and a config.json with the labels alone."""
    (tmp_path / "model.json").write_text(old_text())
    (tmp_path / "config.json").write_text('{"model_type": "cmal", "id2label": {"0": "no", "1": "yes"}}')
    assert ModelConfig.read(tmp_path) == CONFIG
    changed = dataclasses.replace(CONFIG, detector="scenes")
    changed.write(tmp_path)
    assert ModelConfig.read(tmp_path) == changed


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"kind": "other"}, "\"kind\" is 'other'"),
        ({"weights": {"amc": -1.0}}, '"weights" is'),
        ({"weights": {"other": 1.0}}, '"weights" is'),
        ({"labels": [1]}, '"labels" is'),
        ({"sizes": SIZES | {"heads": 3}}, "3 heads do not divide a width of 8"),
        ({"sizes": SIZES | {"width": 1 << 30}}, 'the size "width" is'),
    ],
)
def test_a_damaged_configuration_is_an_error_that_names_the_field(tmp_path, changed, found):
    (tmp_path / "model.json").write_text(old_text(**changed))
    with pytest.raises(CheckpointError) as caught:
        ModelConfig.read(tmp_path)
    assert found in caught.value.found


def test_the_config_json_of_another_kind_of_model_is_an_error(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert", "hidden_size": 8}')
    with pytest.raises(CheckpointError, match='"model_type" is not "cmal"'):
        ModelConfig.read(tmp_path)
