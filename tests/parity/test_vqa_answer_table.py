"""The VQA string metric beside tables worked by hand: 244 texts with their normalised form, and 49 scores as fractions.

Rows were worked from the official evaluator's published rules (GT-Vision-Lab/VQA), not by running this package.
"""

from __future__ import annotations

import importlib.resources
import json
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest

from cmal.data.answer_normalisation import normalise_answer
from cmal.tasks.metrics import vqa_accuracy

MARKS = ';/[]"{}()=+\\_-><@`,?!'

# Each of the 21 marks three times: inside a word it becomes a space; where one of its occurrences touches a space every
# occurrence is deleted; where the text has digit,digit anywhere every mark is deleted.
PUNCTUATION = [
    ("x;y", "x y"),
    ("x;y ;z", "xy z"),
    ("x;y 1,000", "xy 1000"),
    ("x/y", "x y"),
    ("x/y /z", "xy z"),
    ("x/y 1,000", "xy 1000"),
    ("x[y", "x y"),
    ("x[y [z", "xy z"),
    ("x[y 1,000", "xy 1000"),
    ("x]y", "x y"),
    ("x]y ]z", "xy z"),
    ("x]y 1,000", "xy 1000"),
    ('x"y', "x y"),
    ('x"y "z', "xy z"),
    ('x"y 1,000', "xy 1000"),
    ("x{y", "x y"),
    ("x{y {z", "xy z"),
    ("x{y 1,000", "xy 1000"),
    ("x}y", "x y"),
    ("x}y }z", "xy z"),
    ("x}y 1,000", "xy 1000"),
    ("x(y", "x y"),
    ("x(y (z", "xy z"),
    ("x(y 1,000", "xy 1000"),
    ("x)y", "x y"),
    ("x)y )z", "xy z"),
    ("x)y 1,000", "xy 1000"),
    ("x=y", "x y"),
    ("x=y =z", "xy z"),
    ("x=y 1,000", "xy 1000"),
    ("x+y", "x y"),
    ("x+y +z", "xy z"),
    ("x+y 1,000", "xy 1000"),
    ("x\\y", "x y"),
    ("x\\y \\z", "xy z"),
    ("x\\y 1,000", "xy 1000"),
    ("x_y", "x y"),
    ("x_y _z", "xy z"),
    ("x_y 1,000", "xy 1000"),
    ("x-y", "x y"),
    ("x-y -z", "xy z"),
    ("x-y 1,000", "xy 1000"),
    ("x>y", "x y"),
    ("x>y >z", "xy z"),
    ("x>y 1,000", "xy 1000"),
    ("x<y", "x y"),
    ("x<y <z", "xy z"),
    ("x<y 1,000", "xy 1000"),
    ("x@y", "x y"),
    ("x@y @z", "xy z"),
    ("x@y 1,000", "xy 1000"),
    ("x`y", "x y"),
    ("x`y `z", "xy z"),
    ("x`y 1,000", "xy 1000"),
    ("x,y", "x y"),
    ("x,y ,z", "xy z"),
    ("x,y 1,000", "xy 1000"),
    ("x?y", "x y"),
    ("x?y ?z", "xy z"),
    ("x?y 1,000", "xy 1000"),
    ("x!y", "x y"),
    ("x!y !z", "xy z"),
    ("x!y 1,000", "xy 1000"),
]

PERIODS = [
    # A period goes unless a digit follows; what stands before it never matters (the misspelt look-behind).
    ("dr.", "dr"),
    ("u.s.a.", "usa"),
    ("u.s. army", "us army"),
    ("5.", "5"),
    ("3.5", "3.5"),
    (".5", ".5"),
    ("x.5", "x.5"),
    ("5.x", "5x"),
    ("2.30 p.m.", "2.30 pm"),
    ("10.000.000", "10.000.000"),
    ("...", ""),
    ("wait...", "wait"),
    ("1..2", "1.2"),
    ("www.nba.com", "wwwnbacom"),
    ("no.", "no"),
    (". yes", "yes"),
    ("1.a", "1a"),  # the period goes before words are read, so no article is left to drop
    ("a.m.", "am"),
    # The substitution stops after 32 periods (a flag passed as a count).
    ("." * 31 + "x", "x"),
    ("." * 32 + "x", "x"),
    ("." * 33 + "x", ".x"),
    ("." * 40 + "x", "." * 8 + "x"),
    ("x." * 33, "x" * 33 + "."),
    ("x." * 34, "x" * 33 + ".x."),
    ("1.5 " + "." * 33, "1.5 ."),  # a period that stays is not one of the 32
]

