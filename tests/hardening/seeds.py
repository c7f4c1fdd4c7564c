"""Small valid files in every official format, as the data sets publish them: what the fuzzing starts from."""

from __future__ import annotations

import json
import pickle
from typing import Any


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def as_lines(rows: list[dict]) -> bytes:
    return b"".join(as_json(row) + b"\n" for row in rows)


NUMBERS = (9, 25, 139)  # of COCO photos
FILE_NAMES = [f"COCO_train2014_{number:012d}.jpg" for number in NUMBERS]
TEXTS = ("a dog runs on the grass", "two red cats, sleeping", "un café près de l'eau")

INSTANCES = as_json(
    {
        "images": [
            {
                "id": n,
                "file_name": name,
                "width": 640,
                "height": 480,
                "flickr_url": f"http://photos.example/{n}_a_z.jpg",
            }
            for n, name in zip(NUMBERS, FILE_NAMES)
        ],
        "annotations": [
            {"id": 100 * n + k, "image_id": n, "category_id": 1 + k, "bbox": [10.5 + k, 20, 30, 40.25], "area": 1.0}
            for n in NUMBERS
            for k in range(2)
        ],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
    }
)
CAPTIONS = as_json(
    {
        "info": {"year": 2014},
        "images": [
            {"id": n, "file_name": name, "flickr_url": f"http://photos.example/{n}_a_z.jpg"}
            for n, name in zip(NUMBERS, FILE_NAMES)
        ],
        "annotations": [
            {"id": 10 * n + k, "image_id": n, "caption": f"{text} {k}"}
            for n, text in zip(NUMBERS, TEXTS)
            for k in range(2)
        ],
    }
)


def karpathy(name: str) -> bytes:
    splits = ("train", "restval" if name == "coco" else "val", "test")
    return as_json(
        {
            "dataset": name,
            "images": [
                {
                    "filename": f"{n}.jpg",
                    "cocoid": n,
                    "split": split,
                    "sentences": [{"raw": f"{text} {k}", "sentid": 10 * n + k, "tokens": ["a"]} for k in range(2)],
                }
                for n, split, text in zip(NUMBERS, splits, TEXTS)
            ],
        }
    )


REFS = pickle.dumps(
    [
        {
            "ref_id": number,
            "ann_id": 100 * n,
            "image_id": n,
            "category_id": 1,
            "split": split,
            "file_name": f"COCO_train2014_{n:012d}_{number}.jpg",
            "sent_ids": [10 * number, 10 * number + 1],
            "sentences": [
                {"sent_id": 10 * number + k, "sent": text, "raw": text.upper(), "tokens": text.split()}
                for k, text in enumerate(("the left dog", "dog caf\xc3\xa9"))
            ],
        }
        for number, (n, split) in enumerate(zip(NUMBERS, ("train", "testA", "testAB")))
    ],
    2,
)
DETECTIONS = as_json([{"image_id": n, "box": [1, 2, 30, 40], "category_id": 1, "score": 0.5} for n in NUMBERS])

QUESTIONS = as_json(
    {"questions": [{"question_id": 1000 * n, "image_id": n, "question": f"what is {n}?"} for n in NUMBERS]}
)
ANNOTATIONS = as_json(
    {
        "annotations": [
            {
                "question_id": 1000 * n,
                "image_id": n,
                "question_type": "what is",
                "answer_type": "other",
                "multiple_choice_answer": "dog",
                "answers": [{"answer": answer, "answer_id": k} for k, answer in enumerate(["dog"] * 9 + ["A cat."])],
            }
            for n in NUMBERS
        ]
    }
)
VG_REGIONS = as_json(
    [
        {"id": n, "regions": [{"region_id": 10 * n + k, "image_id": n, "phrase": TEXTS[k], "x": 1} for k in range(2)]}
        for n in NUMBERS
    ]
)
VG_QUESTIONS = as_json(
    [{"id": n, "qas": [{"qa_id": 10 * n, "image_id": n, "question": "who?", "answer": "a man."}]} for n in NUMBERS]
)
VG_IMAGES = as_json([{"image_id": n, "coco_id": 7 * n, "flickr_id": None, "url": "x"} for n in NUMBERS])
SNLI_VE = as_lines(
    [
        {"Flickr30K_ID": str(n), "pairID": f"{n}.jpg#0r1n", "sentence2": text, "gold_label": label}
        for n, text, label in zip(NUMBERS, TEXTS, ("entailment", "neutral", "-"))
    ]
)
NLVR2 = as_lines(
    [
        {"identifier": f"dev-{n}-0-{k}", "sentence": TEXTS[k], "label": ("True", "False")[k], "synset": "dog"}
        for n in NUMBERS
        for k in range(2)
    ]
)
TOKENS = "".join(f"{n}.jpg#{k}\t{text}\n" for n in NUMBERS for k, text in enumerate(TEXTS)).encode()
SPLIT_LISTS = {f"{split}.txt": f"{n}\n".encode() for split, n in zip(("train", "val", "test"), NUMBERS)}
CC3M = "".join(f"{text}\thttp://a/{n}.jpg\t{n}.jpg\n" for n, text in zip(NUMBERS, TEXTS)).encode()
SBU = as_json({"image_urls": [f"http://a/{n}.jpg" for n in NUMBERS], "captions": list(TEXTS)})
PAIRS_CSV = ("image,caption,id,split\n" + "".join(f'{n}.jpg,"{TEXTS[0]}, {n}",{n},train\n' for n in NUMBERS)).encode()
PAIRS_TSV = ("image\tcaption\n" + "".join(f"{n}.jpg\t{TEXTS[1]}\n" for n in NUMBERS)).encode()
PAIRS_JSONL = as_lines([{"image": f"{n}.jpg", "caption": TEXTS[2], "id": n, "split": "val"} for n in NUMBERS])
PICTURES = {f"images/{n}.jpg": b"picture" for n in NUMBERS}

