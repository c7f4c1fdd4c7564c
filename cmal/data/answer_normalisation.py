r"""VQA v2 answers as the official evaluator normalises them, quirks included, because the quirks move scores:

- a mark of punctuation is deleted everywhere if it touches a space anywhere in the text, or if the text has a comma between
  two digits anywhere; else it becomes a space ("red/blue" -> "red blue", "red/ blue" -> "red blue", "1,000/b" -> "1000b");
- the period pattern `(?!<=\d)(\.)(?!\d)` was meant to look behind for a digit but spells a look-ahead that always holds, so
  a period goes unless a digit *follows* it ("5." -> "5", ".5" stays, "3.5" stays);
- that substitution stops after 32 periods, because a flag (re.UNICODE, whose value is 32) is passed where the count belongs;
- words are lower-cased before they are looked up in the table of contractions, so its four keys with a capital never match;
- apostrophes and colons are not in the table of punctuation: they stay.

Source: the official evaluator (GT-Vision-Lab/VQA); its tables are in `vqa_normalisation.json`.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import re

_TABLES = json.loads(importlib.resources.files("cmal.data").joinpath("vqa_normalisation.json").read_text("utf-8"))
_PUNCTUATION: list[str] = _TABLES["punctuation"]
_DIGIT_WORDS: dict[str, str] = _TABLES["digit_words"]
_ARTICLES: frozenset[str] = frozenset(_TABLES["articles"])
_CONTRACTIONS: dict[str, str] = _TABLES["contractions"]
_COMMA_BETWEEN_DIGITS = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")  # the misspelt look-ahead of the official pattern never fails: it may be left out
_MAX_PERIODS = 32


def normalise_answer(text: str) -> str:
    """The answer after the official evaluator's whole processing: space, punctuation, then digits, articles, contractions.

    Used for answer vocabularies and training targets. Scoring does not always process, see `vqa_accuracy`.
    Example: "The  T-shirt, please." -> "t shirt please"; "two" -> "2"; "dont" -> "don't".
    """
    return process_words(process_punctuation(clean_space(text)))


def clean_space(text: str) -> str:
    """Line ends and tabs become spaces; outer spaces go."""
    return text.replace("\n", " ").replace("\t", " ").strip()


@functools.lru_cache(maxsize=1 << 16)
def process_punctuation(text: str) -> str:
    """The official punctuation step."""
    has_comma_between_digits = _COMMA_BETWEEN_DIGITS.search(text) is not None
    processed = text
    for mark in _PUNCTUATION:
        if mark not in text:
            continue
        is_deleted = has_comma_between_digits or f"{mark} " in text or f" {mark}" in text
        processed = processed.replace(mark, "" if is_deleted else " ")
    return _PERIOD.sub("", processed, count=_MAX_PERIODS)


@functools.lru_cache(maxsize=1 << 16)
def process_words(text: str) -> str:
    """The official step after it: digit words, articles, contractions."""
    words = [_DIGIT_WORDS.get(word, word) for word in text.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)