DIGITS_AND_ARTICLES = [
    ("none", "0"),
    ("zero", "0"),
    ("one", "1"),
    ("two", "2"),
    ("three", "3"),
    ("four", "4"),
    ("five", "5"),
    ("six", "6"),
    ("seven", "7"),
    ("eight", "8"),
    ("nine", "9"),
    ("ten", "10"),
    ("eleven", "eleven"),
    ("twelve", "twelve"),
    ("Two", "2"),
    ("TEN", "10"),
    ("twenty one", "twenty 1"),
    ("twenty-one", "twenty 1"),
    ("no one", "no 1"),
    ("none of them", "0 of them"),
    ("someone", "someone"),
    ("one's", "one's"),
    ("two dogs and three cats", "2 dogs and 3 cats"),
    ("a", ""),
    ("an", ""),
    ("the", ""),
    ("A", ""),
    ("The", ""),
    ("a dog", "dog"),
    ("an apple", "apple"),
    ("the end", "end"),
    ("the a an", ""),
    ("vitamin a", "vitamin"),
    ("the one", "1"),
    ("theatre", "theatre"),
    ("another", "another"),
    ("a/c", "c"),  # the mark becomes a space, then "a" is an article
    ("a-frame", "frame"),
    ("t-shirt", "t shirt"),
    ("a.", ""),
]

NUMBERS_WITH_COMMAS = [
    ("1,000", "1000"),
    ("1,000,000", "1000000"),
    ("10,20", "1020"),
    ("1, 2", "1 2"),
    ("1 ,2", "1 2"),
    ("1,2 and 3-4", "12 and 34"),  # digit,digit deletes the hyphen too, though it touches no space
    ("3-4", "3 4"),
    ("$1,000", "$1000"),
    ("1,000!", "1000"),
    ("1,000 red/blue", "1000 redblue"),
    ("red/blue", "red blue"),
    ("x,1", "x 1"),
    ("1,x", "1 x"),
    (",5", "5"),
    ("5,", "5"),
    ("4/5", "4 5"),
    ("24/7", "24 7"),
    ("1,2,3", "123"),
]

CONTRACTIONS = [
    ("aint", "ain't"),
    ("arent", "aren't"),
    ("cant", "can't"),
    ("couldve", "could've"),
    ("couldn'tve", "couldn't've"),
    ("couldnt've", "couldn't've"),
    ("didnt", "didn't"),
    ("doesnt", "doesn't"),
    ("dont", "don't"),
    ("hadnt", "hadn't"),
    ("hasnt", "hasn't"),
    ("havent", "haven't"),
    ("hed", "he'd"),
    ("hes", "he's"),
    ("howll", "how'll"),
    ("isnt", "isn't"),
    ("itd", "it'd"),
    ("itll", "it'll"),
    ("let's", "let's"),
    ("maam", "ma'am"),
    ("mightnt've", "mightn't've"),
    ("mustve", "must've"),
    ("neednt", "needn't"),
    ("notve", "not've"),
    ("oclock", "o'clock"),
    ("5 oclock", "5 o'clock"),
    ("ow's'at", "'ow's'at"),
    ("shant", "shan't"),
    ("she's", "she's"),
    ("shouldnt", "shouldn't"),
    ("somebody'd", "somebodyd"),  # the table turns this one round
    ("somebodys", "somebody's"),
    ("someones", "someone's"),
    ("somethingll", "something'll"),
    ("thats", "that's"),
    ("therere", "there're"),
    ("theyre", "they're"),
    ("twas", "'twas"),
    ("wasnt", "wasn't"),
    ("weve", "we've"),
    ("whats", "what's"),
    ("wheres", "where's"),
    ("whos", "who's"),
    ("whyre", "why're"),
    ("wont", "won't"),
    ("wouldn'tve", "wouldn't've"),
    ("yall", "y'all"),
    ("y'all'dve", "y'all'd've"),
    ("youre", "you're"),
    ("youve", "you've"),
    # Words are lower-cased before the table is asked, so its keys with a capital never match.
    ("Im", "im"),
    ("Ive", "ive"),
    ("Id've", "id've"),
    ("I'dve", "i'dve"),
    ("DONT", "don't"),
    ("Whats that", "what's that"),
    # Not in the table, though one might think so.
    ("id", "id"),
    ("ill", "ill"),
    ("were", "were"),
    ("its", "its"),
    ("lets", "lets"),
    ("shes", "shes"),
    ("it's", "it's"),
]

