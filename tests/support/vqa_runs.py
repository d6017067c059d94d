"""Questions about photographs of one colour, in Visual7W's form, and runs that learn them."""

from __future__ import annotations

import json

import torch
from PIL import Image

from unrolled.api import train
from unrolled.config.vqa import QuestionAnsweringConfig
from unrolled.tasks import QuestionAnswering

COLOURS = ("red", "green", "blue", "yellow", "white", "black")
SIZES = {"train": 12, "val": 6}


def questions_of(number, split, colour):
    """Two questions about a photograph; the second's answer is one of two words."""
    wrong = [other for other in COLOURS if other != colour]
    one = {
        "question": "What colour is it?",
        "answer": colour,
        "multiple_choices": wrong[number % 3 : number % 3 + 3],
    }
    two = {
        "question": "How is all of it painted, please?",
        "answer": f"dark {colour}",
        "multiple_choices": [f"dark {wrong[0]}", wrong[1], "not at all"],
    }
    return [
        {"qa_id": 10 * number + place, "image_id": number, "type": kind} | each
        for place, (kind, each) in enumerate((("what", one), ("how", two)))
    ]


def visual7w_folder(place):
    """Writes `dataset.json` and the photographs; returns the folder."""
    (place / "images").mkdir(parents=True)
    images, number = [], 0
    for split, size in SIZES.items():
        for _ in range(size):
            colour = COLOURS[number % len(COLOURS)]
            name = f"v7w_{number}.jpg"
            Image.new("RGB", (56 + number, 56), colour).save(place / "images" / name)
            pairs = questions_of(number, split, colour)
            images.append({"image_id": number, "filename": name, "split": split, "qa_pairs": pairs})
            number += 1
    (place / "dataset.json").write_text(json.dumps({"dataset": "v7w_telling", "images": images}), encoding="utf-8")
    return place


def settings(folder, **more):
    """A tiny model of colours; `more` replaces keys of `model` and `training`."""
    question = {"hidden": 12, "embedding": 8, "dropout": 0.0}
    model = {"features": {"backbone": "small"}, "encoder": {"size": 8}, "question": question, "joint": 16}
    training = {"batch_tokens": 60, "epochs": 1, "precision": "float64", **more.pop("training", {})}
    return QuestionAnsweringConfig.model_validate(
        {
            "task": "question_answering",
            "name": "colours",
            "storage": more.pop("storage", "runs"),
            "data": {"source": str(folder), "splits": {"validation": "val"}, **more.pop("data", {})},
            "model": model | more,
            "training": training,
            "evaluation": {"metrics": ["multiple_choice", "accuracy"]},
        }
    )


def made(config, folder):
    """Returns the task and its data."""
    data = QuestionAnswering.prepare(config)
    data.save(folder)
    return QuestionAnswering(config, folder), data


def model_of(task):
    """Returns a model that knows nothing, in double precision."""
    torch.manual_seed(1)
    return task.build_model().double().eval()


def learned(folder, **more):
    """Trains in this process."""
    return train(settings(folder, **more), local=True)
