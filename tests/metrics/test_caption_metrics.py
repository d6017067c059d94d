"""Captioning scores against the COCO caption evaluation, METEOR 1.5 and nltk, and by hand.

`golden/captions.json` holds made-up captions and what other programs say of them:
- "pycocoevalcap": that package's 1.2 BLEU, ROUGE-L and CIDEr(-D) after its Stanford tokenizer, times 100;
- "meteor_1_5": METEOR 1.5, modules exact and stem of weight 1, α 0.9, β 3, γ 0.5, δ 0.5 (all words alike);
- "nltk": nltk 3.10.4's meteor_score, Snowball's English stemmer, a WordNet that knows no synonym.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repository import GOLDEN
from unrolled.metrics import CiderD, Meteor, RougeL, score, tokenize_caption
from unrolled.metrics.captioning import lcs_length, min_chunks

EXPECTED = json.loads((GOLDEN / "captions.json").read_text(encoding="utf-8"))
CAPTIONS = EXPECTED["predictions"], EXPECTED["references"]
WORDS = st.lists(st.sampled_from("abcd"), max_size=7)


@pytest.mark.parametrize("name", EXPECTED["pycocoevalcap"])
def test_corpus_scores_are_those_of_the_coco_evaluation(name: str) -> None:
    assert score([name], *CAPTIONS)[name] == pytest.approx(EXPECTED["pycocoevalcap"][name], rel=1e-8)


@pytest.mark.parametrize("metric", [RougeL(), CiderD()])
def test_scores_of_captions_are_those_of_the_coco_evaluation(metric: RougeL | CiderD) -> None:
    assert metric.sentence_scores(*CAPTIONS) == pytest.approx(EXPECTED["sentences"][metric.key])


def test_meteor_is_that_of_meteor_1_5_with_the_same_modules() -> None:
    assert Meteor().sentence_scores(*CAPTIONS) == pytest.approx(EXPECTED["meteor_1_5"]["sentences"])
    assert score(["meteor"], *CAPTIONS)["meteor"] == pytest.approx(EXPECTED["meteor_1_5"]["corpus"])


def test_meteor_is_that_of_nltk_where_words_are_matched_alike() -> None:
    ours, theirs = Meteor().sentence_scores(*CAPTIONS), EXPECTED["nltk"]["meteor"]
    # nltk matches from the end without regard to chunks: with three "a" on one side it makes one too many.
    differing = [place for place, (our, their) in enumerate(zip(ours, theirs, strict=True)) if abs(our - their) > 1e-9]
    assert differing == [7]
    assert ours[7] > theirs[7]


def test_meteor_worked_by_hand() -> None:
    # 5 of 6 words written are found, 5 of 7 expected; "the cat", "sits" and "the mats" are chunks.
    result = Meteor().compute(predictions=["the cat sits by the mats"], references=["The cat sat on the mat, sitting."])
    precision, recall = 5 / 6, 5 / 7
    mean = 10 * precision * recall / (recall + 9 * precision)
    assert result["meteor"] == pytest.approx(100 * mean * (1 - 0.5 * (3 / 5) ** 3))
    assert "modules:exact,stem" in result["signature"]
    # The same words in the same order are one chunk: 0.5 / 6³ is lost.
    assert score(["meteor"], ["a b c d e f"], ["a b c d e f"])["meteor"] == pytest.approx(100 * (1 - 0.5 / 6**3))


def test_meteor_of_a_corpus_adds_up_the_best_references() -> None:
    predictions, references = ["a b", "c d e"], [["x", "a b c"], ["c", "c d e f"]]
    # 2 and 3 matches, a chunk each, 5 words written, 3 + 4 expected.
    mean = 5 / (0.9 * 7 + 0.1 * 5)
    expected = 100 * mean * (1 - 0.5 * (2 / 5) ** 3)
    assert score(["meteor"], predictions, references)["meteor"] == pytest.approx(expected)


@settings(max_examples=150, deadline=None)
@given(WORDS, WORDS)
def test_chunks_are_the_fewest_of_all_matchings(ours: list[str], theirs: list[str]) -> None:
    matches = (Counter(ours) & Counter(theirs)).total()

    def counts() -> list[int]:
        found = []
        for places in itertools.combinations(range(len(ours)), matches):
            for targets in itertools.permutations(range(len(theirs)), matches):
                if all(ours[i] == theirs[j] for i, j in zip(places, targets, strict=True)):
                    pairs = list(zip(places, targets, strict=True))
                    joined = sum(b == (a[0] + 1, a[1] + 1) for a, b in itertools.pairwise(pairs))
                    found.append(matches - joined)
        return found

    if matches <= 4:
        assert min_chunks(ours, theirs) == min(counts())


@given(WORDS, WORDS)
def test_common_subsequence_is_that_of_the_table(ours: list[str], theirs: list[str]) -> None:
    table = [[0] * (len(theirs) + 1) for _ in range(len(ours) + 1)]
    for i, j in itertools.product(range(len(ours)), range(len(theirs))):
        same = ours[i] == theirs[j]
        table[i + 1][j + 1] = table[i][j] + 1 if same else max(table[i][j + 1], table[i + 1][j])
    assert lcs_length(ours, theirs) == table[-1][-1]


def test_rouge_l_worked_by_hand() -> None:
    # Lin 2004, section 3.1: "police kill the gunman" and "the gunman kill police" share 3 and 2 words in order.
    reference = "police killed the gunman"
    precision = recall = 3 / 4
    assert score(["rouge_l"], ["police kill the gunman"], [reference])["rouge_l"] == pytest.approx(75)
    assert score(["rouge_l"], ["the gunman kill police"], [reference])["rouge_l"] == pytest.approx(50)
    # Precision of the short reference, recall of it too: the best of each, whichever reference it is from.
    precision, recall = 3 / 4, 1.0
    expected = 100 * (1 + 1.44) * precision * recall / (recall + 1.44 * precision)
    value = score(["rouge_l"], ["police kill the gunman"], [[reference, "kill"]])["rouge_l"]
    assert value == pytest.approx(expected)


def test_cider_d_worked_by_hand() -> None:
    # Two pictures share "a"; "cat" and "dog" stand in one each and weigh log 2, "a" log 1 = 0, and pairs log 2.
    # "a cat" equals its reference in words and in pairs; there are no triples: half of 1000.
    same = CiderD().sentence_scores(["a cat", "a dog"], [["a cat"], ["a dog"]])
    assert same == pytest.approx([500, 500])
    # A word more: "cat cat" has 2 of "cat", clipped to 1, cosine 1/2 · 1 in words; no pair is shared; as long.
    assert CiderD().sentence_scores(["cat cat", "a dog"], [["a cat"], ["a dog"]])[0] == pytest.approx(1000 / 4 / 2)
    # Lengths that differ by 6 = σ cost a factor exp(−1/2): of words 1/√7 is left.
    long = "cat " + "x1 x2 x3 x4 x5 x6"
    expected = 1000 / 4 / math.sqrt(7) * math.exp(-0.5)
    assert CiderD().sentence_scores([long, "a dog"], [["cat"], ["a dog"]])[0] == pytest.approx(expected)


def test_one_picture_alone_has_no_rare_words() -> None:
    assert score(["cider_d"], ["a cat"], ["a cat"])["cider_d"] == 0


def test_bleu_of_captions_takes_the_nearest_length_and_every_reference() -> None:
    # 3 words written; lengths 2 and 4 are equally near, the shorter counts.  "a" twice: once in each reference.
    result = score(["bleu_1", "bleu_2"], ["a a cat"], [["a dog", "the cat sat a"]])
    assert result["bleu_1"] == pytest.approx(100 * 2 / 3)
    assert result["bleu_2"] == 0
    assert score(["bleu_1"], ["cat"], ["the cat sat"])["bleu_1"] == pytest.approx(100 * math.exp(1 - 3))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The dog's toys, aren't they?", "the dog 's toys are n't they"),
        ("He’ll go; I'd stay - we've time...", "he 'll go i 'd stay we 've time"),
        ("A T-shirt (red) for $ 3.50!", "a t-shirt ( red ) for $ 3.50"),
        ("You cannot; they're gonna wanna.", "you can not they 're gon na wan na"),
        ('“Stop” at 5 o\'clock in the U.S. -- "now"', "stop at 5 o'clock in the u.s. now"),
        ("1,000 3-wheelers &amp; Straßen", "1,000 3-wheelers & straßen"),
        (" . ", ""),
        ("", ""),
    ],
)
def test_words_of_captions_are_those_of_the_penn_treebank(text: str, words: str) -> None:
    assert list(tokenize_caption(text)) == words.split()
