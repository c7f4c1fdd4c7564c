"""The table of tasks, and what all of them share."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from toys import regions, toy_builder, toy_cmal

from cmal.data.records import EntailmentRecord, ImageTextRecord, PairRecord, PhraseRecord, ReferringRecord, VqaRecord
from cmal.errors import RecipeError
from cmal.tasks import NEEDS_ANSWERS, TASKS, TaskOptions, build_task
from cmal.tasks.base import IGNORE_LABEL, Mlp, cls_states, labelled_loss, region_states
from cmal.tasks.grounding import PhraseGrounding
from cmal.tasks.nlvr2 import Nlvr2
from cmal.tasks.rec import ReferringExpressions
from cmal.tasks.retrieval import Retrieval
from cmal.tasks.snli_ve import SnliVe
from cmal.tasks.vqa import Vqa

OPTIONS = TaskOptions(labels=("yes", "no", "red"))
RECORDS = {
    VqaRecord: VqaRecord("1", "toy:1", "a dog ?", ("yes",) * 10),
    EntailmentRecord: EntailmentRecord("1", "toy:1", "a dog", ""),
    ReferringRecord: ReferringRecord("1", "r", "toy:1", "the dog", (0, 0, 10, 10)),
    ImageTextRecord: ImageTextRecord("1", "toy:1", "a dog"),
    PhraseRecord: PhraseRecord("1", "toy:1", "the dog runs", (0, 7), ("animals",), ((0, 0, 10, 10),), (100, 50)),
    PairRecord: PairRecord("1", "toy:1", "toy:2", "two dogs", "dev-0-0-0"),
}
IMAGES = {"toy:1": regions(["dog", "cat"]), "toy:2": regions([])}


def batch_of(task, *records):
    return task.make_batch(records, toy_builder(IMAGES, anchors=False), np.random.default_rng(0))


def test_every_name_has_its_task():
    kinds = {name: type(build_task(name, OPTIONS)) for name in TASKS}
    assert kinds == {
        **dict.fromkeys(("vqa", "scenes-vqa"), Vqa),
        **dict.fromkeys(("snli-ve", "scenes-ve"), SnliVe),
        **dict.fromkeys(("refcoco", "refcoco+", "refcocog", "scenes-rec"), ReferringExpressions),
        **dict.fromkeys(("flickr30k", "coco-retrieval", "scenes-retrieval"), Retrieval),
        "nlvr2": Nlvr2,
        "flickr30k-entities": PhraseGrounding,
    }
    assert all(build_task(name, OPTIONS).name == name for name in TASKS)
    assert {name for name in TASKS if build_task(name, OPTIONS).labels == OPTIONS.labels} >= set(NEEDS_ANSWERS)


def test_an_unknown_task_names_those_there_are():
    with pytest.raises(RecipeError, match='there is no task "vqa2"\n  known tasks: vqa, snli-ve'):
        build_task("vqa2", OPTIONS)


@pytest.mark.parametrize("name", TASKS)
def test_every_task_goes_from_record_to_loss_and_answer(name):
    """Forward, a loss that can be learned from, and an answer for every record; dropout off."""
    task = build_task(name, OPTIONS)
    record = RECORDS[task.record_kind]
    cmal, head = toy_cmal(), task.build_head(8, 0.5).eval()
    batch = batch_of(task, record)
    output = task.forward(cmal, head, batch)
    loss = task.loss(output, batch)
    assert loss.shape == () and loss.requires_grad
    assert list(task.answers(output, batch)) == ["1"]
    assert task.main_protocol in task.protocols
    torch.testing.assert_close(task.forward(cmal, head, batch_of(task, record)), output)


@pytest.mark.parametrize("name", TASKS)
def test_every_task_bears_an_image_without_a_region(name):
    task = build_task(name, OPTIONS)
    record = RECORDS[task.record_kind]
    changes = {"left_image_id": "toy:2"} if hasattr(record, "left_image_id") else {"image_id": "toy:2"}
    cmal, head = toy_cmal(), task.build_head(8, 0.0).eval()
    batch = batch_of(task, dataclasses.replace(record, **changes))
    output = task.forward(cmal, head, batch)
    loss = task.loss(output, batch)
    loss.backward()
    assert loss.isfinite() and list(task.answers(output, batch)) == ["1"]


def test_states_at_cls_and_at_regions_are_those_of_the_whole_with_nothing_masked_or_swapped():
    cmal, batch = toy_cmal(), batch_of(SnliVe("snli-ve"), RECORDS[EntailmentRecord])
    whole = cmal.unify(cmal.encode(*batch.inputs), None)
    torch.testing.assert_close(cls_states(cmal, batch), whole[:, 0])
    torch.testing.assert_close(region_states(cmal, batch), whole[:, batch.token_mask.shape[1] :])


def test_the_head_is_two_layers_with_a_norm_between():
    head = Mlp(4, 6, 3, 0.5)
    assert [type(part).__name__ for part in head] == ["Linear", "GELU", "LayerNorm", "Dropout", "Linear"]
    assert (head[0].out_features, head[4].out_features) == (6, 3)


def test_records_without_a_label_cost_nothing_and_a_group_of_nothing_else_is_no_nan():
    """Probability 1/4 for the labelled row's class: log 4."""
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [9.0, 0.0, 0.0, 0.0]], requires_grad=True)
    one = labelled_loss(logits, torch.tensor([2, IGNORE_LABEL]))
    assert one.item() == pytest.approx(np.log(4), abs=1e-6)
    none = labelled_loss(logits, torch.tensor([IGNORE_LABEL, IGNORE_LABEL]))
    none.backward()
    assert none.item() == 0 and logits.grad.eq(0).all()
