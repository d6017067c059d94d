"""Questions in the form of Visual7W's files."""

from __future__ import annotations

import json

from PIL import Image

from pictures import RED, encoded

PHOTO = encoded(Image.new("RGB", (40, 30), RED), "JPEG")


def pair(id, answer, wrong, **other):
    asked = {"qa_id": id, "image_id": 7, "type": "what", "question": "What is  this?"}
    return asked | {"answer": answer, "multiple_choices": wrong} | other


TELLING = {
    "dataset": "v7w_telling",
    "images": [
        {
            "image_id": 7,
            "filename": "v7w_7.jpg",
            "split": "train",
            "qa_pairs": [pair(1, "dog", ["cat", "cow", "pig"]), pair(2, "two", ["one", "six", "ten"], type="how")],
        },
        {"image_id": 8, "filename": "v7w_8.jpg", "split": "val", "qa_pairs": [pair(3, "hat", ["cap"], image_id=8)]},
    ],
}
POINTING = {
    "dataset": "v7w_pointing",
    "images": [
        {
            "image_id": 7,
            "filename": "v7w_7.jpg",
            "split": "train",
            "qa_pairs": [pair(1, 11, [12, 13], type="which")],
        }
    ],
    "boxes": [
        {"box_id": 11 + n, "image_id": 7, "name": "dog", "x": 5 * n, "y": 1.5, "width": 10, "height": 20}
        for n in range(3)
    ],
}


def folder(path, content):
    (path / "images").mkdir(exist_ok=True)
    for image in content["images"]:
        (path / "images" / image["filename"]).write_bytes(PHOTO)
    (path / "dataset.json").write_text(json.dumps(content))
    return str(path)
