"""The page of `probe-anchors --html`: numbers on top, then pairs with their boxes, anchor words, links and associations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmal.reports.album import Album, box_of, find_pictures
from cmal.reports.document import folded, percent, table, tag, text, write_page
from cmal.reports.pairs import ShownAnchor, ShownPair, choose_pairs
from cmal.runs.probe import Probe
from cmal.tasks.association_probe import COLUMNS, Answer, accuracies_and_controls

LARGEST_PX = 480
PALETTE = ("#d81b60", "#1e88e5", "#2e7d32", "#f4511e", "#6d4c9f", "#00838f", "#8d6e00", "#5d4037")
STATE_MARKS = {"right": "✓", "false": "✗", "missed": "missed", "unknown": ""}
FILTERS = (
    ("", "all pairs"),
    ("right", "with a right anchor"),
    ("false", "with a false anchor"),
    ("missed", "with a missed anchor"),
    ("model-right", "with an anchor associated rightly"),
    ("model-wrong", "with an anchor associated wrongly"),
    ("none", "without any anchor"),
)


@dataclass(frozen=True)
class Shown:
    """How many pairs are on the page, and how many pictures."""

    pairs: int
    pictures: int


def write_anchors_page(path: Path, probe: Probe, images: Path | None, count: int) -> Shown:
    """Writes the page.

    Args:
        images: the folder of the images; None tries the folder `images` beside the records and goes without pictures
            where they are not there.
        count: maximum number of pairs.

    Raises:
        CmalError: `images` is a folder that holds none of them, or the page cannot be written.
    """
    records = probe.request.records
    files = find_pictures((r.image_id for r in probe.records), [records.parent / "images"], images)
    pairs, album = choose_pairs(probe, count), Album(files, LARGEST_PX)
    cards = [_card(probe, pair, album) for pair in pairs]
    body = [*_summary(probe), _controls(pairs), *cards, album.symbols()]
    write_page(path, f"Anchors of {records}", body, scripts=("filters.js", "links.js"))
    return Shown(len(pairs), album.pictures)


def _summary(probe: Probe) -> Iterator[str]:
    yield tag("p", text(f"Regions: {probe.request.regions}, detector {probe.store.detector}. {_model(probe)}"))
    numbers = probe.statistics
    yield tag("h2", "Coverage")
    yield table(
        ("pairs", "with an anchor", "anchors a pair", "object anchors a pair", "attribute anchors a pair"),
        [
            (
                f"{numbers['pairs']:,}",
                percent(numbers["coverage"]),
                *(f"{numbers[f'{kind}anchors_per_pair']:.2f}" for kind in ("", "object_", "attribute_")),
            )
        ],
    )
    if gold := numbers.get("gold"):
        yield from _gold(gold)
    if probe.association_by:
        yield from _associations(probe.association_by)
    yield folded("Anchors by concept", table(("concept", "anchors"), list(numbers["concepts"].items())))


def _model(probe: Probe) -> str:
    return f"Model: {probe.checkpoint}." if probe.checkpoint else "No model."


def _gold(gold: Mapping[str, Any]) -> Iterator[str]:
    yield tag("h2", "Against gold anchors")
    rows = [(k, percent(gold[k]["precision"]), percent(gold[k]["recall"])) for k in ("all", "object", "attribute")]
    yield table(("anchors", "precision", "recall"), rows)
    missed = [(row["role"], row["words"], row["count"]) for row in gold["missed"]]
    false = [(row["role"], row["words"], row["tag"], row["count"]) for row in gold["false"]]
    yield folded("Most common missed anchors", table(("role", "words", "times"), missed))
    yield folded("Most common false anchors", table(("role", "words", "tag", "times"), false))


def _associations(by: Mapping[str, Any]) -> Iterator[str]:
    yield tag("h2", "Associations at swapped anchors")
    yield tag(
        "p",
        "Each anchor's two slots are swapped, and the model says from each which of the group's anchors it is, without "
        "seeing the other slot of the anchor, which is the answer. Beside it: guessing; the same with all context hidden, "
        "so that the visiting vector must do; with the visiting vectors shuffled, so that only context helps; and with the "
        "other slot in sight, which makes it easy.",
    )
    rows = []
    for kind in ("all", "object", "attribute"):
        for direction, name in (("t2v", "word to region"), ("v2t", "region to word")):
            rows.append((kind, name, *map(percent, accuracies_and_controls(by[kind], direction))))
    yield table(("anchors", "direction", *COLUMNS), rows)


def _controls(pairs: Sequence[ShownPair]) -> str:
    present = {f"{a.role}: {a.concept}" for pair in pairs for a in pair.anchors}
    concepts = tag("option", "all concepts", value="") + "".join(
        tag("option", text(name), value=name) for name in sorted(present)
    )
    states = "".join(tag("option", text(name), value=value) for value, name in FILTERS)
    regions = tag("label", '<input type="checkbox" id="all-regions">', " all regions")
    return tag("h2", "Pairs") + tag(
        "div",
        tag("label", "show ", tag("select", states, id="state")),
        tag("label", "of ", tag("select", concepts, id="concept")),
        regions,
        tag("output", f"{len(pairs)} of {len(pairs)}", id="count"),
        class_="controls",
    )


def _card(probe: Probe, pair: ShownPair, album: Album) -> str:
    return tag(
        "section",
        tag("div", _picture(pair, album), _caption(pair), class_="scene"),
        tag(
            "div", _anchor_table(probe, pair), tag("p", text(f"{pair.record.id}, {pair.record.image_id}"), class_="id")
        ),
        '<svg class="links" aria-hidden="true"></svg>',
        class_="pair",
    )


def _picture(pair: ShownPair, album: Album) -> str:
    over = [box_of(box, name, pair.image_wh_px, "region", "#777") for box, name in pair.boxes]
    for index, anchor in enumerate(pair.anchors):
        name, kind = anchor.tag or f"missed: {anchor.concept}", f"anchor {anchor.state}"
        over.append(box_of(anchor.box_xyxy_px, name, pair.image_wh_px, kind, _colour(index), data_anchor=index))
    return album.show(pair.record.image_id, pair.image_wh_px, over)


def _caption(pair: ShownPair) -> str:
    """The caption with anchor words marked; a word that two anchors speak of is marked once and linked to both."""
    spans: list[tuple[int, int]] = []
    for anchor in pair.anchors:  # found ones come first and win over missed ones that overlap them
        if not any(start < anchor.span[1] and anchor.span[0] < end for start, end in spans):
            spans.append(anchor.span)
    caption, pieces, at = pair.record.caption, [], 0
    for start, end in sorted(spans):
        pieces += [text(caption[at:start]), _marked(pair, start, end)]
        at = end
    return tag("p", *pieces, text(caption[at:]), class_="caption")


def _marked(pair: ShownPair, start: int, end: int) -> str:
    own = [i for i, a in enumerate(pair.anchors) if a.span[0] < end and start < a.span[1]]
    first = pair.anchors[own[0]]
    return tag(
        "mark",
        text(pair.record.caption[start:end]),
        class_=first.state,
        style=f"border-color: {_colour(own[0])}",
        title=f"{first.role} {first.concept} {STATE_MARKS[first.state]}",
        data_anchors=" ".join(map(str, own)),
    )


def _anchor_table(probe: Probe, pair: ShownPair) -> str:
    if not pair.anchors:
        return tag("p", "no anchor")
    has_model = any(a.model_state for a in pair.anchors)
    columns = ["words", "tag", "anchor", *(("word's slot says", "region's slot says") if has_model else ())]
    head = tag("tr", *(tag("th", c) for c in columns))
    return tag("table", tag("thead", head), tag("tbody", *_anchor_rows(probe, pair, has_model)))


def _anchor_rows(probe: Probe, pair: ShownPair, has_model: bool) -> Iterator[str]:
    for index, anchor in enumerate(pair.anchors):
        swatch = tag("span", "", class_="swatch", style=f"background: {_colour(index)}")
        cells = [
            tag("td", swatch, text(pair.record.caption[slice(*anchor.span)]), class_="spoken"),
            tag("td", text(anchor.tag)),
            tag("td", text(f"{anchor.role}: {anchor.concept} {STATE_MARKS[anchor.state]}"), class_=anchor.state),
        ]
        if has_model:
            cells += [_answer(probe, anchor.word_to_region), _answer(probe, anchor.region_to_word)]
        yield tag("tr", *cells, **_filter_data(anchor), data_row=index)


def _filter_data(anchor: ShownAnchor) -> dict[str, object]:
    states = [anchor.state] + ([f"model-{anchor.model_state}"] if anchor.model_state else [])
    return {"data_concept": f"{anchor.role}: {anchor.concept}", "data_states": " ".join(states)}


def _answer(probe: Probe, answer: Answer | None) -> str:
    if answer is None:
        return tag("td")
    names = probe.finder.thesaurus.concept_names
    said = ", ".join(f"{names[concept]} {probability:.2f}" for concept, probability in answer.likeliest)
    return tag("td", text(f"{'✓' if answer.is_right else '✗'} {said}"), class_="right" if answer.is_right else "false")


def _colour(index: int) -> str:
    return PALETTE[index % len(PALETTE)]
