"""One short function a data set: which official files, which splits, and into which records they go.

`scenes` writes official files under its own names; the tables below are all that differs between it and the real sets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cmal.datasets.coco_captions import ImageRow, read_captions, read_images
from cmal.datasets.detections import read_detections
from cmal.datasets.flickr30k import read_split_list, read_tokens
from cmal.datasets.flickr30k_entities import read_entities
from cmal.datasets.job import Job
from cmal.datasets.karpathy import read_karpathy
from cmal.datasets.nlvr2 import read_nlvr2
from cmal.datasets.pairs import read_pairs
from cmal.datasets.refer import read_refs
from cmal.datasets.snli_ve import read_snli_ve
from cmal.datasets.visual_genome import read_image_data, read_question_answers, read_regions
from cmal.datasets.vqa import (
    ImageNumbers,
    build_vocabulary,
    read_annotations,
    read_questions,
    read_vocabulary,
)
from cmal.datasets.web_captions import (
    ImageFolder,
    WebRow,
    fetched_records,
    read_caption_lists,
    read_caption_texts,
    read_caption_tsv,
)
from cmal.regions.coco_instances import read_instances
from cmal.regions.image_ids import guess_dataset

ANSWERS = "answers.json"
DETECTIONS = "detections.json"

CAPTION_FILES = {
    "coco-captions": {
        split: tuple(f"captions_{split}{year}.json" for year in (2014, 2017)) for split in ("train", "val")
    },
    "scenes": {split: (f"captions_{split}.json",) for split in ("train", "val", "test")},
}
VQA_FILES = {
    "vqa": {
        "train": "mscoco_train2014",
        "val": "mscoco_val2014",
        "test-dev": "mscoco_test-dev2015",
        "test": "mscoco_test2015",
    },
    "scenes-vqa": {split: f"scenes_{split}" for split in ("train", "val", "test")},
}
WITHOUT_ANSWERS = ("test-dev", "test")  # of VQA v2; its test annotations are not published
MIN_ANSWER_COUNT = {"vqa": 9, "scenes-vqa": 2}
REF_SPLITS = {
    "refcoco": ("unc", "google"),
    "refcoco+": ("unc",),
    "refcocog": ("umd", "google"),
    "scenes-rec": ("scenes",),
}
NLVR2_FILES = {"train": "train.json", "dev": "dev.json", "test-P": "test1.json"}


def coco_captions(job: Job) -> None:
    """Karpathy's file where it is there (train with restval, val, test), else the official train and val files."""
    karpathy = job.raw.find("dataset_coco.json") if job.dataset == "coco-captions" else None
    tables = _caption_tables(job)
    if karpathy is None and not tables:
        raise job.raw.missing("captions_train2014.json, captions_train2017.json or dataset_coco.json")
    if job.dataset == "coco-captions":
        aliases = {
            row.image_id: (f"flickr30k:{row.flickr_photo}",)
            for images in tables.values()
            for row in images.values()
            if row.flickr_photo
        }
        job.begin_audit(aliases, ("Flickr photo number of captions_*.json",) if aliases else ())
    if karpathy is not None:
        for split, record in read_karpathy(karpathy, job.dataset, job.image_ids, job.dropped):
            job.write(split, record, training=split == "train")
        job.notes["splits"] = "Karpathy; restval counts as train"
        return
    for split, images in tables.items():
        path = job.raw.need(*CAPTION_FILES[job.dataset][split])
        for record in read_captions(path, job.dataset, images, job.dropped):
            job.write(split, record, training=split == "train")
    job.notes["splits"] = "official"


def _caption_tables(job: Job) -> dict[str, dict[int, ImageRow]]:
    paths = {split: job.raw.find(*names) for split, names in CAPTION_FILES[job.dataset].items()}
    return {split: read_images(path, job.image_ids, job.dropped) for split, path in paths.items() if path}


def vg_captions(job: Job) -> None:
    """Every region description is a caption of its image."""
    path = job.raw.need("region_descriptions.json")
    _begin_vg_audit(job, "image_data.json" if job.options.allow_leakage else "")
    for record in read_regions(path, job.dataset, job.dropped):
        job.write("train", record, training=True)