BOX = [10.0, 20.0, 30.0, 40.0]
RECORDS = {
    "ImageTextRecord": [{"id": f"c:{n}", "image_id": f"coco:{n}", "caption": text} for n, text in zip(NUMBERS, TEXTS)],
    "VqaRecord": [
        {
            "id": f"v:{n}",
            "image_id": f"coco:{n}",
            "question": "who?",
            "answers": ["dog"] * 3,
            "question_type": "what",
            "answer_type": "other",
        }
        for n in NUMBERS
    ],
    "EntailmentRecord": [
        {"id": f"e:{n}", "image_id": f"flickr30k:{n}", "hypothesis": text, "label": "neutral"}
        for n, text in zip(NUMBERS, TEXTS)
    ],
    "ReferringRecord": [
        {
            "id": f"r:{n}",
            "ref_id": str(n),
            "image_id": f"coco:{n}",
            "expression": text,
            "box_xywh_px": BOX,
            "candidate_boxes_xywh_px": [BOX, [1, 2, 3, 4]],
        }
        for n, text in zip(NUMBERS, TEXTS)
    ],
    "PairRecord": [
        {
            "id": f"n:{n}",
            "left_image_id": f"nlvr2:dev-{n}-0-img0",
            "right_image_id": f"nlvr2:dev-{n}-0-img1",
            "sentence": text,
            "identifier": f"dev-{n}-0-1",
            "label": "True",
        }
        for n, text in zip(NUMBERS, TEXTS)
    ],
}
GOLD = as_lines(
    [
        {
            "id": f"c:{n}",
            "image_id": f"coco:{n}",
            "caption": text,
            "anchors": [{"role": "object", "span": [2, 5], "concept": "dog", "box_xyxy_px": [1.0, 2.0, 3.0, 4.0]}],
        }
        for n, text in zip(NUMBERS, TEXTS)
    ]
)
RESULT = as_json(
    {
        "format": "cmal-result",
        "version": 1,
        "task": "vqa",
        "split": "val",
        "main": "accuracy",
        "metrics": {"accuracy": {"value": 0.5, "low": 0.25, "high": 0.75}, "rank": {"value": 3, "low": None, "high": None}},
        "interval": "95%",
        "chance": 0.1,
        "counts": {"questions": 12},
        "protocol": "official",
        "proposal_set": "toy",
        "checkpoint": {"path": "runs/x", "sha256": "abc"},
        "recipe_sha256": "def",
        "leakage": "none",
        "versions": {"python": "3.11"},
        "tables": {"by type": {"other": 0.5}},
    }
)  # fmt: skip
METRICS = as_lines(
    [
        {
            "step": step, "steps": 3, "losses": {"loss": 1.0 / step, "mlm": 2.0}, "grad_norm": 1.0, "lr": 1e-4,
            "examples_per_s": 10.0, "skipped": 0, "time": 1000.0 + step,
        }
        for step in (1, 2, 3)
    ]
    + [{"step": 3, "validation": {"loss": 0.5}, "time": 1004.0}]
)  # fmt: skip
THESAURUS = b"dog, puppy\ncat\nfire hydrant\nanimal\nanimal > dog, cat\n@attribute red, crimson\n"
