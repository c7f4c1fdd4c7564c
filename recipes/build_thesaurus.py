"""Builds cmal/anchors/thesaurus.txt from class vocabularies, WordNet and the hand-written recipes/thesaurus_curation.txt.

    python recipes/build_thesaurus.py --objects objects_vocab.txt --attributes attributes_vocab.txt \
        --coco-instances instances_val2017.json --wordnet FOLDER --out cmal/anchors/thesaurus.txt

Inputs: Visual Genome's 1,600 object and 400 attribute names (one class per line, commas separate alternatives), COCO's
category names from an instances json, the kinds and colours of `cmal/scenes`, and the noun files of WordNet 3.0
(`index.noun*`, `data.noun*`). Names that share a class, a curated line or a chosen WordNet sense become one concept.
The same inputs give the same bytes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

from cmal.anchors.thesaurus import name_words, singular
from cmal.io.files import write_text
from cmal.scenes.world import COLOURS, KINDS

HEADER = """\
# CMAL's thesaurus: names of objects and attributes that share a concept. Format: cmal/anchors/thesaurus.py
# Built by recipes/build_thesaurus.py. To change it, edit recipes/thesaurus_curation.txt and rebuild, or add a file of yours.
# Sources: object and attribute names of Visual Genome (1,600 and 400 classes, CC BY 4.0), the 80 category names of COCO
# (CC BY 4.0), hand-written lines, and names from WordNet 3.0:
#   WordNet 3.0 Copyright 2006 by Princeton University. All rights reserved. THIS SOFTWARE AND DATABASE IS PROVIDED "AS IS"
#   AND PRINCETON UNIVERSITY MAKES NO REPRESENTATIONS OR WARRANTIES, EXPRESS OR IMPLIED. BY WAY OF EXAMPLE, BUT NOT
#   LIMITATION, PRINCETON UNIVERSITY MAKES NO REPRESENTATIONS OR WARRANTIES OF MERCHANTABILITY OR FITNESS FOR ANY PARTICULAR
#   PURPOSE OR THAT THE USE OF THE LICENSED SOFTWARE, DATABASE OR DOCUMENTATION WILL NOT INFRINGE ANY THIRD PARTY PATENTS,
#   COPYRIGHTS, TRADEMARKS OR OTHER RIGHTS. Permission to use, copy, modify and distribute this software and database and
#   its documentation for any purpose and without fee or royalty is granted, provided that this notice stays on all copies.
"""


class Groups:
    """Disjoint sets of names (union-find). The first name added to a group represents it."""

    def __init__(self) -> None:
        self._leader: dict[str, str] = {}
        self._rank: dict[str, int] = {}

    def find(self, name: str) -> str:
        self._rank.setdefault(name, len(self._rank))
        leader = self._leader.setdefault(name, name)
        while leader != self._leader[leader]:
            leader = self._leader[leader]
        return leader

    def join(self, names: Iterable[str]) -> None:
        leaders = sorted({self.find(name) for name in names}, key=self._rank.__getitem__)
        for leader in leaders[1:]:
            self._leader[leader] = leaders[0]

    def all(self) -> list[list[str]]:
        groups: dict[str, list[str]] = {}
        for name in self._leader:
            groups.setdefault(self.find(name), []).append(name)
        return [sorted(names, key=self._rank.__getitem__) for names in groups.values()]


def normal(name: str) -> str:
    """The form the thesaurus searches: lower-case words joined by one space, the last in the singular."""
    words = name_words(name)
    return " ".join((*words[:-1], singular(words[-1])))


def plain(name: str) -> str:
    return " ".join(name_words(name))


class Curation:
    """The lines of the curation file, by kind of entry."""

    def __init__(self, path: Path) -> None:
        self.concepts: list[list[str]] = []
        self.attributes: list[list[str]] = []
        self.links: list[tuple[str, list[str]]] = []
        self.words: dict[str, list[str]] = {"@stop": [], "@verb": [], "@wordnet": [], "@drop": [], "@kinds": []}
        for line in path.read_text(encoding="utf-8").splitlines():
            line = line.partition("#")[0].strip()
            keyword, _, rest = line.partition(" ")
            if not line:
                continue
            if keyword in self.words:
                self.words[keyword] += [plain(name) for name in rest.split(",")]
            elif keyword == "@attribute":
                self.attributes.append([plain(name) for name in rest.split(",")])
            elif ">" in line:
                broad, _, narrow = line.partition(">")
                self.links.append((normal(broad), [normal(name) for name in narrow.split(",")]))
            else:
                self.concepts.append([normal(name) for name in line.split(",")])


class WordNet:
    """The nouns of WordNet files, or of an excerpt. Only the first sense of each noun is used."""

    def __init__(self, folder: Path) -> None:
        self.first_sense: dict[str, str] = {}
        self._names: dict[str, list[str]] = {}
        self._broader: dict[str, list[str]] = {}
        for line in _data_lines(folder, "index.noun*"):
            fields = line.split()
            self.first_sense[fields[0].replace("_", " ")] = fields[6 + int(fields[3])]
        for line in _data_lines(folder, "data.noun*"):
            fields = line.split()
            count = int(fields[3], 16)
            self._names[fields[0]] = [fields[4 + 2 * i].replace("_", " ") for i in range(count)]
            pointers = fields[5 + 2 * count :]  # symbol, offset, part of speech, source and target, and so on
            self._broader[fields[0]] = [pointers[i + 1] for i, symbol in enumerate(pointers) if symbol in ("@", "@i")]

    def names(self, lemma: str) -> list[str]:
        """The names of the lemma's first sense; empty if the files do not contain it."""
        return self._names.get(self.first_sense.get(lemma, ""), [])

    def kinds(self, name: str) -> list[str]:
        """The lemmas whose first sense lies below the first sense that has this name."""
        root = self.first_sense.get(name) or next((s for s, names in self._names.items() if name in names), "")
        return [lemma for lemma, sense in sorted(self.first_sense.items()) if root in self._above(sense)]

    def _above(self, sense: str) -> set[str]:
        above: set[str] = set()
        todo = [sense]
        while todo:
            for broader in self._broader.get(todo.pop(), []):
                if broader not in above:
                    above.add(broader)
                    todo.append(broader)
        return above


