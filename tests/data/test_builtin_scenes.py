"""The built-in scenes."""

from __future__ import annotations

import numpy as np

from unrolled.data.builtin_scenes import COLOURS, PLACES, SIDE, SIZES, pointing_questions, scenes, telling_questions
from unrolled.data.images import read_image


def test_splits_share_no_caption():
    splits = scenes()
    assert {split: len(found) for split, found in splits.items()} == SIZES
    captions = [scene.caption for found in splits.values() for scene in found]
    assert len(set(captions)) == len(captions)


def test_caption_and_picture_agree():
    for scene in scenes()["test"][:50]:
        pixels = np.array(read_image(scene.png()))
        assert pixels.shape == (SIDE, SIDE, 3)
        for item in scene.objects:
            x, y, width, height = item.box
            assert tuple(pixels[y + height // 2, x + width // 2]) == COLOURS[item.colour]
            assert x // 18 + 3 * (y // 18) == item.field or PLACES[item.field] in scene.caption
            assert f"{item.colour} {item.shape} {PLACES[item.field]}" in scene.caption


def test_scenes_depend_on_the_seed_alone():
    first = scenes()["train"][0]
    assert first.caption == scenes.__wrapped__()["train"][0].caption
    assert first.png() == first.png()


def test_questions():
    kinds = set()
    for scene in scenes()["test"][:50]:
        for question in telling_questions(scene):
            kinds.add(question.kind)
            assert question.answer in question.choices
            assert len(set(question.choices)) == 4
        for question in pointing_questions(scene):
            assert question.answer in question.choices
            assert len(set(question.choices)) == 4
    assert kinds == {"what", "where", "how many", "which colour"}
