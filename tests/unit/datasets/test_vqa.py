"""VQA v2: questions joined with annotations, and the answer vocabulary."""

import json
from collections import Counter

import pytest

from cmal.data.records import VqaRecord
from cmal.datasets.vqa import ImageNumbers, build_vocabulary, read_annotations, read_questions, read_vocabulary
from cmal.errors import DataError


def write(path, **lists):
    path.write_text(json.dumps(lists))
    return path


def join(tmp_path, questions, annotations, dropped=None):
    dropped = Counter() if dropped is None else dropped
    images = ImageNumbers()
    known = read_questions(write(tmp_path / "q.json", questions=questions), "vqa", images, dropped)
    return list(read_annotations(write(tmp_path / "a.json", annotations=annotations), known, images, dropped))


def question(number, **changes):
    return {"question_id": number, "image_id": 42, "question": "Is it red?"} | changes


def annotation(number, *answers, **changes):
    rows = [{"answer": a, "answer_confidence": "yes", "answer_id": n} for n, a in enumerate(answers, 1)]
    types = {"question_type": "is it", "answer_type": "yes/no", "multiple_choice_answer": "yes"}
    return {"question_id": number, "image_id": 42, "answers": rows} | types | changes


def test_question_and_annotation_join_by_number(tmp_path):
    found = join(tmp_path, [question(420)], [annotation(420, "yes", "Yes", "no")])
    record = VqaRecord("vqa:420", "coco:42", "Is it red?", ("yes", "Yes", "no"), "is it", "yes/no")
    assert found == [(record, "yes")]


def test_annotations_of_another_image_or_question_are_faults(tmp_path):
    with pytest.raises(DataError) as error:
        join(tmp_path, [question(1)], [annotation(1, "yes", image_id=43), annotation(2, "no"), annotation(1)])
    assert "row 1: its image 43 is not its question's, coco:42" in str(error.value)
    assert "row 2: there is no question 2 in the questions file" in str(error.value)
    assert 'row 3: "answers" is empty' in str(error.value)


def test_a_question_without_annotation_is_an_error(tmp_path):
    with pytest.raises(DataError, match="1 of 2 questions have no annotation"):
        join(tmp_path, [question(1), question(2)], [annotation(1, "yes")])


def test_vocabulary_counts_normalised_answers_and_puts_the_most_frequent_first():
    chosen = Counter({"yes": 8, "Yes": 3, "a dog": 9, "cat": 8, "two": 5, "2": 4, "the": 9})
    assert build_vocabulary(chosen, 9) == ["yes", "", "2", "dog"]  # "the" is nothing but an article


def test_the_same_answers_in_list_and_map_form_either_way_round(tmp_path):
    forms = [["no", "yes"], {"yes": 1, "no": 0}, {"1": "yes", "0": "no"}]
    for n, form in enumerate(forms):
        path = tmp_path / f"{n}.json"
        path.write_text(json.dumps(form))
        assert read_vocabulary(path) == ["no", "yes"]


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ({"yes": 1, "no": 2}, "label 0 is missing"),
        ({"yes": 0, "no": 0}, "label 1 is missing"),
        (["yes", "yes"], 'the first is "yes"'),
        (["yes", 5], "answers are texts"),
        ([], "at least one answer"),
        ({"yes": "no"}, "neither a list"),
        (7, "neither a list"),
    ],
)
def test_a_vocabulary_that_is_none_is_a_message(tmp_path, form, reason):
    (tmp_path / "a.json").write_text(json.dumps(form))
    with pytest.raises(DataError, match=reason):
        read_vocabulary(tmp_path / "a.json")


def test_real_rows_are_all_read(real_data):
    folder, dropped, images = real_data / "vqa", Counter(), ImageNumbers()
    questions = read_questions(folder / "v2_OpenEnded_mscoco_train2014_questions.json", "vqa", images, dropped)
    path = folder / "v2_mscoco_train2014_annotations.json"
    found = list(read_annotations(path, questions, images, dropped))
    assert len(found) == 3
    assert all(len(record.answers) == 10 and record.image_id == "coco:458752" for record, _ in found)
    assert found[0][1] == "net"
    assert not dropped


def test_the_two_public_maps_hold_the_same_answers_under_other_numbers(real_data):
    names = ("trainval_ans2label", "trainval_label2ans", "uniter_ans2label")
    by_name = [read_vocabulary(real_data / "vqa" / f"{name}.json") for name in names]
    assert by_name[0] == by_name[1] != by_name[2]
    assert {len(answers) for answers in by_name} == {3129}
    assert set(by_name[0]) == set(by_name[2])
