"""WUPS and its nouns, on a WordNet of nine nouns and, where it is installed, on the real one."""

from __future__ import annotations

import pytest

from unrolled.errors import UserError
from unrolled.metrics import WORDNET_VARIABLE, WordNetNouns, score, word_similarity, wordnet_folder, wordnet_nouns

KINDS = {
    "entity": (),
    "thing": ("entity",),
    "furniture": ("thing",),
    "seat": ("furniture",),
    "chair": ("seat",),
    "sofa": ("seat",),
    "table": ("furniture",),
    "man": ("entity",),
    "chairman": ("man",),
}
SENSES = {**{noun: (noun,) for noun in KINDS}, "chair": ("chair", "chairman"), "garbage_bin": ("thing",)}


@pytest.fixture
def folder(tmp_path):
    """Files in the form of WordNet's, man page wndb(5WN): a synset is named by where its line begins."""
    places, text = {}, "  1 A licence, in lines that begin with spaces.  \n"
    for noun, parents in KINDS.items():
        places[noun] = len(text)
        above = "".join(f" @ {places[parent]:08d} n 0000" for parent in parents)
        text += f"{places[noun]:08d} 03 n 01 {noun} 0 {len(parents):03d}{above} | what a {noun} is  \n"
    (tmp_path / "data.noun").write_text(text)
    lines = [
        f"{noun} n {len(senses)} 1 @ {len(senses)} 0 {' '.join(f'{places[each]:08d}' for each in senses)}  \n"
        for noun, senses in sorted(SENSES.items())
    ]
    (tmp_path / "index.noun").write_text("  1 A licence.  \n" + "".join(lines))
    (tmp_path / "noun.exc").write_text("men man\n")
    return tmp_path


def test_nearness_is_that_of_wu_and_palmer(folder):
    read = WordNetNouns(folder)
    one = {noun: read.synsets(noun)[0] for noun in KINDS}
    assert read.wup(one["chair"], one["chair"]) == 1
    assert read.wup(one["chair"], one["sofa"]) == 2 * 4 / (5 + 5)  # both are seats, the fourth from the root
    assert read.wup(one["chair"], one["table"]) == 2 * 3 / (5 + 4)
    assert read.wup(one["chair"], one["seat"]) == read.wup(one["seat"], one["chair"]) == 2 * 4 / (5 + 4)
    assert read.wup(one["chair"], one["man"]) == 2 * 1 / (5 + 2)


def test_nouns_are_found_as_people_write_them(folder):
    read = WordNetNouns(folder)
    assert read.synsets("Chairs") == read.synsets("chair") and len(read.synsets("chair")) == 2
    assert read.synsets("men") == read.synsets("man") and read.synsets("garbage bins") == read.synsets("thing")
    assert read.synsets("red") == ()


@pytest.fixture
def small(folder, monkeypatch):
    monkeypatch.setenv(WORDNET_VARIABLE, str(folder))
    word_similarity.cache_clear()
    yield
    word_similarity.cache_clear()


def test_scores(small):
    def wups(threshold, answer, truth):
        return score([f"wups@{threshold}"], [answer], [truth])[f"wups@{threshold}"] / 100

    assert wups("0.0", "sofa", "chair") == pytest.approx(0.8)
    assert wups("0.9", "sofa", "chair") == pytest.approx(0.08)
    assert wups("0.0", "Chair, table", "table, chair") == 1
    assert wups("0.0", "chair", "chair, table") == pytest.approx(2 / 3)  # of the table 2/3 is answered, of the chair 1
    assert wups("0.0", "chair, table, sofa", "chair") == pytest.approx(2 / 3 * 0.8)
    assert wups("0.0", "red", "blue") == 0 and wups("0.9", "red", "red") == 1
    assert wups("0.0", "sofa", ["table", "chair"]) == pytest.approx(0.8)
    assert "threshold:0.9|below:0.1" in score(["wups@0.9"], ["a"], ["b"])["signatures"]["wups@0.9"]


def test_without_wordnet_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv(WORDNET_VARIABLE, str(tmp_path))
    word_similarity.cache_clear()
    assert wordnet_folder() is None
    with pytest.raises(UserError, match=r"WUPS needs WordNet.*apt-get install wordnet-base.*WNSEARCHDIR"):
        score(["wups@0.9"], ["chair"], ["sofa"])


@pytest.mark.skipif(wordnet_folder() is None, reason="WordNet is not installed")
def test_the_real_wordnet():
    read = wordnet_nouns()
    # As printed in NLTK's documentation of WordNet: dog.n.01 and cat.n.01.
    assert read.wup(read.synsets("dog")[0], read.synsets("cat")[0]) == pytest.approx(0.857142, abs=1e-6)
    assert word_similarity("television", "tv") == 1 and word_similarity("garbage cans", "trash can") == 1
    assert word_similarity("women", "woman") == 1
    for one, other in (("chair", "sofa"), ("table", "desk"), ("wall", "cup")):
        assert word_similarity(one, other) == word_similarity(other, one) < 1
