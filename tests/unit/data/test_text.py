"""Words, pieces, and the way back from one to the other."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmal.data.text import SPECIAL_PIECES, WordPieces, split_words, word_spans
from cmal.errors import DataError

VOCAB = [*SPECIAL_PIECES, "a", "dog", "run", "##s", "##ning", ",", "cafe", "surf", "##board", "!", "'", "t", "don"]


@pytest.fixture(scope="module")
def pieces() -> WordPieces:
    return WordPieces.from_vocab(VOCAB)


def test_pieces_know_their_words_and_words_their_characters(pieces):
    text = "A dog, running"
    encoded = pieces.encode(text, 20)
    assert [VOCAB[i] for i in encoded.token_ids] == ["[CLS]", "a", "dog", ",", "run", "##ning", "[SEP]"]
    assert encoded.word_of_token.tolist() == [-1, 0, 1, 2, 3, 3, -1]
    assert encoded.words == ("a", "dog", ",", "running")
    assert [text[start:end] for start, end in encoded.char_spans] == ["A", "dog", ",", "running"]
    assert encoded.token_ids.dtype == encoded.word_of_token.dtype == encoded.char_spans.dtype == np.int64


def test_a_text_is_cut_to_max_tokens_and_words_past_the_cut_are_gone(pieces):
    encoded = pieces.encode("a dog runs", 4)
    assert [VOCAB[i] for i in encoded.token_ids] == ["[CLS]", "a", "dog", "[SEP]"]
    assert encoded.words == ("a", "dog") and encoded.char_spans.tolist() == [[0, 1], [2, 5]]


def test_a_word_cut_in_two_keeps_all_its_characters(pieces):
    encoded = pieces.encode("a surfboard", 4)  # [CLS] a surf | ##board
    assert encoded.words == ("a", "surfboard") and encoded.char_spans.tolist() == [[0, 1], [2, 11]]
    assert encoded.word_of_token.tolist() == [-1, 0, 1, -1]


@pytest.mark.parametrize("text", ["", "   ", "\x00", "\u200d"])
def test_a_text_without_words_is_cls_and_sep(pieces, text):
    encoded = pieces.encode(text, 8)
    assert encoded.token_ids[[0, -1]].tolist() == [pieces.cls_id, pieces.sep_id]
    assert encoded.words == () and encoded.char_spans.shape == (0, 2)


def test_accents_are_stripped_for_the_pieces_and_kept_in_the_words(pieces):
    encoded = pieces.encode("Café", 8)
    assert VOCAB[encoded.token_ids[1]] == "cafe" and encoded.words == ("café",)


def test_special_pieces_written_in_a_caption_are_plain_text(pieces):
    ids = pieces.encode("a [MASK] dog [SEP]", 30).token_ids.tolist()
    assert pieces.mask_id not in ids and ids.count(pieces.sep_id) == 1


def test_ten_thousand_words_emoji_right_to_left_and_half_surrogates_are_taken(pieces):
    assert len(pieces.encode("dog " * 10_000, 40).token_ids) == 40
    assert pieces.encode("🎉 שלום עולם", 40).words == ("🎉", "שלום", "עולם")
    assert pieces.encode("a \ud83d dog", 40).words == ("a", "?", "dog")


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=60), limit=st.integers(2, 20))
def test_any_text_gives_consistent_arrays(text, limit):
    encoded = WordPieces.from_vocab(VOCAB).encode(text, limit)
    assert 2 <= len(encoded.token_ids) == len(encoded.word_of_token) <= limit
    inner = encoded.word_of_token[1:-1].tolist()
    assert sorted(set(inner)) == list(range(len(encoded.words))) and inner == sorted(inner)
    spans = encoded.char_spans
    assert (spans[:, 0] < spans[:, 1]).all() and (spans[1:, 0] >= spans[:-1, 1]).all()


def test_split_words_parts_as_encode_does(pieces):
    text = "Don't, a CAFÉ!"
    assert split_words(text) == pieces.encode(text, 40).words == ("don", "'", "t", ",", "a", "café", "!")
    assert [list(span) for span in word_spans(text)] == pieces.encode(text, 40).char_spans.tolist()


def test_training_gives_the_same_vocabulary_each_time_and_joins_the_frequent_pairs():
    texts = ["a red dog runs", "two dogs run", "the dog"]
    first = WordPieces.train(texts, 60).vocab
    assert first == WordPieces.train(reversed(texts), 60).vocab
    assert "dog" in first and "run" in first and len(first) <= 60
    assert WordPieces.train(texts, 60).encode("dogs", 9).words == ("dogs",)


def test_a_trained_vocabulary_leaves_no_seen_word_unknown():
    trained = WordPieces.train(["a striped umbrella", "öl"], 30)
    assert trained.unknown_id not in trained.encode("a striped umbrella ol", 60).token_ids


def test_a_small_size_limits_the_vocabulary_but_never_the_characters():
    assert len(WordPieces.train(["abcd abcd"], 3)) == len(SPECIAL_PIECES) + 4


def test_words_too_long_to_be_looked_up_teach_nothing():
    assert "x" not in WordPieces.train(["x" * 101, "dog"], 60).vocab


def test_saving_and_loading_gives_the_same_ids(pieces, tmp_path):
    pieces.save(tmp_path / "vocab.txt")
    for again in (WordPieces.from_vocab(tmp_path / "vocab.txt"), WordPieces.from_pretrained(tmp_path)):
        assert again.vocab == VOCAB and len(again) == len(VOCAB)
        assert again.encode("a dog", 9).token_ids.tolist() == pieces.encode("a dog", 9).token_ids.tolist()


def test_word_pieces_travel_to_worker_processes(pieces):
    again = pickle.loads(pickle.dumps(pieces))
    assert again.encode("a dog runs", 9).token_ids.tolist() == pieces.encode("a dog runs", 9).token_ids.tolist()


def test_a_vocabulary_without_special_pieces_is_refused_by_name():
    with pytest.raises(DataError, match=r"it lacks \[CLS\], \[SEP\]"):
        WordPieces.from_vocab(["[PAD]", "[UNK]", "[MASK]", "a"])


def test_a_vocabulary_with_a_repeated_piece_is_refused():
    with pytest.raises(DataError, match="1 pieces appear twice"):
        WordPieces.from_vocab([*VOCAB, "dog"])


def test_a_folder_without_a_vocabulary_says_what_to_give(tmp_path):
    with pytest.raises(DataError, match=r"neither a vocab\.txt nor a tokenizer\.json"):
        WordPieces.from_pretrained(tmp_path)


def test_a_cased_checkpoint_is_refused(tmp_path, pieces):
    pieces.save(tmp_path / "vocab.txt")
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    with pytest.raises(DataError, match="keeps upper case"):
        WordPieces.from_pretrained(tmp_path)


def test_tokenizer_json_alone_is_enough(bert_folder, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes((bert_folder / "tokenizer.json").read_bytes())
    assert WordPieces.from_pretrained(tmp_path).vocab == WordPieces.from_pretrained(bert_folder).vocab


TEXTS = [
    "A man riding a wave on top of a surfboard.",
    "Two dogs don't run; they're well-behaved, aren't they?",
    "Café naïve résumé coöperate",
    "a double-decker bus, 8:25 p.m. (London)",
    "中文 mixed with English",
    "emoji 🎉 and שלום",
    "antidisestablishmentarianism " * 3,
    "x" * 150,
    "",
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("limit", [6, 60])
def test_ids_equal_those_of_transformers_bert_tokenizer(bert_folder, text, limit):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.BertTokenizer.from_pretrained(str(bert_folder))(text, truncation=True, max_length=limit)
    assert WordPieces.from_pretrained(bert_folder).encode(text, limit).token_ids.tolist() == theirs["input_ids"]