def _begin_vg_audit(job: Job, optional: str) -> None:
    """The audit by the COCO and Flickr numbers of image_data.json, which may be missing where it is `optional`."""
    path = job.raw.find(optional) if optional else job.raw.need("image_data.json")
    aliases = read_image_data(path, job.dropped) if path else {}
    job.begin_audit(aliases, ("coco_id and flickr_id of image_data.json",) if path else ())


def web_captions(job: Job) -> None:
    """cc3m and sbu: every row whose picture was fetched; the others are counted."""
    images = ImageFolder(_image_folder(job))
    job.image_ids = guess_dataset(images.folder)
    job.notes["image folder"] = str(images.folder)
    job.begin_audit()
    rows = _cc3m_rows(job) if job.dataset == "cc3m" else _sbu_rows(job)
    for record in fetched_records(rows, images, job.dataset, job.image_ids, job.dropped):
        job.write("train", record, training=True)


def _image_folder(job: Job) -> Path:
    """The folder given, else `images` or `training` of the raw folder, else the raw folder itself."""
    usual = [job.raw.folder / name for name in ("images", "training")]
    return job.options.image_folder or next((folder for folder in usual if folder.is_dir()), job.raw.folder)


def _cc3m_rows(job: Job) -> Iterator[WebRow]:
    return read_caption_tsv(job.raw.need("Train_GCC-training.tsv", "Train-GCC-training.tsv"), job.dropped)


def _sbu_rows(job: Job) -> Iterator[WebRow]:
    together = job.raw.find("sbu-captions-all.json", "sbu_captions_all.json")
    if together:
        return read_caption_lists(together, job.dropped)
    names = (f"SBU_captioned_photo_dataset_{what}.txt" for what in ("urls", "captions"))
    return read_caption_texts(*(job.raw.need(name) for name in names), job.dropped)


def pairs(job: Job) -> None:
    """One's own pictures and captions."""
    folder = job.raw.folder
    job.image_ids = guess_dataset(folder)
    job.notes["image folder"] = str(folder)
    job.begin_audit()
    for split, record in read_pairs(job.options.captions, folder, job.dataset, job.image_ids, job.dropped):
        job.write(split, record, training=split == "train")


def flickr30k(job: Job) -> None:
    """Karpathy's file where it is there, else the token file and the split lists of Flickr30k Entities."""
    karpathy = job.raw.find("dataset_flickr30k.json")
    if karpathy is not None:
        job.begin_audit()
        for split, record in read_karpathy(karpathy, job.dataset, job.image_ids, job.dropped):
            job.write(split, record, training=split == "train")
        job.notes["splits"] = "Karpathy"
        return
    tokens = job.raw.need("results_20130124.token")
    split_of = _listed_splits(job)
    job.begin_audit()
    captioned: set[str] = set()
    for record in read_tokens(tokens, job.dataset, job.dropped):
        captioned.add(record.image_id)
        split = split_of.get(record.image_id)
        if split is None:
            job.dropped["captions of images in no split list"] += 1
        else:
            job.write(split, record, training=split == "train")
    job.notes["splits"] = "Flickr30k Entities"
    job.notes["listed images without a caption"] = len(split_of.keys() - captioned)


def flickr30k_entities(job: Job) -> None:
    """One record per boxed phrase of the photographs in the split lists; these lie beside Sentences and Annotations."""
    split_of = _listed_splits(job)
    folder = job.raw.need("train.txt").parent
    for split in ("train", "val", "test"):
        photos = [image_id for image_id, its in split_of.items() if its == split]
        for record in read_entities(folder, photos, job.dataset, job.dropped):
            job.write(split, record)


def _listed_splits(job: Job) -> dict[str, str]:
    """Image id -> split, from train.txt, val.txt and test.txt. Raises DataError where two lists hold one image."""
    split_of: dict[str, str] = {}
    for split in ("train", "val", "test"):
        for image_id in read_split_list(job.raw.need(f"{split}.txt"), job.dropped):
            if split_of.setdefault(image_id, split) != split:
                raise job.raw.missing(
                    f"list without {image_id}, which is in both {split_of[image_id]}.txt and {split}.txt,"
                )
    return split_of


