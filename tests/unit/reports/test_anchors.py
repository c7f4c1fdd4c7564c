"""The page of anchors: what it shows of pairs, and that data is shown and never run."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cmal.errors import DataError
from cmal.reports.anchors import write_anchors_page
from cmal.reports.pairs import choose_pairs
from cmal.runs.probe import Probe, ProbeRequest, run_probe

HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)"> & "quotes"'


@pytest.fixture(scope="module")
def probe(tiny_world) -> Probe:
    scenes = tiny_world / "data" / "scenes"
    request = ProbeRequest(scenes / "test.jsonl", scenes / "regions", tiny_world / "runs" / "tiny")
    return run_probe(request, device="cpu")


class Elements(HTMLParser):
    """Every start tag with its attributes."""

    def __init__(self, page: Path):
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attributes}))

    def named(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.found if name == tag]


def test_page_shows_pairs_with_images_boxes_words_and_answers(probe, tmp_path):
    shown = write_anchors_page(tmp_path / "page.html", probe, None, 8)
    page = Elements(tmp_path / "page.html")
    assert shown.pairs == 8 and shown.pictures == len({p.record.image_id for p in choose_pairs(probe, 8)})
    assert len([s for s in page.named("section") if s["class"] == "pair"]) == 8
    assert [i["href"][:23] for i in page.named("image")] == ["data:image/jpeg;base64,"] * shown.pictures
    assert len(page.named("use")) == 8
    anchors = [a for pair in choose_pairs(probe, 8) for a in pair.anchors]
    rows = [r for r in page.named("tr") if "data-states" in r]
    assert [r["data-concept"] for r in rows] == [f"{a.role}: {a.concept}" for a in anchors]
    assert len([g for g in page.named("g") if "data-anchor" in g]) == len(anchors)
    linked = [n for mark in page.named("mark") for n in mark["data-anchors"].split()]
    assert len(linked) >= len(anchors)
    text = html.unescape((tmp_path / "page.html").read_text(encoding="utf-8"))
    likeliest = next(a.word_to_region.likeliest[0] for a in anchors if a.word_to_region)
    assert f"{probe.finder.thesaurus.concept_names[likeliest[0]]} {likeliest[1]:.2f}" in text


def test_page_needs_nothing_from_elsewhere(probe, tmp_path):
    write_anchors_page(tmp_path / "page.html", probe, None, 4)
    page = Elements(tmp_path / "page.html")
    links = [a[key] for _, a in page.found for key in ("src", "href") if key in a]
    assert links and all(link.startswith(("data:", "#picture-")) for link in links)
    assert not re.search(r"url\(|@import", (tmp_path / "page.html").read_text(encoding="utf-8"))


def test_html_in_captions_classes_and_names_is_text(probe, tmp_path):
    record = dataclasses.replace(probe.records[0], caption=f"{HOSTILE} {probe.records[0].caption}", id=f"id{HOSTILE}")
    store = _with_hostile_names(probe.store)
    changed = dataclasses.replace(probe, records=[record], store=store, gold={}, association=None)
    write_anchors_page(tmp_path / "page.html", changed, None, 4)
    page = Elements(tmp_path / "page.html")
    assert len(page.named("script")) == 1 and not page.named("img")
    assert not any("onerror" in attributes for _, attributes in page.found)
    raw = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert html.escape(HOSTILE) in raw and HOSTILE not in raw
    assert raw.count("&lt;b&gt;") >= len(probe.store[record.image_id])


def _with_hostile_names(store):
    header = dataclasses.replace(store.header, class_names=tuple(f"<b>{name}" for name in store.class_names))
    return type("Store", (), {
        "header": header, "class_names": header.class_names, "attribute_names": store.attribute_names,
        "detector": store.detector, "__getitem__": lambda self, key: store[key],
    })()  # fmt: skip


def test_missing_images_leave_boxes_without_a_picture(probe, tmp_path):
    scenes = probe.request.records.parent
    records = tmp_path / "test.jsonl"
    shutil.copy(scenes / "test.jsonl", records)
    moved = dataclasses.replace(probe, request=dataclasses.replace(probe.request, records=records))
    shown = write_anchors_page(tmp_path / "page.html", moved, None, 4)
    page = Elements(tmp_path / "page.html")
    assert (shown.pairs, shown.pictures) == (4, 0)
    assert not page.named("image") and "no picture" in (tmp_path / "page.html").read_text()
    assert [g for g in page.named("g") if "data-anchor" in g]


def test_a_folder_that_was_asked_for_and_holds_other_images_is_an_error(probe, tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match="cannot find images in"):
        write_anchors_page(tmp_path / "page.html", probe, tmp_path / "images", 4)


def test_half_of_the_pairs_have_a_fault_where_there_are_enough(probe):
    by_gold = dataclasses.replace(probe, association=None)
    assert [p.record.id for p in choose_pairs(by_gold, 100)] == [r.id for r in probe.records]
    faulty = [_is_faulty(pair) for pair in choose_pairs(by_gold, 100)]
    assert 1 < sum(faulty) < 19, "the tiny world should have both kinds"
    few = [_is_faulty(pair) for pair in choose_pairs(by_gold, 2)]
    assert sorted(few) == [False, True]


def _is_faulty(pair) -> bool:
    return any(anchor.state in ("false", "missed") for anchor in pair.anchors)


def test_states_agree_with_the_statistics(probe):
    anchors = [a for pair in choose_pairs(probe, len(probe.records)) for a in pair.anchors]
    gold = probe.statistics["gold"]["all"]
    assert sum(a.state == "right" for a in anchors) == gold["right"]
    assert sum(a.state == "false" for a in anchors) == gold["found"] - gold["right"]
    missed = {(a.role, a.span, a.concept) for a in anchors if a.state == "missed"}
    assert len(missed) <= gold["gold_spans"] - gold["gold_spans_met"]
    asked = [a for a in anchors if a.model_state]
    assert len(asked) == probe.association_by["all"]["anchors"] == probe.statistics["anchors"]
    right = sum(a.word_to_region.is_right for a in asked)
    assert right / len(asked) == pytest.approx(probe.association_by["all"]["association_t2v"])


def test_missed_spans_are_those_the_statistics_miss(probe):
    missed = set()
    for pair in choose_pairs(probe, len(probe.records)):
        missed |= {(pair.record.id, a.role, a.span) for a in pair.anchors if a.state == "missed"}
    gold = probe.statistics["gold"]["all"]
    assert len(missed) == gold["gold_spans"] - gold["gold_spans_met"]
    assert json.dumps(sorted(missed))
