"""VQA v2: questions JSON and annotations JSON, joined by `question_id`; and the answer vocabulary.

Source: Goyal et al. 2017, arXiv:1612.00837; files from visualqa.org/download.html.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from cmal.data.answer_normalisation import normalise_answer
from cmal.data.records import VqaRecord
from cmal.datasets.job import Job
from cmal.datasets.visual_genome import write_vg_questions
from cmal.errors import DataError
from cmal.io.files import read_json
from cmal.io.json_stream import iterate_array
from cmal.io.rows import UniqueIds, as_object, get_id, get_list, get_text, parse_rows
from cmal.regions.coco_instances import read_instances

ANSWERS = "answers.json"
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


def write_vqa(job: Job) -> None:
    """Questions with their answers, Visual Genome's questions in training where they are there, and the vocabulary."""
    images = _question_images(job)
    chosen: Counter[str] = Counter()
    found = [split for split in VQA_FILES[job.dataset] if _vqa_split(job, split, images, chosen)]
    if not found:
        raise job.raw.missing(
            " or ".join(f"v2_OpenEnded_{name}_questions.json" for name in VQA_FILES[job.dataset].values())
        )
    if job.dataset == "vqa":
        write_vg_questions(job)
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


class ImageNumbers(dict):
    """COCO numbers -> image ids: every number is known. The other data sets give a plain dict."""

    def __missing__(self, number: int) -> str:
        return f"coco:{number}"


def read_questions(path: Path, dataset: str, images: Mapping[int, str], dropped: Counter[str]) -> dict[int, VqaRecord]:
    """The questions of a split by their number, without answers; record ids `DATASET:<question_id>`.

    Args:
        path: ..._questions.json.
        dataset: the record ids' prefix.
        images: image ids by image number (`ImageNumbers()` for COCO).
        dropped: counts repeated rows.

    Raises:
        DataError: the file is not of this form, or some rows are invalid (all reported together).
    """
    unique = UniqueIds()

    def parse(row: object) -> tuple[int, VqaRecord]:
        row = as_object(row)
        number, question, image = get_id(row, "question_id"), get_text(row, "question"), get_id(row, "image_id")
        image_id = _image_of(images, image)
        unique.check(number, image_id, question)
        if not question:
            raise ValueError('"question" is empty')
        return number, VqaRecord(f"{dataset}:{number}", image_id, question)

    rows = iterate_array(path, "questions")
    return dict(parse_rows(path, "VQA questions", rows, parse, dropped, "questions row"))


def _image_of(images: Mapping[int, str], number: int) -> str:
    try:
        return images[number]
    except KeyError:
        raise ValueError(f"its image {number} is not known") from None


def read_annotations(
    path: Path, questions: dict[int, VqaRecord], images: Mapping[int, str], dropped: Counter[str]
) -> Iterator[tuple[VqaRecord, str]]:
    """(record with its answers, multiple-choice answer) for every annotation, in the file's order.

    Args:
        path: ..._annotations.json.
        questions: what `read_questions` gave for this split.
        images: as for `read_questions`.
        dropped: counts repeated rows.

    Raises:
        DataError: the file is not of this form, or some rows are invalid: no such question, another image than the
            question's, no answers (all reported together); or some questions have no annotation.
    """
    unique = UniqueIds()

    def parse(row: object) -> tuple[VqaRecord, str]:
        row = as_object(row)
        number = get_id(row, "question_id")
        question = questions.get(number)
        if question is None:
            raise ValueError(f"there is no question {number} in the questions file")
        if "image_id" in row and _image_of(images, get_id(row, "image_id")) != question.image_id:
            raise ValueError(f"its image {row['image_id']} is not its question's, {question.image_id}")
        answers = tuple(get_text(as_object(answer), "answer") for answer in get_list(row, "answers"))
        if not answers:
            raise ValueError('"answers" is empty')
        unique.check(number, *answers)
        chosen = get_text(row, "multiple_choice_answer") if "multiple_choice_answer" in row else _most_common(answers)
        types = [get_text(row, name) if name in row else "" for name in ("question_type", "answer_type")]
        return VqaRecord(question.id, question.image_id, question.question, answers, *types), chosen

    rows, answered = iterate_array(path, "annotations"), 0
    for found in parse_rows(path, "VQA annotations", rows, parse, dropped, "annotations row"):
        answered += 1
        yield found
    if answered < len(questions):
        raise DataError(
            f"cannot join {path} with its questions",
            f"{len(questions) - answered:,} of {len(questions):,} questions have no annotation",
            "give questions and annotations of the same split and release",
        )


def _most_common(answers: tuple[str, ...]) -> str:
    return Counter(answers).most_common(1)[0][0]


def build_vocabulary(chosen: Counter[str], least_count: int) -> list[str]:
    """The answer vocabulary: normalised multiple-choice answers given at least `least_count` times, most frequent first.

    Args:
        chosen: how often each multiple-choice answer was given, as written, over the training and validation questions.
        least_count: 9 gives VQA v2's usual 3,129.

    Source: Teney et al. 2018, arXiv:1708.02711 (answers given more than 8 times); ties in alphabetical order.
    Example: {"yes": 8, "Yes": 3, "a dog": 9, "cat": 5} and 9 give ["yes", "dog"].
    """
    counts: Counter[str] = Counter()
    for answer, count in chosen.items():
        counts[normalise_answer(answer)] += count
    frequent = [answer for answer, count in counts.items() if count >= least_count]
    return sorted(frequent, key=lambda answer: (-counts[answer], answer))


def read_vocabulary(path: Path) -> list[str]:
    """A given answer vocabulary, in the order of its labels.

    The file is a JSON list (label -> answer), or an object answer -> label or label -> answer. Two public maps hold the same
    3,129 answers under other numbers: the order of the file given here becomes the order of the head's outputs.

    Raises:
        DataError: the file is none of these, an answer or label appears twice, or labels are missing.
    """
    table = read_json(path)
    try:
        if isinstance(table, list):
            answers = table
        elif isinstance(table, dict) and all(type(label) is int for label in table.values()):
            answers = _by_label({label: answer for answer, label in table.items()}, len(table))
        elif isinstance(table, dict) and all(label.isascii() and label.isdigit() for label in table):
            answers = _by_label({int(label): answer for label, answer in table.items()}, len(table))
        else:
            raise ValueError("it is neither a list of answers, nor answer -> label, nor label -> answer")
        if not answers or not all(isinstance(answer, str) for answer in answers):
            raise ValueError("it should hold at least one answer, and answers are texts")
        if repeated := [answer for answer, count in Counter(answers).items() if count > 1]:
            raise ValueError(f'{len(repeated):,} answers appear twice, the first is "{repeated[0]}"')
    except ValueError as error:
        raise DataError(
            f"cannot use {path} as an answer vocabulary", str(error), "give a JSON such as trainval_ans2label.json"
        ) from None
    return list(answers)


def _by_label(answer_of: dict[int, object], count: int) -> list:
    missing = [label for label in range(count) if label not in answer_of]
    if missing:
        raise ValueError(f"labels should run from 0 to {count - 1:,}, each once; label {missing[0]} is missing")
    return [answer_of[label] for label in range(count)]
