"""What can truly be said of a scene: captions, referring expressions, questions, hypotheses, and their gold anchors.

`nouns` names things, `meaning` decides what is true, `phrases` builds noun phrases whose anchors are known; the other
modules each make one kind of text. Everything is a function of scenes and a seeded generator.
"""

from cmal.scenes.language.captions import make_captions
from cmal.scenes.language.expressions import make_references
from cmal.scenes.language.gold import Anchor, Sentence
from cmal.scenes.language.hypotheses import make_hypotheses
from cmal.scenes.language.questions import make_questions

__all__ = ["Anchor", "Sentence", "make_captions", "make_hypotheses", "make_questions", "make_references"]