SPACE_CASE_AND_OTHERS = [
    ("yes", "yes"),
    ("YES", "yes"),
    ("Yes ", "yes"),
    (" yes", "yes"),
    ("yes\n", "yes"),
    ("\tyes", "yes"),
    ("hot\ndog", "hot dog"),
    ("hot\tdog", "hot dog"),
    ("hot  dog", "hot dog"),
    ("hot \n dog", "hot dog"),
    ("", ""),
    ("   ", ""),
    ("man's", "man's"),  # an apostrophe is not among the 21 marks
    ("men 's", "men 's"),
    ("10:30", "10:30"),  # nor is a colon
    ("at: home", "at: home"),
    ("50%", "50%"),
    ("#1", "#1"),
    ("black & white", "black & white"),
    ("*", "*"),
    ("yes, it is", "yes it is"),
    ("yes,it is", "yes it is"),
    ("yes,it is, sir", "yesit is sir"),
    ("yes ?", "yes"),
    ("yes!?", "yes"),
    ("really?!", "really"),
    ("-", ""),
    ("- -", ""),
    ("black/white-red", "black white red"),
    ("black/white - red-ish", "black white redish"),  # each mark for itself: "-" touches a space, "/" does not
    ("(red)", "red"),
    ("(red) car", "red car"),
    ("red(ish) car", "red ish car"),  # ")" touches a space and is deleted, "(" becomes a space
    ("café", "café"),
    ("The T-Shirt, please.", "t shirt please"),
]

ALL_ROWS = PUNCTUATION + PERIODS + DIGITS_AND_ARTICLES + NUMBERS_WITH_COMMAS + CONTRACTIONS + SPACE_CASE_AND_OTHERS

