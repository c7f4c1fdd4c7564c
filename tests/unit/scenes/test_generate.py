"""The generated data set: official formats, consistent ids, equal bytes for any number of workers, no repeated work."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path

import pytest
from PIL import Image

from cmal.errors import DataError
from cmal.scenes import generate
from cmal.scenes.generate import is_complete, write_scenes
from cmal.scenes.language.nouns import NAMES
from cmal.scenes.world import KINDS, PEOPLE

IMAGES = {"train": 18, "val": 2, "test": 3}


@pytest.fixture(scope="module")
def data_set(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("one") / "scenes"
    write_scenes(out, IMAGES, seed=5, workers=1)
    return out


def read(path: Path):
    return json.loads(path.read_bytes())


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.open()]


def read_refs(out: Path) -> list[dict]:
    return pickle.loads((out / "official/refs(scenes).p").read_bytes())


def hashes(out: Path) -> dict[str, str]:
    files = sorted(path for path in out.rglob("*") if path.is_file())
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_two_workers_write_the_same_bytes_as_one(data_set, tmp_path):
    write_scenes(tmp_path / "two", IMAGES, seed=5, workers=2)
    assert hashes(tmp_path / "two") == hashes(data_set)


def test_an_image_does_not_depend_on_how_many_follow_and_leftovers_go(data_set, tmp_path):
    out = tmp_path / "scenes"
    write_scenes(out, {"train": 4, "val": 2, "test": 1}, seed=5, workers=1)
    assert sorted(p.name for p in (out / "images/train").iterdir()) == [f"{i:06d}.jpg" for i in range(4)]
    small, large = (read(o / "official/captions_train.json")["annotations"] for o in (out, data_set))
    assert small == large[:20]
    small, large = (read_lines(o / "official/snli_ve_train.jsonl") for o in (out, data_set))
    assert small == large[: len(small)]
    (out / "images/train/000009.jpg").write_bytes(b"left by a larger run")
    (out / "images/train/mine.jpg").write_bytes(b"not ours")
    write_scenes(out, {"train": 3, "val": 2, "test": 1}, seed=5, workers=1)
    names = sorted(p.name for p in (out / "images/train").iterdir())
    assert names == ["000000.jpg", "000001.jpg", "000002.jpg", "mine.jpg"]


def test_an_identical_call_returns_at_once_and_another_seed_does_not(data_set, monkeypatch):
    def refuse(*_):
        raise AssertionError("drawn again")

    monkeypatch.setattr(generate, "_make_block", refuse)
    before = hashes(data_set)
    write_scenes(data_set, IMAGES, seed=5)
    assert hashes(data_set) == before and is_complete(data_set, IMAGES, 5) and not is_complete(data_set, IMAGES, 6)


def test_a_broken_run_is_not_complete_and_leaves_no_temporary_file(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("cable pulled")

    few = {"train": 1, "val": 1, "test": 1}
    write_scenes(tmp_path, few, seed=1, workers=1)
    assert is_complete(tmp_path, few, 1)
    monkeypatch.setattr(generate, "_write_preview", fail)
    with pytest.raises(OSError, match="cable pulled"):
        write_scenes(tmp_path, few, seed=2, workers=1)
    assert not is_complete(tmp_path, few, 1) and not is_complete(tmp_path, few, 2)
    assert [p.name for p in tmp_path.rglob("*") if p.name.endswith(".tmp")] == []


def test_captions_are_coco_captions(data_set):
    captions = read(data_set / "official/captions_train.json")
    assert set(captions) == {"info", "licenses", "images", "annotations"}
    assert captions["images"][12]["id"] == 10_000_012 and captions["images"][12]["file_name"] == "train/000012.jpg"
    assert len(captions["annotations"]) == 5 * 18
    assert {a["image_id"] for a in captions["annotations"]} == {i["id"] for i in captions["images"]}
    for row in captions["images"]:
        assert Image.open(data_set / "images" / row["file_name"]).size == (row["width"], row["height"])


def test_instances_are_coco_instances_and_one_file_holds_all_splits(data_set):
    parts = [read(data_set / f"official/instances_{split}.json") for split in ("train", "val", "test")]
    joined = read(data_set / "official/instances.json")
    assert [c["name"] for c in joined["categories"]] == list(KINDS) and joined["categories"][0]["id"] == 1
    assert joined["annotations"] == [a for part in parts for a in part["annotations"]]
    assert len({a["id"] for a in joined["annotations"]}) == len(joined["annotations"])
    sizes = {i["id"]: (i["width"], i["height"]) for i in joined["images"]}
    for row in joined["annotations"]:
        (x, y, w, h), (width, height) = row["bbox"], sizes[row["image_id"]]
        assert x >= 0 and y >= 0 and w > 0 and h > 0 and x + w <= width and y + h <= height and row["area"] == w * h


def test_refs_are_as_refer_has_them_and_join_with_instances(data_set):
    annotations = {a["id"]: a for a in read(data_set / "official/instances.json")["annotations"]}
    refs = read_refs(data_set)
    assert {ref["split"] for ref in refs} <= {"train", "val", "testA", "testB"}
    assert len({ref["ref_id"] for ref in refs}) == len(refs)
    for ref in refs:
        annotation = annotations[ref["ann_id"]]
        assert (ref["image_id"], ref["category_id"]) == (annotation["image_id"], annotation["category_id"])
        assert ref["sent_ids"] == [s["sent_id"] for s in ref["sentences"]]
        assert all(s["sent"] == s["raw"].lower() and " ".join(s["tokens"]) == s["sent"] for s in ref["sentences"])
        is_person = KINDS[ref["category_id"] - 1] in PEOPLE
        assert ref["split"] not in ("testA", "testB") or (ref["split"] == "testA") == is_person


def test_refs_are_a_protocol_2_pickle_of_plain_values(data_set):
    import pickletools

    data = (data_set / "official/refs(scenes).p").read_bytes()
    names = {operation.name for operation, _, _ in pickletools.genops(data)}
    assert data[:2] == b"\x80\x02" and not names & {"GLOBAL", "REDUCE", "BUILD", "INST", "NEWOBJ"}


def test_questions_and_annotations_are_vqa_v2_and_pair_up(data_set):
    questions = read(data_set / "official/v2_OpenEnded_scenes_train_questions.json")
    annotations = read(data_set / "official/v2_scenes_train_annotations.json")
    ids = [q["question_id"] for q in questions["questions"]]
    assert ids == [a["question_id"] for a in annotations["annotations"]] and len(set(ids)) == len(ids)
    assert all(q["question_id"] // 1000 == q["image_id"] for q in questions["questions"])
    row = annotations["annotations"][0]
    assert [a["answer_id"] for a in row["answers"]] == list(range(1, 11))
    assert row["answer_type"] in ("yes/no", "number", "other")


def test_entailment_rows_have_the_official_keys(data_set):
    for split in ("train", "dev", "test"):
        rows = read_lines(data_set / f"official/snli_ve_{split}.jsonl")
        assert rows and len({row["pairID"] for row in rows}) == len(rows)
        for row in rows:
            assert row["gold_label"] in ("entailment", "neutral", "contradiction")
            assert (data_set / "images" / f"{row['Flickr30K_ID']}.jpg").is_file()
            assert row["captionID"].split("#")[0] == f"{row['Flickr30K_ID']}.jpg"


def test_karpathy_file_numbers_its_images_through(data_set):
    images = read(data_set / "official/dataset_scenes.json")["images"]
    assert [image["imgid"] for image in images] == list(range(23))
    assert [image["split"] for image in images] == ["train"] * 18 + ["val"] * 2 + ["test"] * 3
    assert images[18]["filepath"] == "val" and images[18]["filename"] == "000000.jpg"


def test_gold_spans_cut_exactly_the_noun_and_boxes_are_instances(data_set):
    captions = {f"scenes:{a['id']}": a for a in read(data_set / "official/captions_train.json")["annotations"]}
    boxes = {}
    for row in read(data_set / "official/instances_train.json")["annotations"]:
        x, y, w, h = row["bbox"]
        kind, colour = KINDS[row["category_id"] - 1], row["attributes"]["colour"]
        boxes.setdefault(row["image_id"], {})[x, y, x + w, y + h] = (kind, colour)
    gold = read_lines(data_set / "gold_anchors/train.jsonl")
    assert [row["id"] for row in gold] == list(captions)
    for row in gold:
        caption = captions[row["id"]]
        assert row["caption"] == caption["caption"]
        for anchor in row["anchors"]:
            words = row["caption"][slice(*anchor["span"])].lower()
            kind, colour = boxes[caption["image_id"]][tuple(anchor["box_xyxy_px"])]
            if anchor["role"] == "attribute":
                assert words == anchor["concept"] == colour
            else:
                assert anchor["concept"] == kind and words in {name for pair in NAMES[kind] for name in pair}


def test_bad_arguments_are_told_together(tmp_path):
    with pytest.raises(DataError) as error:
        write_scenes(tmp_path, {"train": 0, "val": 2}, seed=-1)
    assert str(error.value).splitlines() == [
        "cannot generate scenes",
        '  "test" is missing; 0 images for train; seed -1',
        "  ask for 1 to 1,000,000 images of each of train, val, test, and a seed of 0 or more",
    ]


def test_progress_is_reported_block_by_block(tmp_path):
    reported = []
    write_scenes(
        tmp_path, {"train": 17, "val": 1, "test": 1}, seed=2, workers=1, report=lambda *step: reported.append(step)
    )
    assert reported == [("train", 16, 17), ("train", 17, 17), ("val", 1, 1), ("test", 1, 1)]
