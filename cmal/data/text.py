"""Words, word pieces, and the map between them.

A text is normalised as uncased BERT does it (control characters dropped, accents stripped, lower case), split into
words at spaces and punctuation (each punctuation mark is a word), and each word into word pieces, longest match first.
`WordPieces` keeps the way back: which word a piece belongs to, and which characters of the given text a word is.

Legend: T word pieces, W words, V vocabulary.
"""

from __future__ import annotations

import heapq
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from cmal.errors import DataError, shown
from cmal.io.files import read_json, write_text
from cmal.io.json_stream import replace_surrogates

PAD, UNKNOWN, CLS, SEP, MASK = SPECIAL_PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
NO_WORD = -1
_LONGEST_WORD = 100  # characters; a longer word is one unknown piece, as in BERT


@dataclass(frozen=True)
class TokenisedText:
    """One text as pieces and words.

    Attributes:
        token_ids: (T,) int64, [CLS] first and [SEP] last.
        word_of_token: (T,) int64, index into `words`; -1 for [CLS] and [SEP].
        words: the W words in lower case, as written otherwise (accents kept); a word cut in two by the limit counts.
        char_spans: (W, 2) int64, first character and one past the last of each word in the text as given.
    """

    token_ids: np.ndarray
    word_of_token: np.ndarray
    words: tuple[str, ...]
    char_spans: np.ndarray


def _table(value: object, path: Path) -> dict:
    if not isinstance(value, dict):
        raise _no_vocabulary(path, f"where a table should be it holds {shown(value)}")
    return value


def _no_vocabulary(path: Path, found: str) -> DataError:
    return DataError(f"cannot read the vocabulary {path}", found, "download the file again")


class WordPieces:
    """A word-piece vocabulary and the encoder that goes with it.

    Args:
        vocab: (V) pieces in id order; holds the five special pieces, and "##x" for a piece that continues a word.

    Raises:
        DataError: a special piece is missing or a piece appears twice.

    Ids equal those of `transformers`' uncased BertTokenizer. One difference, on purpose: "[MASK]" or "[SEP]" written in
    a caption is five characters of text here, and never becomes the special piece.
    """

    def __init__(self, vocab: Sequence[str]):
        self.vocab = list(vocab)
        self._ids = {piece: index for index, piece in enumerate(self.vocab)}
        _check_vocabulary(self.vocab, self._ids)
        self.pad_id, self.unknown_id, self.cls_id, self.sep_id, self.mask_id = (self._ids[p] for p in SPECIAL_PIECES)
        self._tokenizer = Tokenizer(
            models.WordPiece(self._ids, unk_token=UNKNOWN, max_input_chars_per_word=_LONGEST_WORD)
        )
        self._tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        self._tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()

    @classmethod
    def from_vocab(cls, vocab: Path | Sequence[str]) -> WordPieces:
        """A vocabulary given as a list, or as a vocab.txt file with one piece a line.

        Raises:
            DataError: the file cannot be read, or the vocabulary cannot be used.
        """
        if not isinstance(vocab, str | os.PathLike):
            return cls(vocab)
        try:
            text = Path(vocab).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"cannot read the vocabulary {vocab}", f"the system says: {error}", "check the path"
            ) from error
        return cls(text.removesuffix("\n").split("\n"))

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path) -> WordPieces:
        """The vocabulary of an uncased BERT-like checkpoint: a local folder, or a name on the Hugging Face hub.

        Raises:
            DataError: no vocab.txt or tokenizer.json is found there, or the checkpoint keeps upper case.
        """
        config = _fetch(name_or_folder, "tokenizer_config.json")
        if config is not None and _table(read_json(config), config).get("do_lower_case", True) is False:
            raise DataError(
                f"cannot use the vocabulary of {name_or_folder}",
                "its tokenizer keeps upper case (do_lower_case is false)",
                "choose an uncased checkpoint, e.g. bert-base-uncased",
            )
        if (path := _fetch(name_or_folder, "vocab.txt")) is not None:
            return cls.from_vocab(path)
        if (path := _fetch(name_or_folder, "tokenizer.json")) is not None:
            ids = _table(_table(read_json(path), path).get("model"), path).get("vocab")
            if isinstance(ids, dict):
                if not all(type(number) is int for number in ids.values()):
                    raise _no_vocabulary(path, "the pieces' numbers are not whole numbers")
                return cls(sorted(ids, key=ids.__getitem__))
        raise DataError(
            f"cannot find a word-piece vocabulary in {name_or_folder}",
            "neither a vocab.txt nor a tokenizer.json with word pieces is there",
            "give a folder that holds vocab.txt, or the hub name of an uncased BERT-like checkpoint",
        )

    @classmethod
    def train(cls, texts: Iterable[str], size: int) -> WordPieces:
        """A vocabulary of at most `size` pieces learned from `texts`: same texts, same vocabulary.

        All characters seen come first; then the most frequent neighbouring pair of pieces is joined, again and again
        (ties: first in code-point order). Written here because the library's trainer breaks ties by hash order, and so
        gives another vocabulary in another run.
        """
        words: Counter[str] = Counter()
        normalise, part = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
        for text in texts:
            words.update(word for word, _ in part.pre_tokenize_str(normalise.normalize_str(replace_surrogates(text))))
        counts = {word: count for word, count in sorted(words.items()) if len(word) <= _LONGEST_WORD}
        return cls([*SPECIAL_PIECES, *_learn_pieces(counts, size - len(SPECIAL_PIECES))])

    def save(self, path: Path) -> None:
        """Writes the vocabulary as vocab.txt, one piece a line, atomically."""
        write_text(Path(path), "\n".join(self.vocab) + "\n")

    def __len__(self) -> int:
        return len(self.vocab)

    def encode(self, text: str, max_tokens: int) -> TokenisedText:
        """The text as word pieces, cut at the end to `max_tokens` pieces, [CLS] and [SEP] included.

        Args:
            text: any string; may be empty.
            max_tokens: at least 2.
        """
        assert max_tokens >= 2, "room for [CLS] and [SEP]"
        text = replace_surrogates(text)
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        ids, offsets = encoding.ids, encoding.offsets
        word_ids = [NO_WORD if word is None else word for word in encoding.word_ids]
        kept = min(len(ids), max_tokens - 2)
        word_count = word_ids[kept - 1] + 1 if kept else 0
        starts, ends = [0] * word_count, [0] * word_count
        for index in range(len(ids)):  # past the cut too: the last word may continue there
            word = word_ids[index]
            if word >= word_count:
                break
            if index == 0 or word_ids[index - 1] != word:
                starts[word] = offsets[index][0]
            ends[word] = offsets[index][1]
        return TokenisedText(
            token_ids=np.array([self.cls_id, *ids[:kept], self.sep_id], dtype=np.int64),
            word_of_token=np.array([NO_WORD, *word_ids[:kept], NO_WORD], dtype=np.int64),
            words=tuple(text[start:end].lower() for start, end in zip(starts, ends)),
            char_spans=np.array([starts, ends], dtype=np.int64).T.reshape(word_count, 2),
        )