def vqa(job: Job) -> None:
    """Questions with their answers, Visual Genome's questions in training where they are there, and the vocabulary."""
    images = _question_images(job)
    chosen: Counter[str] = Counter()
    found = [split for split in VQA_FILES[job.dataset] if _vqa_split(job, split, images, chosen)]
    if not found:
        raise job.raw.missing(
            " or ".join(f"v2_OpenEnded_{name}_questions.json" for name in VQA_FILES[job.dataset].values())
        )
    if job.dataset == "vqa":
        _vg_questions(job)
    least = MIN_ANSWER_COUNT[job.dataset]
    given = job.options.answers
    answers = read_vocabulary(given) if given else build_vocabulary(chosen, least)
    if answers or given:
        job.output.others[ANSWERS] = answers
    job.notes["answers"] = {
        "count": len(answers),
        "from": given.name if given else f"multiple-choice answers of train and val given at least {least} times",
    }


def _question_images(job: Job) -> dict[int, str]:
    if job.dataset == "vqa":
        return ImageNumbers()
    instances = read_instances(job.raw.need("instances.json"))
    return {number: image.image_id(job.image_ids) for number, image in instances.images.items()}


def _vqa_split(job: Job, split: str, images: dict[int, str], chosen: Counter[str]) -> bool:
    """Writes one split; False where its questions are not there."""
    name = VQA_FILES[job.dataset][split]
    questions_path = job.raw.find(f"v2_OpenEnded_{name}_questions.json")
    without_answers = job.dataset == "vqa" and split in WITHOUT_ANSWERS
    if questions_path is None:
        if not without_answers and job.raw.find(f"v2_{name}_annotations.json"):
            raise job.raw.missing(f"v2_OpenEnded_{name}_questions.json")
        return False
    annotations_path = None if without_answers else job.raw.need(f"v2_{name}_annotations.json")
    questions = read_questions(questions_path, job.dataset, images, job.dropped)
    if annotations_path is None:
        for record in questions.values():
            job.write(split, record)
        return True
    for record, answer in read_annotations(annotations_path, questions, images, job.dropped):
        job.write(split, record)
        if split in ("train", "val"):
            chosen[answer] += 1
    return True


def _vg_questions(job: Job) -> None:
    """Visual Genome's questions as further training data, without those of evaluation images."""
    path = job.raw.find("question_answers.json")
    if path is None:
        return
    _begin_vg_audit(job, "image_data.json" if job.options.allow_leakage else "")
    before = job.output.splits["train"].records if "train" in job.output.splits else 0
    for record in read_question_answers(path, job.dataset, job.dropped):
        job.write("train", record, training=True)
    job.notes["questions of Visual Genome in train"] = job.output.split("train").records - before


def snli_ve(job: Job) -> None:
    """All three splits that are there."""
    paths = {split: job.raw.find(f"snli_ve_{split}.jsonl") for split in ("train", "dev", "test")}
    if not any(paths.values()):
        raise job.raw.missing("snli_ve_train.jsonl, snli_ve_dev.jsonl or snli_ve_test.jsonl")
    for split, path in paths.items():
        if path:
            for record in read_snli_ve(path, job.dataset, job.image_ids, job.dropped):
                job.write(split, record)


def referring(job: Job) -> None:
    """RefCOCO, RefCOCO+, RefCOCOg and scenes: one record a sentence, with all annotated boxes as candidates."""
    split_by = job.options.split_by or REF_SPLITS[job.dataset][0]
    refs = job.raw.need(f"refs({split_by}).p")
    instances = read_instances(job.raw.need("instances.json"))
    for split, record in read_refs(refs, instances, job.dataset, job.image_ids, job.dropped):
        job.write(split, record)
    job.notes["split by"] = split_by
    if job.options.detections:
        detections = read_detections(job.options.detections, instances, job.dropped)
        job.output.others[DETECTIONS] = detections
        job.notes["detections"] = {
            "file": DETECTIONS,
            "boxes": len(detections["annotations"]),
            "images": len(detections["images"]),
            "use": f"cmal extract-regions IMAGES --detector boxes:{job.output.folder / DETECTIONS}",
        }


def nlvr2(job: Job) -> None:
    """All splits that are there; test1 is the public test set, test-P."""
    paths = {split: job.raw.find(name) for split, name in NLVR2_FILES.items()}
    if not any(paths.values()):
        raise job.raw.missing("train.json, dev.json or test1.json")
    for split, path in paths.items():
        if path:
            for record in read_nlvr2(path, job.dataset, job.dropped):
                job.write(split, record)
