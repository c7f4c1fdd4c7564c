"""Flickr30k Entities: the official layout in, one record per boxed phrase out."""

from __future__ import annotations

from collections import Counter

import pytest

from cmal.data.records import PhraseRecord, parse_record, record_line
from cmal.datasets.flickr30k_entities import parse_sentence, read_annotations, read_entities, read_sentences
from cmal.errors import DataError

SENTENCE = (
    "[/EN#7/people A girl] with [/EN#8/clothing/scene a red hat] greets [/EN#0/notvisual her] [/EN#9/scene outside] ."
)


def annotation(objects: str, size: str = "<width>500</width><height>375</height>") -> str:
    return f"<annotation><filename>12.jpg</filename><size>{size}</size>{objects}</annotation>"


def box(chain: str, *corners: int) -> str:
    names = ("xmin", "ymin", "xmax", "ymax")
    inside = "".join(f"<{name}>{value}</{name}>" for name, value in zip(names, corners))
    return f"<object><name>{chain}</name><bndbox>{inside}</bndbox></object>"


def write(folder, sentences: str, xml: str):
    for name, text in (("Sentences/12.txt", sentences), ("Annotations/12.xml", xml)):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def test_a_record_has_the_plain_sentence_the_span_and_all_boxes_of_the_chain(tmp_path):
    xml = annotation(box("7", 11, 21, 111, 221) + box("7", 1, 1, 51, 51) + box("8", 31, 21, 61, 51))
    dropped: Counter[str] = Counter()
    records = list(read_entities(write(tmp_path, SENTENCE + "\n", xml), ["flickr30k:12"], "entities", dropped))
    girl, hat = records
    assert girl == PhraseRecord(
        "entities:12#0/0", "flickr30k:12", "A girl with a red hat greets her outside .", (0, 6), ("people",),
        ((10.0, 20.0, 100.0, 200.0), (0.0, 0.0, 50.0, 50.0)), (500, 375),
    )  # fmt: skip
    assert (girl.phrase, hat.phrase, hat.phrase_types) == ("A girl", "a red hat", ("clothing", "scene"))
    assert dropped == {"phrases that are not visible": 1, "phrases without a box": 1}
    assert parse_record(record_line(hat), PhraseRecord) == hat


def test_a_box_outside_by_a_pixel_is_clipped_and_one_without_width_is_counted(tmp_path):
    xml = annotation(box("7", 0, 1, 502, 376) + box("8", 30, 21, 30, 51))
    dropped: Counter[str] = Counter()
    read = read_annotations(write(tmp_path, "", xml) / "Annotations/12.xml", dropped)
    assert read.boxes_of_chain == {"7": ((0.0, 0.0, 500.0, 375.0),)}
    assert dropped == {"boxes without width or height inside the photograph": 1}


def test_the_spacing_of_the_sentence_is_kept():
    plain, (phrase,) = parse_sentence("Two  dogs in [/EN#3/other the  snow ] .")
    assert plain == "Two  dogs in the  snow  ." and plain[slice(*phrase.span)] == "the  snow "


@pytest.mark.parametrize("line", ["[/EN#7/people A girl runs .", "A girl] runs .", "[/EN#x/people A girl] runs ."])
def test_a_broken_mark_is_reported_by_file_and_line(tmp_path, line):
    folder = write(tmp_path, f"{SENTENCE}\n{line}\n{line}\n", annotation(""))
    with pytest.raises(DataError, match=r"12\.txt(.|\n)*line 2: a phrase mark is broken(.|\n)*line 3"):
        read_sentences(folder / "Sentences/12.txt")


BOMB = '<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;&b;">]>'


@pytest.mark.parametrize(
    ("xml", "found"),
    [
        (BOMB + annotation("&c;"), "declares a document type"),
        (annotation("<object>"), "mismatched tag"),
        (annotation("", "<width>wide</width><height>3</height>"), '"size/width" should be a whole number'),
        (annotation(box("7", 1, 2, 3)), 'object 1: "ymax" should be a whole number'),
        (annotation("", "<width>0</width><height>3</height>"), "the size is 0 x 3"),
    ],
)
def test_faulty_annotations_are_refused_with_their_file(tmp_path, xml, found):
    folder = write(tmp_path, "", xml)
    with pytest.raises(DataError) as caught:
        read_annotations(folder / "Annotations/12.xml", Counter())
    assert "12.xml" in caught.value.what and found in caught.value.found


def test_a_photograph_without_its_annotations_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"Annotations/12\.xml"):
        list(read_entities(tmp_path, ["flickr30k:12"], "entities", Counter()))
