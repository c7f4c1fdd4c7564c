"""Evaluation images stay out of pre-training records, under whatever id the pre-training set knows them."""

import json
import pickle
from pathlib import Path

import pytest

from cmal.data.records import ImageTextRecord, VqaRecord, read_records
from cmal.datasets.job import Options
from cmal.datasets.leakage import LeakageAudit, leakage_statement, prepared_evaluation_sets
from cmal.datasets.prepare import prepare_dataset
from cmal.errors import DataError


def write(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value, 2) if path.suffix == ".p" else json.dumps(value).encode())
    return path


@pytest.fixture
def out(tmp_path):
    """RefCOCO is prepared: coco:10 is a training image, coco:20 is in testA and testB. Flickr30k: 30 is a test image."""
    splits = {10: "train", 20: "testAB"}
    refs = [
        {"ref_id": n, "ann_id": n, "image_id": n, "split": s, "sentences": [{"sent_id": n, "sent": "x"}]}
        for n, s in splits.items()
    ]
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [0, 0, 5, 5]} for n in splits]
    images = [{"id": n, "file_name": f"COCO_train2014_{n:012d}.jpg"} for n in splits]
    raw = tmp_path / "refer"
    write(raw / "refs(unc).p", refs)
    write(raw / "instances.json", {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "dog"}]})
    prepare_dataset("refcoco", raw, tmp_path / "data")
    rows = [{"split": "test", "filename": "30.jpg", "sentences": [{"raw": "a", "sentid": 0}]}]
    write(tmp_path / "flickr" / "dataset_flickr30k.json", {"images": rows})
    prepare_dataset("flickr30k", tmp_path / "flickr", tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def visual_genome(tmp_path):
    """Four images: vg:1 is COCO's 20, vg:2 COCO's 10, vg:3 the Flickr photo 30, vg:4 neither; two rows each."""
    raw = tmp_path / "vg"
    regions = [
        {"id": n, "regions": [{"region_id": n * 10 + k, "image_id": n, "phrase": f"p{n}"} for k in range(2)]}
        for n in range(1, 5)
    ]
    qas = [{"id": n, "qas": [{"qa_id": n, "image_id": n, "question": "Q?", "answer": "A."}]} for n in range(1, 5)]
    others = {1: (20, None), 2: (10, None), 3: (None, 30), 4: (None, None)}
    write(raw / "region_descriptions.json", regions)
    write(raw / "question_answers.json", qas)
    write(raw / "image_data.json", [{"image_id": n, "coco_id": c, "flickr_id": f} for n, (c, f) in others.items()])
    return raw


def images_in(path, kind=ImageTextRecord):
    return {record.image_id for record in read_records(path, kind)}


def test_visual_genome_images_that_are_evaluation_images_stay_out(out, visual_genome):
    (prepared,) = prepare_dataset("vg-captions", visual_genome, out)
    assert images_in(out / "vg-captions" / "train.jsonl") == {"vg:2", "vg:4"}
    exclusions = prepared.manifest["exclusions"]
    assert (exclusions["excluded"], exclusions["images"], exclusions["records"]) == (True, 2, 4)
    assert exclusions["by_evaluation_set"] == {
        "flickr30k/test": {"evaluation_images": 1, "images": 1, "records": 2},
        "refcoco/testA": {"evaluation_images": 1, "images": 1, "records": 2},
        "refcoco/testB": {"evaluation_images": 1, "images": 1, "records": 2},
    }
    statement = leakage_statement(out / "vg-captions")
    assert statement.startswith(
        "vg-captions: 2 evaluation images (4 records) excluded; audited against flickr30k/test, "
    )


def test_allowing_leakage_keeps_them_and_says_so(out, visual_genome):
    (prepared,) = prepare_dataset("vg-captions", visual_genome, out, options=Options(allow_leakage=True))
    assert images_in(out / "vg-captions" / "train.jsonl") == {"vg:1", "vg:2", "vg:3", "vg:4"}
    assert prepared.manifest["exclusions"]["excluded"] is False
    assert prepared.manifest["exclusions"]["images"] == 2
    assert "KEPT (--allow-leakage)" in leakage_statement(out / "vg-captions")
    assert any("KEPT" in line for line in prepared.remarks())


def test_without_the_coco_numbers_the_audit_is_not_silently_skipped(out, visual_genome):
    (visual_genome / "image_data.json").unlink()
    with pytest.raises(DataError, match=r"there is no image_data\.json"):
        prepare_dataset("vg-captions", visual_genome, out)
    prepare_dataset("vg-captions", visual_genome, out, options=Options(allow_leakage=True))


def test_coco_captions_lose_the_evaluation_images_of_other_tasks_under_both_names(tmp_path, out):
    images = [
        {"id": 10, "file_name": "000000000010.jpg"},
        {"id": 20, "file_name": "000000000020.jpg"},
        {"id": 40, "file_name": "000000000040.jpg", "flickr_url": "http://farm1.staticflickr.com/2/30_ab_z.jpg"},
    ]
    rows = [{"id": n, "image_id": image["id"], "caption": "a"} for n, image in enumerate(images)]
    write(tmp_path / "coco" / "captions_train2017.json", {"images": images, "annotations": rows})
    prepare_dataset("coco-captions", tmp_path / "coco", out)
    assert images_in(out / "coco-captions" / "train.jsonl") == {"coco:10"}


def test_questions_of_visual_genome_lose_them_too_but_vqa_itself_loses_nothing(tmp_path, out, visual_genome):
    questions = [{"question_id": 1, "image_id": 20, "question": "Q?"}]
    write(visual_genome / "v2_OpenEnded_mscoco_train2014_questions.json", {"questions": questions})
    answers = [{"question_id": 1, "answers": [{"answer": "a"}], "multiple_choice_answer": "a"}]
    write(visual_genome / "v2_mscoco_train2014_annotations.json", {"annotations": answers})
    (prepared,) = prepare_dataset("vqa", visual_genome, out)
    assert images_in(out / "vqa" / "train.jsonl", VqaRecord) == {"coco:20", "vg:2", "vg:4"}
    assert prepared.manifest["notes"]["questions of Visual Genome in train"] == 2


def test_karpathy_lists_among_the_raw_files_are_evaluation_sets_too(tmp_path, visual_genome):
    (visual_genome / "karpathy_test_images.txt").write_text("val2014/COCO_val2014_000000000010.jpg 10\n")
    (prepared,) = prepare_dataset("vg-captions", visual_genome, tmp_path / "empty")
    assert images_in(tmp_path / "empty" / "vg-captions" / "train.jsonl") == {"vg:1", "vg:3", "vg:4"}
    found = prepared.manifest["exclusions"]["by_evaluation_set"]
    assert found == {"karpathy_test_images.txt": {"evaluation_images": 1, "images": 1, "records": 2}}


def test_the_real_karpathy_lists_are_read(tmp_path, real_data):
    raw = tmp_path / "raw"
    raw.mkdir()
    for name in ("karpathy_val_images.txt", "karpathy_test_images.txt"):
        (raw / name).write_bytes((real_data / "coco" / "karpathy_splits" / name).read_bytes())
    write(raw / "captions_val2017.json", json.loads((real_data / "coco/annotations/captions_val2017.json").read_text()))
    write(
        raw / "captions_train2017.json", json.loads((real_data / "coco/annotations/captions_val2017.json").read_text())
    )
    (prepared,) = prepare_dataset("coco-captions", raw, tmp_path / "data")
    sets = prepared.manifest["exclusions"]["by_evaluation_set"]
    assert {name: found["evaluation_images"] for name, found in sets.items()} == {
        "karpathy_test_images.txt": 5000,
        "karpathy_val_images.txt": 5000,
    }
    assert prepared.manifest["exclusions"]["images"] == 14 + 20  # of the 98 photos of val2017


def test_a_set_prepared_before_its_tasks_says_that_it_was_not_audited(tmp_path, visual_genome):
    news = []
    prepare_dataset("vg-captions", visual_genome, tmp_path / "empty", report=news.append)
    assert "prepare the tasks first" in news[0]
    assert "not audited" in leakage_statement(tmp_path / "empty" / "vg-captions")
    assert "not audited, it has no manifest" in leakage_statement(tmp_path)


def test_an_image_in_two_evaluation_sets_counts_for_both_and_once_in_total():
    sets = {"a/test": frozenset({"coco:1", "coco:2"}), "b/val": frozenset({"coco:1"})}
    audit = LeakageAudit(sets)
    assert [audit.keeps(image) for image in ("coco:1", "coco:1", "coco:2", "coco:3")] == [False, False, False, True]
    summary = audit.summary()
    assert (summary["images"], summary["records"]) == (2, 3)
    assert summary["by_evaluation_set"]["b/val"] == {"evaluation_images": 1, "images": 1, "records": 2}


def test_evaluation_sets_are_the_validation_and_test_splits_of_what_is_prepared(out):
    sets = prepared_evaluation_sets(out)
    assert {name: set(images) for name, images in sets.items()} == {
        "flickr30k/test": {"flickr30k:30"},
        "refcoco/testA": {"coco:20"},
        "refcoco/testB": {"coco:20"},
    }
    assert "flickr30k/test" not in prepared_evaluation_sets(out, but="flickr30k")