def _data_lines(folder: Path, pattern: str) -> Iterable[str]:
    for path in sorted(folder.glob(pattern)):
        yield from (line for line in path.read_text(encoding="utf-8").splitlines() if line[:1] not in ("", " "))


def classes_of(path: Path) -> list[list[str]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.split(",") for line in lines if line.strip()]


def build(arguments: argparse.Namespace) -> str:
    curation = Curation(arguments.curation)
    stop = list(dict.fromkeys(curation.words["@stop"]))
    dropped = set(curation.words["@drop"])
    things = Groups()
    for names in curation.concepts:
        things.find(names[0])
    for names in curation.concepts:
        things.join(names)
    curated = {name for names in curation.concepts for name in names}
    coco = [c["name"] for c in json.loads(arguments.coco_instances.read_bytes())["categories"]]
    for names in [[name] for name in (*coco, *KINDS)] + classes_of(arguments.objects):
        things.join(normal(name) for name in names if name.strip())
    wordnet = WordNet(arguments.wordnet)

    def join_usable(name: str, others: Iterable[str]) -> None:
        usable = [n for n in others if n.islower() and n not in dropped and normal(n) not in dropped]
        usable = [n for n in usable if normal(n) not in curated]  # a curated line overrides WordNet
        things.join(normal(n) for n in (name, *usable))

    for lemma in curation.words["@wordnet"]:
        lemma = lemma.replace(" _ ", " ")
        join_usable(lemma, wordnet.names(lemma))
    for name in curation.words["@kinds"]:
        classes = {normal(n) for names in classes_of(arguments.objects) for n in names}
        join_usable(name, (kind for kind in wordnet.kinds(name) if normal(kind) not in classes))
    qualities = Groups()
    for names in curation.attributes:
        qualities.join(names)
    for names in [[colour] for colour in COLOURS] + classes_of(arguments.attributes):
        qualities.join(plain(name) for name in names if name.strip())
    lines = [HEADER, "# objects: canonical name, aliases"]
    kept = [[n for n in names if n not in stop] for names in things.all()]
    lines += sorted(", ".join(names) for names in kept if names)
    lines += ["", "# broader > narrower"]
    lines += [f"{broad} > {', '.join(dict.fromkeys(narrow))}" for broad, narrow in curation.links]
    lines += ["", "# attributes", *sorted("@attribute " + ", ".join(names) for names in qualities.all())]
    lines += ["", "# stop words: too general, or phrases whose words are no mentions", *in_lines("@stop", stop)]
    lines += [
        "",
        "# object names that are verbs as well",
        *in_lines("@verb", list(dict.fromkeys(curation.words["@verb"]))),
    ]
    return "\n".join(lines) + "\n"


def in_lines(keyword: str, names: list[str], each: int = 12) -> list[str]:
    return [f"{keyword} {', '.join(names[i : i + each])}" for i in range(0, len(names), each)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("objects", "attributes", "coco-instances", "wordnet", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--curation", type=Path, default=Path(__file__).with_name("thesaurus_curation.txt"))
    arguments = parser.parse_args()
    write_text(arguments.out, build(arguments))


if __name__ == "__main__":
    main()
