"""`prepare_dataset`: official files in, split files and a manifest out, whole or not at all."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cmal.data.records import (
    EntailmentRecord,
    ImageTextRecord,
    PairRecord,
    ReferringRecord,
    VqaRecord,
    read_records,
)
from cmal.datasets.job import Options
from cmal.datasets.output import OutputFolder
from cmal.datasets.prepare import DATASETS, prepare_dataset, scenes_sizes
from cmal.errors import CmalError, DataError
from cmal.io.locks import hold_folder
from cmal.regions.image_ids import guess_dataset


def write(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value, 2) if path.suffix == ".p" else json.dumps(value).encode())
    return path


def captions(raw: Path, split: str, numbers: range, year: int = 2014) -> Path:
    images = [{"id": n, "file_name": f"COCO_{split}{year}_{n:012d}.jpg"} for n in numbers]
    rows = [{"id": n * 10 + k, "image_id": n, "caption": f"caption {k}"} for n in numbers for k in range(2)]
    return write(raw / "annotations" / f"captions_{split}{year}.json", {"images": images, "annotations": rows})


def counts(prepared):
    return {split: (c["records"], c["images"]) for split, c in prepared.splits.items()}


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_official_splits_and_what_the_manifest_says(tmp_path):
    raw = tmp_path / "raw"
    train = captions(raw, "train", range(1, 4))
    captions(raw, "val", range(4, 6))
    (prepared,) = prepare_dataset("coco-captions", raw, tmp_path / "data")
    assert counts(prepared) == {"train": (6, 3), "val": (4, 2)}
    folder = tmp_path / "data" / "coco-captions"
    assert sorted(p.name for p in folder.iterdir()) == ["manifest.json", "train.jsonl", "val.jsonl"]
    first = read_records(folder / "val.jsonl", ImageTextRecord)[0]
    assert first == ImageTextRecord("coco-captions:40", "coco:4", "caption 0")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest == prepared.manifest
    assert (manifest["dataset"], manifest["image_ids"], manifest["images"]) == ("coco-captions", "coco", 5)
    assert manifest["inputs"][0]["name"] == "annotations/captions_train2014.json"
    assert manifest["inputs"][0]["bytes"] == train.stat().st_size
    assert manifest["licence"] and manifest["citation"] and manifest["dropped"] == {}


def test_a_karpathy_file_gives_the_splits(tmp_path, real_data):
    (prepared,) = prepare_dataset("coco-captions", real_data / "coco", tmp_path)
    assert {split: images for split, (_, images) in counts(prepared).items()} == {"train": 102, "val": 21, "test": 15}
    assert sum(records for records, _ in counts(prepared).values()) == 691


def test_faulty_rows_leave_the_old_data_set_as_it_was(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "data"
    captions(raw, "train", range(1, 4))
    prepare_dataset("coco-captions", raw, out)
    before = files(out)
    write(raw / "annotations" / "captions_val2014.json", {"images": [], "annotations": [{"id": 1}]})
    with pytest.raises(DataError, match="annotations row 1"):
        prepare_dataset("coco-captions", raw, out)
    assert files(out) == before


def test_same_files_same_bytes_and_a_split_that_is_gone_goes(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "data"
    captions(raw, "train", range(1, 4))
    val = captions(raw, "val", range(4, 6))
    prepare_dataset("coco-captions", raw, out)
    before = files(out)
    prepare_dataset("coco-captions", raw, out)
    assert files(out) == before
    val.unlink()
    prepare_dataset("coco-captions", raw, out)
    assert sorted(files(out)) == ["coco-captions/manifest.json", "coco-captions/train.jsonl"]


def test_a_missing_file_is_named_with_the_place_it_is_published(tmp_path):
    with pytest.raises(DataError) as error:
        prepare_dataset("refcoco", tmp_path, tmp_path / "data")
    assert str(error.value).splitlines() == [
        "cannot prepare refcoco: a file is missing",
        f"  there is no refs(unc).p in {tmp_path} or its folders",
        "  it is published at https://github.com/lichengunc/refer; unpack it there",
    ]


def test_two_releases_in_one_folder_are_not_mixed(tmp_path):
    captions(tmp_path, "train", range(1, 4), 2014)
    captions(tmp_path, "train", range(1, 5), 2017)
    with pytest.raises(DataError, match="cannot choose between files of coco-captions"):
        prepare_dataset("coco-captions", tmp_path, tmp_path / "data")


@pytest.mark.parametrize(
    ("dataset", "raw", "reason"), [("cocoo", ".", "no such data set"), ("vqa", None, "are needed")]
)
def test_an_unknown_name_or_no_folder_is_a_message(tmp_path, dataset, raw, reason):
    with pytest.raises(DataError, match=reason):
        prepare_dataset(dataset, raw and tmp_path, tmp_path / "data")


def test_flickr30k_from_tokens_and_split_lists(tmp_path, real_data):
    raw = tmp_path / "raw"
    shutil.copytree(real_data / "flickr30k" / "entities_split", raw / "entities_split")
    shutil.copy(real_data / "flickr30k" / "derived" / "results_20130124.token", raw)
    (prepared,) = prepare_dataset("flickr30k", raw, tmp_path / "data")
    (karpathy,) = prepare_dataset("flickr30k", real_data / "flickr30k", tmp_path / "other")
    assert counts(prepared) == counts(karpathy)
    assert {split: images for split, (_, images) in counts(prepared).items()} == {"train": 104, "val": 117, "test": 137}
    assert sum(records for records, _ in counts(prepared).values()) == 1790
    assert prepared.manifest["notes"]["listed images without a caption"] == 29783 + 2000 - 358


def test_vqa_with_its_own_and_with_a_given_vocabulary(tmp_path, real_data):
    (prepared,) = prepare_dataset("vqa", real_data / "vqa", tmp_path / "data")
    assert counts(prepared) == {"train": (3, 1)}
    assert len(read_records(tmp_path / "data" / "vqa" / "train.jsonl", VqaRecord)[0].answers) == 10
    given = real_data / "vqa" / "uniter_ans2label.json"
    (prepared,) = prepare_dataset("vqa", real_data / "vqa", tmp_path / "data", options=Options(answers=given))
    answers = json.loads((tmp_path / "data" / "vqa" / "answers.json").read_text())
    assert (len(answers), answers[0], answers[3]) == (3129, "net", "yes")
    assert prepared.manifest["inputs"][-1]["name"] == "uniter_ans2label.json"


def vqa_files(raw: Path, name: str, answers: list[str], first: int) -> None:
    questions = [{"question_id": first + n, "image_id": 7, "question": "What?"} for n in range(len(answers))]
    write(raw / f"v2_OpenEnded_{name}_questions.json", {"questions": questions})
    rows = [
        {
            "question_id": first + n,
            "image_id": 7,
            "multiple_choice_answer": a,
            "answers": [{"answer": a, "answer_id": 1}],
        }
        for n, a in enumerate(answers)
    ]
    if not name.startswith("mscoco_test"):
        write(raw / f"v2_{name}_annotations.json", {"annotations": rows})


def test_vqa_counts_answers_over_train_and_val_and_reads_the_test_questions(tmp_path):
    vqa_files(tmp_path, "mscoco_train2014", ["yes"] * 5 + ["cat"] * 8, 0)
    vqa_files(tmp_path, "mscoco_val2014", ["Yes"] * 4, 100)
    vqa_files(tmp_path, "mscoco_test2015", ["?"] * 3, 200)
    (prepared,) = prepare_dataset("vqa", tmp_path, tmp_path / "data")
    assert counts(prepared) == {"train": (13, 1), "val": (4, 1), "test": (3, 1)}
    assert json.loads((tmp_path / "data" / "vqa" / "answers.json").read_text()) == ["yes"]  # 9 times; "cat" 8 times
    assert read_records(tmp_path / "data" / "vqa" / "test.jsonl", VqaRecord)[0].answers == ()


def test_snli_ve_keeps_what_there_is(tmp_path, real_data):
    (prepared,) = prepare_dataset("snli-ve", real_data / "snli_ve" / "derived", tmp_path)
    assert counts(prepared) == {"train": (275, 89), "dev": (6, 2), "test": (3, 1)}
    labels = {r.label for r in read_records(tmp_path / "snli-ve" / "train.jsonl", EntailmentRecord)}
    assert labels == {"contradiction", "entailment", "neutral"}


def refcoco_files(raw: Path, *splits: str, split_by: str = "unc") -> None:
    refs = [
        {"ref_id": n, "ann_id": n, "image_id": n, "split": split, "sentences": [{"sent_id": n, "sent": f"thing {n}"}]}
        for n, split in enumerate(splits, start=1)
    ]
    numbers = range(1, len(splits) + 1)
    instances = {
        "images": [{"id": n, "file_name": f"COCO_train2014_{n:012d}.jpg", "width": 9, "height": 9} for n in numbers],
        "annotations": [{"id": n, "image_id": n, "category_id": 1, "bbox": [0, 0, 5, 5]} for n in numbers],
        "categories": [{"id": 1, "name": "person"}],
    }
    write(raw / f"refs({split_by}).p", refs)
    write(raw / "instances.json", instances)


def test_refcoco_among_its_sisters_with_detections(tmp_path):
    raw = tmp_path / "refer"
    refcoco_files(raw / "refcoco", "train", "val", "testA", "testAB")
    refcoco_files(raw / "refcoco+", "train")
    detections = write(tmp_path / "dets.json", [{"image_id": 3, "box": [0, 0, 4, 5], "category_id": 1, "score": 0.5}])
    (prepared,) = prepare_dataset("refcoco", raw, tmp_path / "data", options=Options(detections=detections))
    assert counts(prepared) == {"train": (1, 1), "val": (1, 1), "testA": (2, 2), "testB": (1, 1)}
    (record,) = read_records(tmp_path / "data" / "refcoco" / "testB.jsonl", ReferringRecord)
    assert (record.image_id, record.candidate_boxes_xywh_px) == ("coco:4", ((0, 0, 5, 5),))
    written = json.loads((tmp_path / "data" / "refcoco" / "detections.json").read_text())
    assert [a["bbox"] for a in written["annotations"]] == [[0, 0, 4, 5]]


def test_refcocog_takes_the_split_asked_for(tmp_path):
    refcoco_files(tmp_path, "train", "val", split_by="google")
    refcoco_files(tmp_path, "train", "val", "test", split_by="umd")
    (prepared,) = prepare_dataset("refcocog", tmp_path, tmp_path / "data")
    assert list(prepared.splits) == ["train", "val", "test"]
    (prepared,) = prepare_dataset("refcocog", tmp_path, tmp_path / "data", options=Options(split_by="google"))
    assert list(prepared.splits) == ["train", "val"]


def test_nlvr2(tmp_path, real_data):
    (prepared,) = prepare_dataset("nlvr2", real_data / "nlvr2", tmp_path)
    records = read_records(tmp_path / "nlvr2" / "dev.jsonl", PairRecord)
    images = {image for r in records for image in (r.left_image_id, r.right_image_id)}
    assert counts(prepared) == {"dev": (108, len(images))}


def test_conceptual_captions_beside_their_images(tmp_path):
    raw = tmp_path / "cc3m"
    (raw / "images").mkdir(parents=True)
    (raw / "images" / "a.jpg").write_bytes(b"jpeg")
    (raw / "Train_GCC-training.tsv").write_text("a dog\thttp://x/1\ta.jpg\na cat\thttp://x/2\tb.jpg\n")
    (prepared,) = prepare_dataset("cc3m", raw, tmp_path / "data")
    assert counts(prepared) == {"train": (1, 1)}
    assert list(prepared.manifest["dropped"].values()) == [1]
    assert guess_dataset(raw / "images") == prepared.manifest["image_ids"] == "cc3m"


def test_own_pairs_get_the_ids_that_extraction_will_give_their_images(tmp_path):
    folder = tmp_path / "holiday"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"jpeg")
    table = tmp_path / "captions.csv"
    table.write_text("image,caption\na.jpg,a beach\n")
    options = Options(image_folder=folder, captions=table, name="mine")
    (prepared,) = prepare_dataset("pairs", None, tmp_path / "data", options=options)
    (record,) = read_records(tmp_path / "data" / "mine" / "train.jsonl", ImageTextRecord)
    assert record == ImageTextRecord("mine:1", f"{guess_dataset(folder)}:a", "a beach")
    assert prepared.manifest["dataset"] == "mine"


@pytest.mark.parametrize("name", ["../x", "vqa", "", "a/b"])
def test_own_pairs_cannot_take_a_known_or_strange_name(tmp_path, name):
    options = Options(image_folder=tmp_path, captions=tmp_path / "c.csv", name=name)
    with pytest.raises(DataError, match="cannot call a data set"):
        prepare_dataset("pairs", None, tmp_path / "data", options=options)


def test_scenes_sizes():
    assert scenes_sizes(1200) == {"train": 1200, "val": 200, "test": 400}
    assert scenes_sizes(60) == {"train": 60, "val": 10, "test": 20}
    assert scenes_sizes(1) == {"train": 1, "val": 1, "test": 1}


def test_scenes_go_through_the_same_readers_and_are_the_same_bytes_again(tmp_path):
    prepared = {p.name: p for p in prepare_dataset("scenes", None, tmp_path / "a", images=12, seed=3, workers=1)}
    assert list(prepared) == ["scenes", "scenes-vqa", "scenes-ve", "scenes-rec"]
    assert counts(prepared["scenes"])["train"][1] == 12
    assert list(prepared["scenes-rec"].splits) == ["train", "val", "testA", "testB"]
    assert list(prepared["scenes-ve"].splits) == ["train", "dev", "test"]
    official = json.loads((tmp_path / "a" / "scenes" / "official" / "captions_train.json").read_text())
    records = read_records(tmp_path / "a" / "scenes" / "train.jsonl", ImageTextRecord)
    assert [(r.id, r.caption) for r in records] == [
        (f"scenes:{a['id']}", a["caption"]) for a in official["annotations"]
    ]
    assert {r.image_id for r in records} == {f"scenes:train/{n:06d}" for n in range(12)}
    for record in read_records(tmp_path / "a" / "scenes-rec" / "train.jsonl", ReferringRecord):
        assert record.box_xywh_px in record.candidate_boxes_xywh_px
    assert "yes" in json.loads((tmp_path / "a" / "scenes-vqa" / "answers.json").read_text())
    assert guess_dataset(tmp_path / "a" / "scenes" / "images") == "scenes"
    prepare_dataset("scenes", None, tmp_path / "b", images=12, seed=3, workers=2)
    assert files(tmp_path / "b") == files(tmp_path / "a")


def test_two_runs_on_one_folder_do_not_mix(tmp_path):
    captions(tmp_path / "raw", "train", range(1, 4))
    with hold_folder(tmp_path / "data" / "coco-captions"), pytest.raises(CmalError, match="has held it since"):
        prepare_dataset("coco-captions", tmp_path / "raw", tmp_path / "data")


def test_a_full_disk_is_a_message_and_nothing_is_left(tmp_path):
    with pytest.raises(CmalError, match="No space left"), OutputFolder(tmp_path / "vqa") as output:
        output.split("train").add(ImageTextRecord("a", "b", "c"))
        raise OSError(28, "No space left on device")
    assert list((tmp_path / "vqa").iterdir()) == []


def test_killed_at_any_moment_the_next_run_gives_the_same_bytes(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "data"
    captions(raw, "train", range(1, 3000))
    prepare_dataset("coco-captions", raw, tmp_path / "whole")
    code = "import sys; from cmal.datasets.prepare import prepare_dataset as p; print(1, flush=True); "
    code += "p('coco-captions', *sys.argv[1:])"
    for delay_s in (0.0, 0.02, 0.05):
        process = subprocess.Popen([sys.executable, "-c", code, str(raw), str(out)], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(delay_s)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        if (out / "coco-captions" / "manifest.json").exists():
            assert {k: v for k, v in files(out).items() if not k.endswith(".tmp")} == files(tmp_path / "whole")
    prepare_dataset("coco-captions", raw, out)
    assert files(out) == files(tmp_path / "whole")


def test_every_data_set_has_facts_for_its_manifest():
    from cmal.datasets.catalogue import CATALOGUE

    assert all(CATALOGUE[name].source and CATALOGUE[name].licence and CATALOGUE[name].citation for name in DATASETS)
