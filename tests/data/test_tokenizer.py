"""Vocabularies of sentences and of running text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled.config import Vocabulary as VocabularyConfig
from unrolled.data.tokenizer import BEGIN, END, UNKNOWN, Vocabulary, learn_vocabulary
from unrolled.errors import UserError

TEXTS = ["The dog runs, fast!", "the cat sleeps.", "Zwei Männer (am Fluss) reden – laut.", "dog cat dog"]


@pytest.mark.parametrize("kind", ["bpe", "word", "character"])
def test_texts_survive_the_round_trip(kind, tmp_path):
    vocabulary = learn_vocabulary(TEXTS, VocabularyConfig(kind=kind, size=300))
    assert vocabulary.decode(vocabulary.encode(TEXTS)) == TEXTS
    vocabulary.save(tmp_path / "v.json")
    assert Vocabulary.load(tmp_path / "v.json").encode(TEXTS) == vocabulary.encode(TEXTS)


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet="ab c.,-ä\n", max_size=20))
def test_character_vocabulary_loses_no_character(text):
    vocabulary = learn_vocabulary(["ab c.,-ä\n"], VocabularyConfig(kind="character", size=50))
    (row,) = vocabulary.encode([text])
    assert len(row) == len(text)
    assert vocabulary.decode([row]) == [text.strip()]


@pytest.mark.parametrize("kind", ["bpe", "word", "character"])
def test_special_tokens_in_a_text_are_ordinary_text(kind):
    vocabulary = learn_vocabulary(["a </s> b <pad> <s>"], VocabularyConfig(kind=kind, size=60))
    (row,) = vocabulary.encode(["a </s> b <s>"])
    assert not {BEGIN, END} & set(row)
    assert vocabulary.encode(["ж"])[0][-1] == UNKNOWN


def test_size_frequency_and_case():
    words = ["a a a b b c"]
    assert len(learn_vocabulary(["abcdefghij " * 3], VocabularyConfig(kind="bpe", size=20))) <= 20
    rare = learn_vocabulary(words, VocabularyConfig(kind="word", size=50, min_frequency=2))
    assert rare.encode(["c"]) == [[UNKNOWN]] and rare.encode(["x b"])[0][1] != UNKNOWN
    assert learn_vocabulary(["AB"], VocabularyConfig(kind="character", size=20, lowercase=True)).encode(["ab"])[0] != [
        3,
        3,
    ]


def test_a_foreign_vocabulary_file_is_refused(tmp_path):
    (tmp_path / "v.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="not a vocabulary file"):
        Vocabulary.load(tmp_path / "v.json")


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1, max_size=60))
def test_character_tokens_spell_the_text(text):
    vocabulary = learn_vocabulary([text], VocabularyConfig(kind="character"), running_text=True)
    assert len(vocabulary) == len(set(text)) and vocabulary.special_ids == ()
    numbers = vocabulary.encode_text(text, "text")
    assert vocabulary.tokens(numbers) == list(text)
    assert vocabulary.decode_text(numbers.tolist()) == text


def test_characters_are_numbered_by_first_occurrence():
    vocabulary = learn_vocabulary(["hello"], VocabularyConfig(kind="character"), running_text=True)
    assert vocabulary.tokens(range(4)) == ["h", "e", "l", "o"]
    with pytest.raises(UserError, match=r"here: the character 'p' \(at place 4\)"):
        vocabulary.encode_text("help", "here")


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["bpe", "word"]), st.text(alphabet="ab ,.\n<unk>", min_size=1, max_size=60))
def test_words_and_byte_pairs_decode_to_the_text(kind, text):
    vocabulary = learn_vocabulary([text], VocabularyConfig(kind=kind, size=300), running_text=True)
    assert vocabulary.decode_text(vocabulary.encode_text(text, "text").tolist()) == text


def test_unseen_words_become_the_unknown_symbol(tmp_path):
    vocabulary = learn_vocabulary(["a rose is a rose\n"], VocabularyConfig(kind="word"), running_text=True)
    vocabulary.save(tmp_path / "symbols.json")
    again = Vocabulary.load(tmp_path / "symbols.json", running_text=True)
    assert again.encode_text("a tulip\n", "text").tolist()[1] == 0 and again.special_ids == (0,)
    assert again.tokens(range(6)) == vocabulary.tokens(range(6)) and not again.is_closed
    (tmp_path / "symbols.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="not a vocabulary file"):
        Vocabulary.load(tmp_path / "symbols.json", running_text=True)