# prediction, {answer: annotators}, official score, albef score. Of ten, 0 1 2 3 4+ who agree give 0 .3 .6 .9 1.
SCORES = [
    ("red", {"red": 0, "blue": 10}, "0", "0"),
    ("red", {"red": 1, "blue": 9}, "3/10", "3/10"),
    ("red", {"red": 2, "blue": 8}, "6/10", "6/10"),
    ("red", {"red": 3, "blue": 7}, "9/10", "9/10"),
    ("red", {"red": 4, "blue": 6}, "1", "1"),
    ("red", {"red": 9, "blue": 1}, "1", "1"),
    ("yes", {"yes": 10}, "1", "1"),
    # All ten equal: official processes nothing; albef processes the prediction alone.
    ("Yes", {"yes": 10}, "0", "1"),
    ("yes.", {"yes": 10}, "0", "1"),
    ("yes\n", {"yes": 10}, "1", "1"),
    ("\t yes ", {"yes": 10}, "1", "1"),
    ("the dog", {"the dog": 10}, "1", "0"),
    ("dog", {"the dog": 10}, "0", "0"),
    ("the dog", {"dog": 10}, "0", "1"),
    ("two", {"two": 10}, "1", "0"),
    ("2", {"two": 10}, "0", "0"),
    ("two", {"2": 10}, "0", "1"),
    ("dont", {"dont": 10}, "1", "0"),
    ("t-shirt", {"t-shirt": 10}, "1", "0"),
    ("", {"a": 10}, "0", "0"),
    # Equal once their outer spaces are gone counts as equal, officially.
    ("red", {"red ": 5, "red": 5}, "1", "1"),
    ("red", {"red ": 8, "red": 2}, "1", "6/10"),
    ("RED", {"red ": 8, "red": 2}, "0", "6/10"),
    ("red\n", {"red\n": 10}, "1", "0"),
    # One annotator differs and everything is processed.
    ("t-shirt", {"t-shirt": 9, "shirt": 1}, "1", "1"),
    ("the dog", {"the dog": 9, "cat": 1}, "1", "0"),
    ("dog", {"the dog": 9, "cat": 1}, "1", "0"),
    ("Red", {"red": 3, "blue": 7}, "9/10", "9/10"),
    ("red", {"Red": 3, "blue": 7}, "9/10", "0"),
    ("two", {"two": 4, "3": 6}, "1", "0"),
    ("2", {"two": 3, "2": 1, "3": 6}, "1", "3/10"),
    ("0", {"none": 2, "0": 2, "1": 6}, "1", "6/10"),
    ("none", {"0": 3, "1": 7}, "9/10", "9/10"),
    ("1000", {"1,000": 3, "1000": 1, "100": 6}, "1", "1"),
    ("don't", {"dont": 3, "no": 7}, "9/10", "0"),
    ("hot dog", {"hot\tdog": 3, "burger": 7}, "9/10", "0"),
    ("3.5", {"3.5": 5, "4": 5}, "1", "1"),
    ("5", {"5.": 3, "6": 7}, "9/10", "9/10"),
    ("x", {"." * 33 + "x": 3, "y": 7}, "0", "0"),
    ("." * 33 + "x", {"." * 33 + "x": 3, "y": 7}, "9/10", "9/10"),
    # Articles alone become nothing, and nothing equals nothing.
    ("a", {"a": 3, "b": 7}, "9/10", "0"),
    ("the", {"a": 3, "b": 7}, "9/10", "0"),
    ("", {"a": 3, "b": 7}, "9/10", "0"),
    # Other numbers of annotators.
    ("yes", {"yes": 1}, "0", "0"),
    ("yes", {"yes": 2}, "1/3", "1/3"),
    ("yes", {"yes": 3}, "2/3", "2/3"),
    ("yes", {"yes": 3, "no": 2}, "4/5", "4/5"),
    ("yes", {"yes": 1, "no": 2}, "2/9", "2/9"),
    ("yes", {"yes": 4, "no": 1}, "1", "1"),
]


def test_the_table_has_at_least_two_hundred_different_rows_and_every_mark():
    assert len({text for text, _ in ALL_ROWS}) >= 200
    assert {text[1] for text, _ in PUNCTUATION} == set(MARKS)


@pytest.mark.parametrize(("text", "expected"), ALL_ROWS)
def test_normalised_answer_is_the_one_worked_by_hand(text, expected):
    assert normalise_answer(text) == expected


@pytest.mark.parametrize(("prediction", "counts", "official", "albef"), SCORES)
def test_accuracy_is_the_one_worked_by_hand(prediction, counts, official, albef):
    answers = list(Counter(counts).elements())
    assert vqa_accuracy(prediction, answers) == float(Fraction(official))
    assert vqa_accuracy(prediction, answers, protocol="albef") == float(Fraction(albef))


def test_the_package_holds_the_official_tables_whole(real_data: Path):
    ours = json.loads((importlib.resources.files("cmal.data") / "vqa_normalisation.json").read_text())
    assert "".join(ours["punctuation"]) == MARKS
    assert (len(ours["contractions"]), len(ours["digit_words"])) == (120, 12)
    official = real_data.parent / "spec" / "vqa_normalisation.json"
    if not official.is_file():
        pytest.skip("spec/vqa_normalisation.json is not beside this checkout")
    assert ours == json.loads(official.read_text())
