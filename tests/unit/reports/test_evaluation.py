"""The page of an evaluation, on the tiny world."""

from __future__ import annotations

import dataclasses
import html

import numpy as np
import pytest

from cmal.errors import DataError
from cmal.reports.evaluation import choose, write_evaluation_page
from cmal.runs.evaluate import Evaluation, run_evaluation
from cmal.runs.evaluation_inputs import EvaluationRequest

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def evaluate(tiny_world, tiny_tasks):
    def call(task: str, split: str) -> tuple[EvaluationRequest, list[Evaluation]]:
        regions = tiny_world / "data" / "scenes" / "regions"
        request = EvaluationRequest(f"scenes-{task}", split, checkpoint=tiny_tasks[task], regions=regions)
        return request, run_evaluation(request, device="cpu")

    return call


@pytest.mark.parametrize(("task", "split"), [("rec", "testA"), ("vqa", "test"), ("ve", "test"), ("retrieval", "test")])
def test_page_shows_answers_with_their_images(evaluate, tmp_path, task, split):
    request, evaluations = evaluate(task, split)
    shown = write_evaluation_page(tmp_path / "page.html", request, evaluations, None, 6)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert shown.answers == page.count('class="pair"') == min(6, len(evaluations[0].records))
    assert shown.pictures == page.count("data:image/jpeg") > 0 and "no picture" not in page
    assert page.count("data-states=") == shown.answers
    assert html.escape(evaluations[0].result.protocol) in page


def test_what_records_say_is_text(evaluate, tmp_path):
    request, [evaluation] = evaluate("ve", "test")
    hostile = [dataclasses.replace(r, hypothesis=HOSTILE, label=HOSTILE) for r in evaluation.records]
    write_evaluation_page(tmp_path / "page.html", request, [dataclasses.replace(evaluation, records=hostile)], None, 3)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert HOSTILE not in page and page.count(html.escape(HOSTILE)) >= 9


def test_a_folder_without_the_images_is_refused(evaluate, tmp_path):
    request, evaluations = evaluate("ve", "test")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="none of them is there"):
        write_evaluation_page(tmp_path / "page.html", request, evaluations, tmp_path / "empty", 3)


@pytest.mark.parametrize(
    ("values", "count", "chosen"),
    [
        ([1, 0, 1, 0, 1, 0], 2, [0, 1]),
        ([1, 0, 1, 0, 1, 0.5], 4, [0, 1, 2, 3]),
        ([1, 1, 1, 1, 1, 0], 4, [0, 1, 3, 5]),
        ([0, 0, 0], 2, [0, 1]),
        ([1, 0], 9, [0, 1]),
    ],
)
def test_half_of_the_answers_shown_are_wrong(values, count, chosen):
    evaluation = Evaluation("", None, {}, [None] * len(values), np.array(values))
    assert choose(evaluation, count) == chosen


def test_values_are_the_metrics_mean(evaluate):
    for task, split in (("rec", "testA"), ("retrieval", "test")):
        _, [evaluation] = evaluate(task, split)
        result = evaluation.result
        assert len(evaluation.values) == len(evaluation.records)
        assert evaluation.values.mean() == pytest.approx(result.metrics[result.main].value)
