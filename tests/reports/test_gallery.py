"""The gallery of a report on photographs, and what is left out of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from captioning_runs import BROKEN, captioner, photographs
from unrolled.metrics import CiderD
from unrolled.reports.gallery import (
    MAX_PHOTO_BYTES,
    PHOTO_SIZE,
    PHOTOS_PER_KIND,
    caption_gallery,
    choose_examples,
    describe_position,
    embed_photos,
)


def texts(count):
    words = ["a dog", "a cat on a mat", "two birds", "a red kite in the sky"]
    references = [[words[i % 4], f"{words[i % 4]} today"] for i in range(count)]
    outputs = [words[i % 4] if i % 5 else words[(i + 1) % 4] for i in range(count)]
    return {"greedy": outputs, "beam": outputs[::-1]}, references


def test_best_worst_and_random_examples_are_different_ones():
    outputs, references = texts(100)
    shown = choose_examples("cider_d", outputs, references, "greedy")
    kinds = [one["as"] for one in shown.values()]
    assert [kinds.count(kind) for kind in ("best", "worst", "random")] == [PHOTOS_PER_KIND] * 3
    scores = CiderD().sentence_scores(outputs["greedy"], references)
    best, worst = ([scores[i] for i, one in shown.items() if one["as"] == kind] for kind in ("best", "worst"))
    assert best == sorted(scores, reverse=True)[:PHOTOS_PER_KIND] and worst == sorted(scores)[:PHOTOS_PER_KIND]
    assert all(one["scores"]["greedy"] == pytest.approx(scores[i], abs=0.01) for i, one in shown.items())
    assert choose_examples("cider_d", outputs, references, "greedy") == shown


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_few_examples_are_all_shown(count):
    outputs, references = texts(count)
    assert set(choose_examples("bleu_1", outputs, references, "beam")) == set(range(count))


def test_photographs_become_small_enough_for_a_page():
    noise = np.random.default_rng(1).integers(0, 255, (400, 640, 3), dtype=np.uint8)
    pictures = embed_photos({place: Image.fromarray(noise) for place in range(3 * PHOTOS_PER_KIND)})
    assert {(one.width, one.height) for one in pictures.values()} == {(PHOTO_SIZE, 140)}
    quiet = embed_photos({place: Image.new("RGB", (300, 500), "teal") for place in range(3 * PHOTOS_PER_KIND)})
    assert sum(len(one.source) for one in quiet.values()) < MAX_PHOTO_BYTES
    assert embed_photos({}) == {}


def test_places_are_told_in_words():
    weights = np.zeros(49)
    weights[0], weights[24], weights[48] = 0.2, 0.5, 0.3
    assert describe_position(weights.tolist()) == "mostly centre, 50 % in one of 49 fields"
    assert describe_position(np.eye(1, 49, 6)[0].tolist()) == "mostly upper right, 100 % in one of 49 fields"


def test_cards_hold_equal_captions_once():
    row = {"index": 4, "input": "p.jpg", "reference": "a", "references": ["a", "b"]}
    row |= {"outputs": {"greedy": "a dog", "beam": "a dog", "sample": "cats"}}
    row |= {"shown": {"as": "worst", "place": 0, "scores": {"greedy": 1.0, "beam": 1.0, "sample": 0.0}}}
    pictures = embed_photos({4: Image.new("RGB", (20, 10))})
    (group,) = caption_gallery([row, {"index": 5}], pictures, "cider_d", ["greedy", "beam", "sample"])
    (card,) = group["cards"]
    assert [[one["title"] for one in line["by"]] for line in card["captions"]] == [
        ["Greedy decoding", "Beam search"],
        ["Sampling"],
    ]
    assert card["references"] == ["a", "b"] and card["attention"] is None


def test_a_broken_photograph_is_named_and_not_scored(tmp_path):
    run = captioner(tmp_path / "runs", str(photographs(tmp_path / "photos")))
    said = run.evaluate("validation", ["greedy", "beam"], local=True).path
    results = json.loads(said.with_name("results.json").read_text(encoding="utf-8"))
    assert results["examples"] == 23
    assert list(results["unreadable"]) == [BROKEN] and "cannot be decoded" in results["unreadable"][BROKEN]
    rows = [json.loads(line) for line in said.with_name("outputs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 23 and not any(BROKEN in row["input"] for row in rows)
    page = said.read_text(encoding="utf-8")
    assert "One photograph of the split cannot be read and is not among the scored: " + BROKEN in page
    assert results["by_frequency"] == {} and "words are not counted by their frequency here" in page
    assert "in the manner of the Penn Treebank" in page and "tok:ptb-lower-nopunct" in page
    assert page.count("data:image/webp") == 23 and all("attention" in row for row in rows if "shown" in row)


def test_single_references_are_counted_by_frequency(tmp_path):
    run = captioner(tmp_path, conditioning="every")
    report = run.evaluate("test", ["greedy"], local=True).path
    results = json.loads(report.with_name("results.json").read_text(encoding="utf-8"))
    assert results["by_frequency"]["greedy"] and results["unreadable"] == {}
    page = report.read_text(encoding="utf-8")
    assert page.count("data:image/webp") == 36 and "data-attention=" not in page
