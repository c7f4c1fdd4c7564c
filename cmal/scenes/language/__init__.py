"""Generates the texts of a scene: captions, referring expressions, questions, hypotheses, and their gold anchors.

`nouns` is the lexicon and `phrases` builds noun phrases with known anchors. `Scene` says what is true of a picture.
The other modules each generate one kind of text. All texts depend only on scenes and a seeded generator.
"""

from cmal.scenes.language.captions import make_captions
from cmal.scenes.language.expressions import make_references
from cmal.scenes.language.gold import Anchor, Sentence
from cmal.scenes.language.hypotheses import make_hypotheses
from cmal.scenes.language.questions import make_questions

__all__ = ["Anchor", "Sentence", "make_captions", "make_hypotheses", "make_questions", "make_references"]
