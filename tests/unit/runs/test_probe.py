"""The probe of records and a store, with and without a model, on the tiny world."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cmal.data.records import ImageTextRecord, read_records
from cmal.errors import CheckpointError, DataError
from cmal.runs.probe import ProbeRequest, find_checkpoint, read_gold, run_probe, thesaurus_of


@pytest.fixture
def request_of(tiny_world):
    scenes = tiny_world / "data" / "scenes"

    def make(checkpoint: Path | None = None, records: Path = scenes / "test.jsonl", **more) -> ProbeRequest:
        return ProbeRequest(records, scenes / "regions", checkpoint, **more)

    return make


@pytest.fixture
def copied(tiny_world, tmp_path) -> Path:
    """Test records and their gold anchors, to be changed."""
    scenes = tiny_world / "data" / "scenes"
    (tmp_path / "gold_anchors").mkdir()
    for name in ("test.jsonl", "gold_anchors/test.jsonl"):
        shutil.copy(scenes / name, tmp_path / name)
    return tmp_path / "test.jsonl"


def test_json_has_the_headline_numbers_and_everything_behind_them(request_of, tiny_world):
    reported: list[tuple[str, int, int]] = []
    probe = run_probe(request_of(tiny_world / "runs" / "tiny"), lambda *step: reported.append(step), "cpu")
    found = json.loads(json.dumps(probe.as_json()))
    assert found["coverage"] == found["statistics"]["coverage"] > 0.5
    assert found["precision"] == found["statistics"]["gold"]["all"]["precision"] > 0.5
    assert found["recall"] == found["statistics"]["gold"]["all"]["recall"] > 0.5
    overall = found["association"]["all"]
    for direction in ("t2v", "v2t"):
        assert 0 <= found[f"association_{direction}"] == overall[f"association_{direction}"] <= 1
        assert set(overall["controls"]) == {"chance", "context_hidden", "vectors_shuffled"}
        assert set(overall["partner_in_sight"]) == {"swapped", "context_hidden", "vectors_shuffled"}
    assert overall["anchors"] == found["statistics"]["anchors"]
    assert sum(row["anchors"] for row in found["association"]["concepts"].values()) == overall["anchors"]
    assert (
        found["association"]["object"]["anchors"] + found["association"]["attribute"]["anchors"] == overall["anchors"]
    )
    assert found["checkpoint"]["path"].endswith("runs/tiny/best") and len(found["checkpoint"]["sha256"]) == 64
    assert reported[19] == ("anchors", 20, 20) and reported[-1] == (
        "associations",
        overall["anchors"],
        overall["anchors"],
    )


def test_without_gold_or_model_their_numbers_are_absent(request_of, copied):
    shutil.rmtree(copied.parent / "gold_anchors")
    found = run_probe(request_of(records=copied)).as_json()
    assert found["coverage"] > 0.5
    assert [found[key] for key in ("precision", "recall", "association_t2v", "association", "checkpoint")] == [None] * 5


def test_gold_of_other_records_is_left_aside(copied):
    records = read_records(copied, ImageTextRecord)[:3]
    assert set(read_gold(copied, records)) == {record.id for record in records}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row | {"caption": "another"}, "is another in the records"),
        (lambda row: {"id": row["id"]}, "key 'caption' is missing"),
        (
            lambda row: row | {"anchors": [{"role": "verb", "span": [0, 1], "box_xyxy_px": [0, 0, 1, 1]}]},
            "not an anchor",
        ),
        (lambda row: row | {"anchors": [{"role": "object", "span": [0], "box_xyxy_px": []}]}, "not enough values"),
    ],
)
def test_the_error_of_damaged_gold_names_its_line(copied, change, message):
    path = copied.parent / "gold_anchors" / "test.jsonl"
    lines = path.read_text().splitlines()
    lines[1] = json.dumps(change(json.loads(lines[1])))
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=rf"\(line 2\)\n.*{message}"):
        read_gold(copied, read_records(copied, ImageTextRecord))


def test_an_own_thesaurus_changes_what_is_found(request_of, tmp_path):
    plain = run_probe(request_of()).statistics["concepts"]
    kind = next(name for name in plain if name.startswith("object: ")).removeprefix("object: ")
    (tmp_path / "own.txt").write_text(f"@stop {kind}\n")
    own = run_probe(request_of(thesaurus=(str(tmp_path / "own.txt"),))).statistics["concepts"]
    assert f"object: {kind}" in plain and f"object: {kind}" not in own


def test_the_thesaurus_of_the_run_is_used(tiny_world, tmp_path):
    assert thesaurus_of(tiny_world / "runs" / "tiny" / "last") == ()
    text = (tiny_world / "runs" / "tiny" / "recipe.yaml").read_text()
    assert "thesaurus: []" in text
    run = tmp_path / "run"
    (run / "checkpoints" / "step-1").mkdir(parents=True)
    (run / "recipe.yaml").write_text(text.replace("thesaurus: []", "thesaurus: [own.txt]"))
    assert thesaurus_of(run / "checkpoints" / "step-1") == ("own.txt",)


def test_a_run_means_its_best_checkpoint_then_its_last(tmp_path):
    assert find_checkpoint(tmp_path) == tmp_path
    (tmp_path / "last").mkdir()
    assert find_checkpoint(tmp_path) == tmp_path / "last"
    (tmp_path / "best").mkdir()
    assert find_checkpoint(tmp_path) == tmp_path / "best"


def test_a_task_checkpoint_is_refused(request_of, tiny_world, tmp_path):
    shutil.copytree(tiny_world / "runs" / "tiny" / "last", tmp_path / "task")
    config = json.loads((tmp_path / "task" / "config.json").read_text())
    (tmp_path / "task" / "config.json").write_text(json.dumps(config | {"kind": "task", "task": "scenes-ve"}))
    with pytest.raises(CheckpointError, match='checkpoint of the task "scenes-ve"'):
        run_probe(request_of(tmp_path / "task"))
