"""The page of `eval --html`: scores on top, then answers that were right and answers that were wrong, with their images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cmal.regions.store.store import RegionStore
from cmal.reports.album import Album, box_of, find_pictures
from cmal.reports.cards import Card, ShownPicture, make_card
from cmal.reports.document import folded, table, tag, text, write_page
from cmal.reports.result_rows import chance_rows, metric_rows, part_table
from cmal.reports.sample import sample_items
from cmal.runs.evaluate import Evaluation
from cmal.runs.evaluation_inputs import EvaluationRequest, resolve_inputs

LARGEST_PX = 360
COLOURS = {"right": "#1b6e36", "wrong": "#b3261e", "expected": "#1e66b8"}
MARKS = {"right": "✓", "partly": "~", "wrong": "✗"}
STATES = (("", "all answers"), ("right", "right ones"), ("partly", "partly right ones"), ("wrong", "wrong ones"))


@dataclass(frozen=True)
class ShownAnswers:
    """How many answers are on the page, and how many pictures."""

    answers: int
    pictures: int


def write_evaluation_page(
    path: Path, request: EvaluationRequest, evaluations: Sequence[Evaluation], images: Path | None, count: int
) -> ShownAnswers:
    """Writes the page of an evaluation.

    Args:
        images: the folder of the images; None tries `images` in the records' folder and in that of the data set whose
            images they are, and shows no pictures if neither exists.
        count: maximum number of answers per store; half of them wrong, if there are enough.

    Raises:
        CmalError: `images` is a folder that holds none of them, or the page cannot be written.
    """
    pieces = resolve_inputs(request)
    chosen = [[make_card(e, number) for number in choose(e, count)] for e in evaluations]
    image_ids = {picture.image_id for cards in chosen for card in cards for picture in card.pictures}
    datasets = sorted({image_id.partition(":")[0] for image_id in image_ids})
    folders = [pieces.records / "images", *(pieces.records.parent / name / "images" for name in datasets)]
    album = Album(find_pictures(image_ids, folders, images), LARGEST_PX)
    body = [_controls([card for cards in chosen for card in cards])]
    for evaluation, cards in zip(evaluations, chosen):
        store = RegionStore.open(pieces.stores[evaluation.boxes])
        body += [*_scores(evaluation), *(_card(card, album, store) for card in cards)]
    title = f"{request.task} {request.split}: answers of {pieces.checkpoint}"
    write_page(path, title, [*body, album.symbols()], scripts=("filters.js",))
    return ShownAnswers(sum(map(len, chosen)), album.pictures)


def choose(evaluation: Evaluation, count: int) -> list[int]:
    """Up to `count` record indices, spread evenly over the file.

    Half of them score below 1, if there are enough such records.
    """
    return sample_items([value < 1 for value in evaluation.values.tolist()], count)


def _scores(evaluation: Evaluation) -> Iterator[str]:
    result = evaluation.result
    assert result is not None, "a page shows scored answers"
    yield tag("h2", text(f"{result.task} {result.split} {evaluation.boxes and evaluation.boxes + ' boxes'}"))
    rows = [*metric_rows(result), *chance_rows(result)]
    yield table(("metric", "value", "95% interval"), rows)
    reported = [("protocol", result.protocol), ("regions", result.proposal_set), ("leakage", result.leakage)]
    for name, part in result.tables.items():
        title, columns, rows = part_table(name, part)
        yield folded(title, table(columns, rows))
    yield folded("How it was scored", table(("what", "how"), reported))


def _controls(cards: Sequence[Card]) -> str:
    states = "".join(tag("option", text(name), value=value) for value, name in STATES)
    groups = tag("option", "all kinds", value="")
    groups += "".join(tag("option", text(g), value=g) for g in sorted({card.group for card in cards} - {""}))
    return tag(
        "div",
        tag("label", "show ", tag("select", states, id="state")),
        tag("label", "of ", tag("select", groups, id="concept")),
        tag("output", f"{len(cards)} of {len(cards)}", id="count"),
        class_="controls",
    )


def _card(card: Card, album: Album, store: RegionStore) -> str:
    head = tag("p", text(card.text), class_="caption")
    rows = [tag("tr", tag("th", text(what)), tag("td", text(words))) for what, words in card.rows]
    said = tag("table", *rows, data_states=card.state, data_concept=card.group, class_=card.state)
    mark = tag("p", text(f"{MARKS[card.state]} {card.state}"), class_=f"verdict {card.state}")
    pictures = tag("div", *(_picture(p, album, store) for p in card.pictures), class_="pictures")
    return tag("section", pictures, tag("div", head, mark, said, tag("p", text(card.id), class_="id")), class_="pair")


def _picture(picture: ShownPicture, album: Album, store: RegionStore) -> str:
    size = store.size_wh_px(picture.image_id)
    over = [
        box_of(b.box_xyxy_px, b.name, size, b.kind, COLOURS[b.kind], at_foot=b.kind == "expected")
        for b in picture.boxes
    ]
    note = [tag("figcaption", text(picture.note))] if picture.note else []
    return tag("figure", album.show(picture.image_id, size, over), *note, class_=f"shot {picture.kind}")
