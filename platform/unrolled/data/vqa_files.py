"""The files of VQA, versions 1 and 2, as they are published.

    v2_OpenEnded_mscoco_train2014_questions.json
        "questions": [{"question_id", "image_id", "question"}]
    v2_mscoco_train2014_annotations.json
        "annotations": [{"question_id", "answer_type", "answers": [{"answer"}, …]}]

Version 1 has no `v2_` before, and questions with `multiple_choices` in files of another name. Photographs are called
`COCO_train2014_000000000009.jpg` and lie in the folder, in `images`, or in a `train2014` in either.

Antol et al., VQA: Visual Question Answering, ICCV 2015; Goyal et al., Making the V in VQA Matter, CVPR 2017.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from unrolled.config.answering_data import Data
from unrolled.data.asked import Asked, ask
from unrolled.data.photo_files import photo_paths, read_json
from unrolled.data.sources import names_of
from unrolled.errors import UserError, listing

QUESTIONS, ANNOTATIONS = "_questions", "_annotations"


def vqa(data: Data, split: str) -> Asked | None:
    """Reads one split; `None` if the folder has no such files. Ten answers a question; `kind` is the answer's type."""
    folder = Path(data.source).expanduser()
    known = _files(folder, QUESTIONS)
    if not known:
        return None
    file = known[_chosen(known, split, folder)]
    content = _content(file, "questions")
    annotations = _annotations(folder, file)
    subtype = str(content.get("data_subtype", "")).replace("-dev", "")
    drawn = content.get("data_type", "mscoco") != "mscoco"
    form = f"{content['data_type']}_{subtype}_{{:012d}}.png" if drawn else f"COCO_{subtype}_{{:012d}}.jpg"
    asked, images = [], sorted({_number(each, "image_id", file) for each in content["questions"]})
    rows = {id: row for row, id in enumerate(images)}
    for each in content["questions"]:
        id = _number(each, "question_id", file)
        annotation = annotations.get(id, {})
        answers = [str(person.get("answer", "")) for person in annotation.get("answers", ())]
        kind = annotation.get("answer_type")
        text, wrong = str(each.get("question", "")), each.get("multiple_choices", ())
        asked.append(ask(str(id), rows[each["image_id"]], text, answers or [""], [str(word) for word in wrong], kind))
    asked.sort(key=lambda each: each.photo)
    names = [form.format(id) for id in images]
    return Asked(photo_paths(data.source, data.images, names, subtype), names, asked)


def _files(folder: Path, ending: str) -> dict[str, Path]:
    """Returns the files with that ending, in the folder or one below, by what stands before it."""
    found = sorted([*folder.glob(f"*{ending}.json"), *folder.glob(f"*/*{ending}.json")])
    return {file.stem.removesuffix(ending): file for file in found}


def _chosen(known: dict[str, Path], split: str, folder: Path) -> str:
    """A split is named by a file, or by a word in it with or without its year."""
    if split in known:
        return split
    pattern = "|".join(map(re.escape, names_of(split)))
    fitting = [key for key in known if any(re.fullmatch(rf"({pattern})\d*", word) for word in key.split("_"))]
    if len(fitting) != 1:
        what = "several files" if fitting else "no questions"
        raise UserError(f"data.splits: {folder} has {what} for split {split!r}; name one of {listing(known)}.")
    return fitting[0]


def _annotations(folder: Path, questions: Path) -> dict[int, Any]:
    """Returns the annotations to a file of questions by their ids."""
    key = re.sub(r"(OpenEnded|MultipleChoice)_", "", questions.stem.removesuffix(QUESTIONS))
    known = _files(folder, ANNOTATIONS)
    if key not in known:
        raise UserError(f"{questions}: there is no {key}{ANNOTATIONS}.json with its answers in {folder}.")
    content = _content(known[key], "annotations")
    return {_number(each, "question_id", known[key]): each for each in content["annotations"]}


def _content(file: Path, key: str) -> dict[str, Any]:
    content = read_json(file)
    rows = content.get(key) if isinstance(content, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows) or not rows:
        raise UserError(f"{file}: is not a file of VQA; it has no list of {key}.")
    found: dict[str, Any] = content
    return found


def _number(row: dict[str, Any], key: str, file: Path) -> int:
    value = row.get(key)
    if not isinstance(value, int):
        raise UserError(f"{file}: {key} holds {value!r}, not a number.")
    return value
