"""Tokenised sentence pairs: the cache, vocabularies and limits."""

from __future__ import annotations

import pytest

from pairs import ROWS, translation_data, write_pairs
from unrolled.config.translation import TranslationData
from unrolled.data.parallel_corpus import prepare_pairs
from unrolled.data.tokenizer import UNKNOWN
from unrolled.errors import UserError
from unrolled.files import cache_folder


def test_an_empty_split_is_named(tmp_path):
    folder = write_pairs(tmp_path / "d", "text", {**ROWS, "validation": []})
    with pytest.raises(UserError, match=r"split 'validation' .* is empty"):
        prepare_pairs(translation_data(folder))


def test_a_missing_split_lists_what_is_there(tmp_path):
    folder = write_pairs(tmp_path / "d", "csv", {"train": ROWS["train"]})
    with pytest.raises(UserError, match=r"no file for split 'validation'; it has train\.csv"):
        prepare_pairs(translation_data(folder))


def test_pairs_that_are_all_too_long_are_refused():
    source = TranslationData.model_validate({"source": "dates", "limit": 5, "max_length": 3})
    with pytest.raises(UserError, match=r"data\.max_length: 3 leaves no pair of dates .* shortest has 6 tokens"):
        prepare_pairs(source)


def test_a_corpus_is_built_once(tmp_path):
    source = translation_data(write_pairs(tmp_path / "d", "csv"), vocabulary={"kind": "word"})
    first = prepare_pairs(source)
    written = {path: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    assert prepare_pairs(source).folder == first.folder
    assert prepare_pairs(source, first.fingerprint).folder == first.folder
    assert {path: path.stat().st_mtime_ns for path in first.folder.iterdir()} == written
    assert first.folder.parent == cache_folder()
    corpus = first.split("train")
    assert corpus.texts() == (["one two", "three"], ["eins zwei", "drei"])
    assert corpus.lengths.tolist() == [[3, 3], [2, 2]]
    words = first.vocabularies
    assert words.target.decode(corpus.tokens("target", [0, 1])) == ["eins zwei", "drei"]
    write_pairs(tmp_path / "d", "csv", {**ROWS, "train": [("new", "neu")]})
    assert prepare_pairs(source).folder != first.folder


def test_separate_vocabularies(tmp_path):
    source = translation_data(write_pairs(tmp_path / "d", "csv"), vocabulary={"kind": "word", "shared": False})
    words = prepare_pairs(source).vocabularies
    assert words.input.encode(["eins"]) == [[UNKNOWN]] and words.target.encode(["eins"]) != [[UNKNOWN]]
