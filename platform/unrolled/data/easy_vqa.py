"""easy-VQA of its package `easy-vqa`: pictures of one coloured shape, and questions with 13 answers.

The package splits in train and test; of its training pictures every tenth is for validation here.
"""

from __future__ import annotations

from pathlib import Path

from unrolled.data.asked import Asked, ask
from unrolled.data.sources import one_of
from unrolled.errors import UserError

NAME = "easy-vqa"
VALIDATES = 10
SHAPES, VERDICTS = ("circle", "rectangle", "triangle"), ("yes", "no")


def easy_vqa(split: str) -> Asked:
    """Reads one split; raises `UserError` where there is no such split or the package is not installed."""
    try:
        import easy_vqa as package
    except ModuleNotFoundError:
        raise UserError(
            f"data.source: {NAME} needs its package, which is not installed: `pip install 'unrolled[easy-vqa]'`."
        ) from None
    train = package.get_train_questions, package.get_train_image_paths
    test = package.get_test_questions, package.get_test_image_paths
    questions, paths = one_of({"train": train, "validation": train, "test": test}, split, NAME)
    found: dict[int, str] = paths()
    ids = sorted(id for id in found if split == "test" or (id % VALIDATES == 0) == (split == "validation"))
    rows = {id: row for row, id in enumerate(ids)}
    asked = [
        ask(f"{split}-{number}", rows[id], question, [answer], kind=_kind(answer))
        for number, (question, answer, id) in enumerate(zip(*questions(), strict=True))
        if id in rows
    ]
    asked.sort(key=lambda each: each.photo)
    return Asked([Path(found[id]) for id in ids], [f"{NAME}/{split}/{id}.png" for id in ids], asked)


def _kind(answer: str) -> str:
    return "yes/no" if answer in VERDICTS else "shape" if answer in SHAPES else "colour"