def split_words(text: str) -> tuple[str, ...]:
    """The lower-case words of a text exactly as `WordPieces.encode` parts them, without a vocabulary."""
    text = replace_surrogates(text)
    return tuple(text[start:end].lower() for start, end in word_spans(text))


def word_spans(text: str) -> list[tuple[int, int]]:
    """First character and one past the last of each word, as `WordPieces.encode` parts the text."""
    return list(_SPLITTER.encode(replace_surrogates(text), add_special_tokens=False).offsets)


def _word_splitter() -> Tokenizer:
    """A tokenizer whose every word is one unknown piece: only its offsets are of use."""
    tokenizer = Tokenizer(models.WordLevel({UNKNOWN: 0}, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


_SPLITTER = _word_splitter()


def _check_vocabulary(vocab: list[str], ids: dict[str, int]) -> None:
    missing = [piece for piece in SPECIAL_PIECES if piece not in ids]
    if missing or len(ids) != len(vocab):
        found = f"it lacks {', '.join(missing)}" if missing else f"{len(vocab) - len(ids):,} pieces appear twice"
        raise DataError("cannot use the vocabulary", found, "give the vocab.txt of an uncased BERT-like checkpoint")


def _fetch(name_or_folder: str | Path, file_name: str) -> Path | None:
    """Path of a checkpoint's file, downloaded if it is on the hub; None where there is no such file."""
    folder = Path(name_or_folder)
    if folder.is_dir():
        return folder / file_name if (folder / file_name).is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(str(name_or_folder), file_name))
    except LocalEntryNotFoundError as error:
        raise _unreachable(name_or_folder, error) from error
    except EntryNotFoundError:
        return None
    except (OSError, HFValidationError) as error:  # includes "repository not found"
        raise _unreachable(name_or_folder, error) from error


def _unreachable(name: str | Path, error: Exception) -> DataError:
    return DataError(
        f'cannot load the vocabulary of "{name}"',
        f"it is no local folder, and the hub says: {str(error).strip().splitlines()[0]}",
        "check the name, or give a local folder that holds vocab.txt",
    )


def _learn_pieces(counts: dict[str, int], size: int) -> list[str]:
    """Characters, then joined pairs, most frequent first; at most `size` pieces (but never fewer than the characters)."""
    words = {word: [word[0], *("##" + letter for letter in word[1:])] for word in counts}
    pieces = dict.fromkeys(sorted({piece for symbols in words.values() for piece in symbols}))
    pair_counts: Counter[tuple[str, str]] = Counter()
    words_with: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for word, symbols in words.items():
        for pair in pairwise(symbols):
            pair_counts[pair] += counts[word]
            words_with[pair].add(word)
    heap = [(-count, pair) for pair, count in pair_counts.items()]
    heapq.heapify(heap)
    while heap and len(pieces) < size:
        negative, pair = heapq.heappop(heap)
        if pair_counts[pair] != -negative:  # an old count; the present one is in the heap as well
            continue
        joined = pair[0] + pair[1].removeprefix("##")
        pieces[joined] = None
        changed = set()
        for word in words_with.pop(pair):
            before, after = words[word], _join(words[word], pair, joined)
            words[word] = after
            for symbols, sign in ((before, -1), (after, 1)):
                for neighbours in pairwise(symbols):
                    pair_counts[neighbours] += sign * counts[word]
                    changed.add(neighbours)
                    if sign > 0:
                        words_with[neighbours].add(word)
        for neighbours in changed:
            if pair_counts[neighbours] > 0:
                heapq.heappush(heap, (-pair_counts[neighbours], neighbours))
    return list(pieces)


def _join(symbols: list[str], pair: tuple[str, str], joined: str) -> list[str]:
    result: list[str] = []
    index = 0
    while index < len(symbols):
        if tuple(symbols[index : index + 2]) == pair:
            result.append(joined)
            index += 2
        else:
            result.append(symbols[index])
            index += 1
    return result
