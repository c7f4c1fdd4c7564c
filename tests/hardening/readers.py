"""Every reader of files of others, for the fuzzing: its valid input, how it reads, and what must hold of what it gives."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
from hardening import seeds
from hardening.formats import CSV, JSON, JSON_LINES, LINES, PICKLE, TSV, YAML
from hardening.fuzzing import Reader
from hardening.readers_models import model_readers
from hardening.readers_regions import region_readers

from cmal.anchors.thesaurus import Thesaurus
from cmal.data import records as record_kinds
from cmal.data.records import (
    EntailmentRecord,
    ImageTextRecord,
    PairRecord,
    Record,
    ReferringRecord,
    VqaRecord,
    parse_record,
    read_records,
    record_line,
)
from cmal.data.text import WordPieces
from cmal.datasets.job import Options
from cmal.datasets.leakage import evaluation_leakage, prepared_evaluation_sets
from cmal.datasets.prepare import prepare_dataset
from cmal.regions.detectors.given_boxes import read_given_boxes
from cmal.regions.image_ids import guess_dataset
from cmal.regions.image_lists import images_of_records
from cmal.reports.run_report import write_run_report
from cmal.runs.probe import read_gold
from cmal.runs.recipe import FinetuneRecipe, PretrainRecipe, load_recipe, recipe_text
from cmal.runs.results import read_result

ROOT = Path(__file__).resolve().parents[2]


@cache
def all_readers() -> tuple[Reader, ...]:
    """All of them, in the order of the table."""
    return (*_records(), *_official(), *_small(), *region_readers(), *model_readers())


def check_records(records: list[Record]) -> None:
    """What every record promises: texts that can be written, finite boxes with sides that are not negative."""
    for record in records:
        assert parse_record(record_line(record), type(record)) == record
        record_line(record).encode("utf-8")
        assert record.id, "an empty id"
        if isinstance(record, ReferringRecord):
            for box in (record.box_xywh_px, *record.candidate_boxes_xywh_px):
                assert len(box) == 4 and all(map(math.isfinite, box)) and min(box[2:]) >= 0, box
    assert len({record.id for record in records}) == len(records)


def _records() -> list[Reader]:
    readers = []
    for name, rows in seeds.RECORDS.items():
        kind = getattr(record_kinds, name)

        def read(folder: Path, kind: type[Record] = kind) -> None:
            check_records(read_records(folder / "train.jsonl", kind))

        readers.append(
            Reader(f"records {name}", {"train.jsonl": seeds.as_lines(rows)}, {"train.jsonl": JSON_LINES}, read)
        )
    return readers


SPLIT_KINDS: dict[str, type[Record]] = {
    "vqa": VqaRecord,
    "snli-ve": EntailmentRecord,
    "refcoco": ReferringRecord,
    "nlvr2": PairRecord,
}


def _prepare(dataset: str, folder: Path, options: Callable[[Path], Options] | None = None) -> None:
    """`prepare` of a folder; either whole, and then every split is what the manifest says, or nothing at all."""
    out = folder / "out"
    try:
        (prepared,) = prepare_dataset(dataset, folder, out, options=options(folder) if options else None)
    except Exception:
        assert not out.exists() or not [path for path in out.rglob("*") if path.is_file()], "something half written"
        raise
    manifest = json.loads((prepared.folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest == json.loads(json.dumps(prepared.manifest))
    seen = 0
    for split, counts in manifest["splits"].items():
        path = prepared.folder / f"{split}.jsonl"
        if counts["records"]:
            records = read_records(path, SPLIT_KINDS.get(dataset, ImageTextRecord))
            check_records(records)
            assert len(records) == counts["records"]
            assert all(_texts_are_clean(record) for record in records)
            seen += len(records)
    assert seen


def _texts_are_clean(record: Record) -> bool:
    """No control character reaches a prepared record."""
    return not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in "".join(_texts(vars(record).values())))


def _texts(values: object) -> list[str]:
    found = []
    for value in values:
        found += [value] if isinstance(value, str) else _texts(value) if isinstance(value, tuple) else []
    return found


def _official() -> list[Reader]:
    def reader(name, dataset, files, formats, options=None, share=1.0):
        return Reader(f"prepare {name}", files, formats, partial(_prepare, dataset, options=options), share)

    coco, karpathy = "annotations/captions_train2014.json", "dataset_coco.json"
    v2 = "v2_OpenEnded_mscoco_train2014_questions.json", "v2_mscoco_train2014_annotations.json"
    readers = [
        reader("coco-captions", "coco-captions", {coco: seeds.CAPTIONS}, {coco: JSON}),
        reader("coco Karpathy", "coco-captions", {karpathy: seeds.karpathy("coco")}, {karpathy: JSON}),
        reader(
            "flickr30k Karpathy",
            "flickr30k",
            {"dataset_flickr30k.json": seeds.karpathy("flickr30k")},
            {"dataset_flickr30k.json": JSON},
        ),
        reader(
            "flickr30k tokens",
            "flickr30k",
            {"results_20130124.token": seeds.TOKENS, **seeds.SPLIT_LISTS},
            {"results_20130124.token": LINES, **dict.fromkeys(seeds.SPLIT_LISTS, LINES)},
        ),
        reader(
            "vqa",
            "vqa",
            {
                **dict(zip(v2, (seeds.QUESTIONS, seeds.ANNOTATIONS))),
                "question_answers.json": seeds.VG_QUESTIONS,
                "image_data.json": seeds.VG_IMAGES,
            },
            {**dict.fromkeys(v2, JSON), "question_answers.json": JSON, "image_data.json": JSON},
            share=2.0,
        ),
        reader(
            "vqa answers",
            "vqa",
            {**dict(zip(v2, (seeds.QUESTIONS, seeds.ANNOTATIONS))), "map/ans2label.json": b'{"dog": 0, "cat": 1}'},
            {"map/ans2label.json": JSON},
            lambda folder: Options(answers=folder / "map/ans2label.json"),
        ),
        reader("snli-ve", "snli-ve", {"snli_ve_dev.jsonl": seeds.SNLI_VE}, {"snli_ve_dev.jsonl": JSON_LINES}),
        reader(
            "refcoco",
            "refcoco",
            {"refs(unc).p": seeds.REFS, "instances.json": seeds.INSTANCES, "det/dets.json": seeds.DETECTIONS},
            {"refs(unc).p": PICKLE, "instances.json": JSON, "det/dets.json": JSON},
            lambda folder: Options(detections=folder / "det/dets.json"),
            share=3.0,
        ),
        reader("nlvr2", "nlvr2", {"dev.json": seeds.NLVR2}, {"dev.json": JSON_LINES}),
        reader(
            "vg-captions",
            "vg-captions",
            {"region_descriptions.json": seeds.VG_REGIONS, "image_data.json": seeds.VG_IMAGES},
            {"region_descriptions.json": JSON, "image_data.json": JSON},
        ),
        reader(
            "cc3m", "cc3m", {"Train_GCC-training.tsv": seeds.CC3M, **seeds.PICTURES}, {"Train_GCC-training.tsv": TSV}
        ),
        reader("sbu", "sbu", {"sbu-captions-all.json": seeds.SBU, **seeds.PICTURES}, {"sbu-captions-all.json": JSON}),
    ]
    pairs = (("csv", seeds.PAIRS_CSV, CSV), ("tsv", seeds.PAIRS_TSV, TSV), ("jsonl", seeds.PAIRS_JSONL, JSON_LINES))
    for ending, data, form in pairs:
        name = f"table/captions.{ending}"
        options = partial(_pairs_options, name)
        readers.append(reader(f"pairs {ending}", "pairs", {name: data, **seeds.PICTURES}, {name: form}, options))
    return readers


def _pairs_options(name: str, folder: Path) -> Options:
    return Options(image_folder=folder / "images", captions=folder / name, name="mine")


def _read_recipe(kind: type, folder: Path) -> None:
    recipe = load_recipe(kind, folder / "recipe.yaml")
    again = folder / "again.yaml"
    again.write_text(recipe_text(recipe), encoding="utf-8")
    assert load_recipe(kind, again) == recipe, "a recipe that is not read back as it was written"


def _read_override(folder: Path) -> None:
    lines = (folder / "set.txt").read_text(encoding="utf-8", errors="replace").split("\n")
    recipe = load_recipe(PretrainRecipe, folder / "recipe.yaml", lines)
    assert math.isfinite(recipe.optimizer.lr) and recipe.train.steps >= 1


def _read_boxes(folder: Path) -> None:
    given = read_given_boxes(folder / "instances.json", "coco")
    assert all(isinstance(name, str) for name in given.class_names)
    for boxes, classes, (width, height) in given.of_image.values():
        assert np.isfinite(boxes).all() and (boxes[:, 2:] >= boxes[:, :2]).all() and width >= 0 and height >= 0
        assert len(classes) == len(boxes) and all(0 <= c < len(given.class_names) for c in classes)


def _read_result(folder: Path) -> None:
    result = read_result(folder / "result.json")
    result.as_json()
    json.dumps(result.as_json(), allow_nan=False)


def _read_report(folder: Path) -> None:
    page = write_run_report(folder).read_text(encoding="utf-8")
    assert "<script>alert" not in page and page.rstrip().endswith("</html>")


def _read_gold(folder: Path) -> None:
    records = read_records(folder / "train.jsonl", ImageTextRecord)
    for anchors in read_gold(folder / "train.jsonl", records).values():
        for anchor in anchors:
            first, last = anchor["span"]
            assert 0 <= first <= last and np.isfinite(np.array(anchor["box_xyxy_px"], float)).all()


def _read_leakage(folder: Path) -> None:
    for images in prepared_evaluation_sets(folder).values():
        assert all(isinstance(image, str) for image in images)
    assert isinstance(evaluation_leakage("x: 1", folder / "set", "val"), str)
    assert isinstance(guess_dataset(folder / "set" / "images"), str)


def _read_image_list(folder: Path) -> None:
    for image_id, path in images_of_records(folder / "train.jsonl", folder / "images", "coco"):
        assert isinstance(image_id, str) and isinstance(path, Path)


def _read_vocabulary(folder: Path) -> None:
    pieces = WordPieces.from_pretrained(folder / "bert")
    encoded = pieces.encode("a dog runs", 8)
    assert len(encoded.token_ids) == len(encoded.word_of_token) <= 8


def _read_thesaurus(folder: Path) -> None:
    data = (folder / "own.txt").read_bytes()
    try:
        Thesaurus.from_text(data.decode("utf-8"))  # without the package's own lines, which take a second
    except UnicodeDecodeError:
        Thesaurus.load(folder / "own.txt")


def _small() -> list[Reader]:
    base, finetune = (ROOT / "recipes" / name for name in ("scenes.yaml", "finetune/scenes_vqa.yaml"))
    manifest = {
        "format": "cmal-prepared",
        "dataset": "set",
        "image_ids": "coco",
        "exclusions": {"excluded": True, "images": 1, "by_evaluation_set": {"a/val": {"images": 1, "records": 2}}},
    }
    records = seeds.as_lines(seeds.RECORDS["ImageTextRecord"])
    override = "optimizer.lr=3e-5\ntrain.steps=10\ndata.records=[a.jsonl]\ntrain.seed=3"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "runs", "##s"]
    tokenizer = {"model": {"vocab": {piece: number for number, piece in enumerate(vocabulary)}}}
    config = {"do_lower_case": True}
    run = {
        "recipe.yaml": b"task: vqa\n",
        "metrics.jsonl": seeds.METRICS,
        "environment.json": b'{"python": "3.11", "machine": {"cores": 2}}',
        "results/val.json": seeds.RESULT,
        "text_encoder.json": b'{"source": "bert", "used": ["a"], "left": ["b"]}',
    }
    run_formats = {name: JSON for name in run if name.endswith(".json")} | {"metrics.jsonl": JSON_LINES}
    pages = {"set/manifest.json": seeds.as_json(manifest), "set/val.jsonl": records}
    return [
        Reader(
            "recipe pretrain",
            {"recipe.yaml": base.read_bytes()},
            {"recipe.yaml": YAML},
            partial(_read_recipe, PretrainRecipe),
        ),
        Reader(
            "recipe finetune",
            {"recipe.yaml": finetune.read_bytes()},
            {"recipe.yaml": YAML},
            partial(_read_recipe, FinetuneRecipe),
        ),
        Reader(
            "recipe --set",
            {"recipe.yaml": base.read_bytes(), "set.txt": override.encode()},
            {"set.txt": LINES},
            _read_override,
        ),
        Reader("boxes instances", {"instances.json": seeds.INSTANCES}, {"instances.json": JSON}, _read_boxes),
        Reader("result json", {"result.json": seeds.RESULT}, {"result.json": JSON}, _read_result),
        Reader("run report", run, run_formats, _read_report),
        Reader(
            "gold anchors",
            {"train.jsonl": records, "gold_anchors/train.jsonl": seeds.GOLD},
            {"gold_anchors/train.jsonl": JSON_LINES},
            _read_gold,
        ),
        Reader("manifest, split lists", pages, {"set/manifest.json": JSON, "set/val.jsonl": JSON_LINES}, _read_leakage),
        Reader(
            "image lists", {"train.jsonl": records, **seeds.PICTURES}, {"train.jsonl": JSON_LINES}, _read_image_list
        ),
        Reader("thesaurus", {"own.txt": seeds.THESAURUS}, {"own.txt": LINES}, _read_thesaurus, 0.5),
        Reader(
            "tokenizer",
            {"bert/tokenizer.json": seeds.as_json(tokenizer), "bert/tokenizer_config.json": seeds.as_json(config)},
            {"bert/tokenizer.json": JSON, "bert/tokenizer_config.json": JSON},
            _read_vocabulary,
        ),
        Reader(
            "vocab.txt",
            {"bert/vocab.txt": "\n".join(vocabulary).encode()},
            {"bert/vocab.txt": LINES},
            _read_vocabulary,
            0.5,
        ),
    ]
