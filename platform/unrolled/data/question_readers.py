"""Readers of questions about photographs: VQA, Visual7W, easy-VQA, tables and built-in scenes.

VQA, versions 1 and 2 (Antol et al. 2015; Goyal et al. 2017), in files as published:

    v2_OpenEnded_mscoco_train2014_questions.json
        "questions": [{"question_id", "image_id", "question"}]
    v2_mscoco_train2014_annotations.json
        "annotations": [{"question_id", "answer_type", "answers": [{"answer"}, …]}]

Version 1 has no `v2_` before, and questions with `multiple_choices` in files of another name. Photographs are called
`COCO_train2014_000000000009.jpg` and are in the folder, in `images`, or in a `train2014` in either.

Visual7W (Zhu et al. 2016), `dataset.json`, answered by texts or by boxes:

    {"dataset": "v7w_telling", "images": [{"image_id", "filename", "split", "qa_pairs": [
        {"qa_id", "image_id", "type", "question", "answer", "multiple_choices": [three wrong ones]}]}]}

The file for pointing has box ids in place of texts, and a list `"boxes": [{"box_id", "image_id", "name", "x", "y",
"width", "height"}]` beside `images`. Photographs are in the folder `images`.

easy-VQA is the package `easy-vqa`: images of one coloured shape, and questions with 13 answers. It has train and test;
every tenth training image is for validation here.

Tables are a folder of parquet, JSON lines or CSV files, an address, or a hub id.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset

from unrolled.config.vqa import PointingData, QuestionData
from unrolled.data import builtin_scenes
from unrolled.data.caption_readers import PhotoTable, has_rows
from unrolled.data.images import UnreadableImage, image_size, photo_paths, scene_photos, select_photos
from unrolled.data.questions import (
    KINDS,
    SIDES,
    Box,
    Question,
    QuestionSet,
    caption_questions,
    check_unique,
    drop_empty,
    format_box,
    is_inside,
    join_question_sets,
    make_question,
)
from unrolled.data.sources import get_split, open_split, read_json, split_aliases
from unrolled.errors import UserError, did_you_mean, listing

FOLD_SPLITS = ("train", "validation")
"""Splits that folds are made of."""


def open_questions(data: QuestionData, split: str) -> QuestionSet:
    """Opens one split: `train`, `validation`, `test`, or another one of the source.

    Raises:
        UserError: no such source or split, files in none of the known forms, invalid questions, answers, candidates or
            boxes, or no question with an answer.
    """
    splits = data.splits.model_dump()
    if data.folds is not None and split in FOLD_SPLITS:
        questions = _open_fold(
            data, data.folds, [splits[name] for name in FOLD_SPLITS], validates=split == "validation"
        )
    else:
        questions = _open_split(data, splits.get(split, split))
    return questions if data.limit is None else questions.select_photos(range(min(data.limit, len(questions))))


def _open_fold(data: QuestionData, folds: int, splits: Sequence[str], *, validates: bool) -> QuestionSet:
    """Joins splits and returns the photographs of `data.fold`, or all others. Photographs of one name stay together."""
    parts = [_open_split(data, split) for split in dict.fromkeys(splits)]
    names = [name for part in parts for name in part.names]
    order = sorted(set(names), key=lambda name: hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest())
    chosen = set(order[data.fold :: data.folds])
    rows = [row for row, name in enumerate(names) if (name in chosen) == validates]
    if not rows:
        raise UserError(f"data.folds: {folds} is more than the {len(order)} photographs of {data.source}.")
    return drop_empty(join_question_sets(parts), f"data.source: {data.source}").select_photos(rows)


def _open_split(data: QuestionData, split: str) -> QuestionSet:
    place = f"data.source: {data.source}, split {split!r}"
    return drop_empty(_read(data, split, place), place)


def _read(data: QuestionData, split: str, place: str) -> QuestionSet:
    is_folder = Path(data.source).expanduser().is_dir()
    if isinstance(data, PointingData) and data.captions:
        return caption_questions(data, split)
    if data.source == builtin_scenes.NAME:
        return _read_scenes(data, split)
    if is_folder and (questions := _read_visual7w(data, split)):
        return questions
    if data.pointing:
        raise UserError(f"{place}: has no dataset.json with boxes, from which a pointing task learns.")
    if data.source == EASY_VQA:
        return _read_easy_vqa(split)
    if is_folder and (questions := _read_vqa(data, split)):
        return questions
    return _read_table(data, split)


def _read_scenes(data: QuestionData, split: str) -> QuestionSet:
    get_split(builtin_scenes.SIZES, split, builtin_scenes.NAME)
    questions: list[Question] = []
    boxes: dict[str, Box] = {}
    for row, scene in enumerate(builtin_scenes.scenes()[split]):
        if data.pointing:
            for asked in builtin_scenes.pointing_questions(scene):
                ids = {box: f"{split}-{len(boxes) + i}" for i, box in enumerate(asked.choices)}
                boxes |= {id: box for box, id in ids.items()}
                choices = list(ids.values())
                id = f"{split}-{len(questions)}"
                questions.append(make_question(id, row, asked.question, [ids[asked.answer]], choices))
        else:
            for told in builtin_scenes.telling_questions(scene):
                id = f"{split}-{len(questions)}"
                questions.append(make_question(id, row, told.question, [told.answer], told.choices))
    names = [f"{builtin_scenes.NAME}/{split}/{row}.png" for row in range(builtin_scenes.SIZES[split])]
    return QuestionSet(scene_photos(split), names, questions, boxes)


QUESTIONS, ANNOTATIONS = "_questions", "_annotations"


def _read_vqa(data: QuestionData, split: str) -> QuestionSet | None:
    """Reads one split of VQA; `None` if the folder has no such files. Questions have ten answers; `kind` is the type of
    the answer."""
    folder = Path(data.source).expanduser()
    files = _files(folder, QUESTIONS)
    if not files:
        return None
    file = files[_choose_file(files, split, folder)]
    content = _content(file, "questions")
    annotations = _annotations(folder, file)
    subtype = str(content.get("data_subtype", "")).replace("-dev", "")
    is_abstract = content.get("data_type", "mscoco") != "mscoco"
    form = f"{content['data_type']}_{subtype}_{{:012d}}.png" if is_abstract else f"COCO_{subtype}_{{:012d}}.jpg"
    questions, images = [], sorted({_number(each, "image_id", file) for each in content["questions"]})
    rows = {id: row for row, id in enumerate(images)}
    for each in content["questions"]:
        id = _number(each, "question_id", file)
        annotation = annotations.get(id, {})
        answers = [str(person.get("answer", "")) for person in annotation.get("answers", ())] or [""]
        text, choices = str(each.get("question", "")), [str(word) for word in each.get("multiple_choices", ())]
        kind = annotation.get("answer_type")
        questions.append(make_question(str(id), rows[each["image_id"]], text, answers, choices, kind))
    questions.sort(key=lambda each: each.photo)
    names = [form.format(id) for id in images]
    return QuestionSet(photo_paths(data.source, data.images, names, subtype), names, questions)


def _files(folder: Path, ending: str) -> dict[str, Path]:
    """Returns the files with an ending, in the folder or one below, by the rest of their names."""
    files = sorted([*folder.glob(f"*{ending}.json"), *folder.glob(f"*/*{ending}.json")])
    return {file.stem.removesuffix(ending): file for file in files}


def _choose_file(files: dict[str, Path], split: str, folder: Path) -> str:
    """Returns the file with the name of a split, or with a word in its name that is the split, year included or not."""
    if split in files:
        return split
    pattern = "|".join(map(re.escape, split_aliases(split)))
    matches = [name for name in files if any(re.fullmatch(rf"({pattern})\d*", word) for word in name.split("_"))]
    if len(matches) != 1:
        what = "several files" if matches else "no questions"
        raise UserError(f"data.splits: {folder} has {what} for split {split!r}; name one of {listing(files)}.")
    return matches[0]


def _annotations(folder: Path, questions: Path) -> dict[int, Any]:
    """Returns the annotations of a file of questions by question id."""
    key = re.sub(r"(OpenEnded|MultipleChoice)_", "", questions.stem.removesuffix(QUESTIONS))
    files = _files(folder, ANNOTATIONS)
    if key not in files:
        raise UserError(f"{questions}: there is no {key}{ANNOTATIONS}.json with its answers in {folder}.")
    content = _content(files[key], "annotations")
    return {_number(each, "question_id", files[key]): each for each in content["annotations"]}


def _content(file: Path, key: str) -> dict[str, Any]:
    content = read_json(file)
    rows = content.get(key) if isinstance(content, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows) or not rows:
        raise UserError(f"{file}: is not a file of VQA; it has no list of {key}.")
    checked: dict[str, Any] = content
    return checked


def _number(row: dict[str, Any], key: str, file: Path) -> int:
    value = row.get(key)
    if not isinstance(value, int):
        raise UserError(f"{file}: {key} holds {value!r}, not a number.")
    return value


def _read_visual7w(data: QuestionData, split: str) -> QuestionSet | None:
    """Reads one split of Visual7W; `None` if the folder has no such file."""
    folder = Path(data.source).expanduser()
    contents = {file: read_json(file) for file in sorted(folder.glob("dataset*.json"))}
    contents = {file: content for file, content in contents.items() if has_rows(content, "images", "qa_pairs")}
    if not contents:
        return None
    matches = [file for file, content in contents.items() if ("boxes" in content) == data.pointing]
    if len(matches) != 1:
        names = listing(file.name for file in matches or contents)
        if matches:
            raise UserError(f"data.source: {folder} has {names}; keep one of them.")
        asks, wants = ("in words", "boxes") if data.pointing else ("by boxes", "words")
        raise UserError(f"{folder / names}: is answered {asks}, and the task wants {wants}.")
    return _Visual7WFile(matches[0], contents[matches[0]]).split(data, split)


class _Visual7WFile:
    """The content of a file of Visual7W, checked."""

    def __init__(self, file: Path, content: dict[str, Any]) -> None:
        self._file, self._images = file, content["images"]
        self._boxes = self._read_boxes(content.get("boxes", []))
        self._pointing = "boxes" in content

    def split(self, data: QuestionData, split: str) -> QuestionSet:
        """Returns the questions of one split."""
        chosen = [image for image in self._images if image.get("split") in split_aliases(split)]
        if not chosen:
            existing = sorted({str(image.get("split")) for image in self._images})
            raise UserError(f"data.splits: {self._file} has no split {split!r}; it has {listing(existing)}.")
        ids = (str(pair.get("qa_id")) for image in self._images for pair in image.get("qa_pairs", []))
        check_unique(ids, str(self._file))  # over all splits, so that a result file needs no split
        names = [str(self._value(image, "filename", str, "an image")) for image in chosen]
        paths = photo_paths(data.source, data.images, names)
        rows = {str(image.get("image_id")): row for row, image in enumerate(chosen)}
        questions = [
            self._question(pair, row, str(image.get("image_id")))
            for row, image in enumerate(chosen)
            for pair in image.get("qa_pairs", [])
        ]
        boxes = {id: box for id, (image, box) in self._boxes.items() if image in rows}
        self._check_inside(boxes, rows, paths)
        return QuestionSet(paths, names, questions, boxes)

    def _question(self, pair: dict[str, Any], row: int, image: str) -> Question:
        id = str(self._value(pair, "qa_id", int | str, "a question"))
        place = f"qa_id {id}"
        text = self._value(pair, "question", str, place)
        answer, wrong = pair.get("answer"), pair.get("multiple_choices")
        if answer is None:
            raise UserError(f"{self._file}, {place}: has no answer.")
        if not isinstance(wrong, list) or not wrong:
            raise UserError(f"{self._file}, {place}: has no candidates (multiple_choices) besides the answer.")
        kind = pair.get("type")
        if kind not in KINDS:
            close = did_you_mean(str(kind), KINDS)
            raise UserError(f"{self._file}, {place}: type {kind!r} is not known; accepted is {listing(KINDS)}.{close}")
        for candidate in [answer, *wrong]:
            self._check_candidate(candidate, image, place)
        return make_question(id, row, text, [str(answer)], [str(candidate) for candidate in wrong], kind)

    def _check_candidate(self, candidate: object, image: str, place: str) -> None:
        if not isinstance(candidate, str | int) or isinstance(candidate, bool):
            raise UserError(f"{self._file}, {place}: {candidate!r} is neither words nor the id of a box.")
        if not self._pointing:
            return
        if str(candidate) not in self._boxes:
            raise UserError(f"{self._file}, {place}: candidate {candidate} is not among the boxes.")
        box_image, _ = self._boxes[str(candidate)]
        if box_image != image:
            raise UserError(f"{self._file}, {place}: box {candidate} is of image {box_image}, not of {image}.")

    def _read_boxes(self, rows: Sequence[dict[str, Any]]) -> dict[str, tuple[str, Box]]:
        """Returns the image and the position of each box, by id."""
        boxes: dict[str, tuple[str, Box]] = {}
        for row in rows:
            id = str(self._value(row, "box_id", int | str, "a box"))
            x, y, width, height = (float(self._value(row, side, int | float, f"box {id}")) for side in SIDES)
            if id in boxes:
                raise UserError(f"{self._file}: box_id {id} stands there twice; every box needs its own.")
            if not (math.isfinite(x + y + width + height) and width > 0 and height > 0):
                raise UserError(f"{self._file}, box {id}: {format_box((x, y, width, height))} holds no pixel.")
            boxes[id] = str(row.get("image_id")), (x, y, width, height)
        return boxes

    def _check_inside(self, boxes: dict[str, Box], rows: dict[str, int], paths: Sequence[Path]) -> None:
        sizes: dict[int, tuple[int, int] | None] = {}
        for id, box in boxes.items():
            row = rows[self._boxes[id][0]]
            if row not in sizes:
                sizes[row] = _size(paths[row])
            if (size := sizes[row]) and not is_inside(box, size):
                raise UserError(
                    f"{self._file}, box {id}: {format_box(box)} reaches beyond {paths[row].name}, "
                    f"{size[0]} × {size[1]}; boxes are in pixels of the stored photograph."
                )

    def _value(self, row: dict[str, Any], key: str, kind: Any, place: str) -> Any:
        value = row.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            has = "nothing" if value is None else repr(value)
            wanted = {str: "text", int | float: "a number"}.get(kind, "a number or text")
            raise UserError(f"{self._file}, {place}: {key} holds {has}, not {wanted}.")
        return value


def _size(path: Path) -> tuple[int, int] | None:
    try:
        return image_size(path)
    except UnreadableImage:  # reported when photographs are read
        return None


EASY_VQA = "easy-vqa"
VALIDATION_EVERY = 10
SHAPES, YES_NO = ("circle", "rectangle", "triangle"), ("yes", "no")


def _read_easy_vqa(split: str) -> QuestionSet:
    """Reads one split of easy-VQA; raises `UserError` where there is no such split or the package is not installed."""
    try:
        import easy_vqa as package
    except ModuleNotFoundError:
        raise UserError(
            f"data.source: {EASY_VQA} needs its package, which is not installed: `pip install 'unrolled[easy-vqa]'`."
        ) from None
    train = package.get_train_questions, package.get_train_image_paths
    test = package.get_test_questions, package.get_test_image_paths
    read, read_paths = get_split({"train": train, "validation": train, "test": test}, split, EASY_VQA)
    paths: dict[int, str] = read_paths()
    validates = split == "validation"
    ids = sorted(id for id in paths if split == "test" or (id % VALIDATION_EVERY == 0) == validates)
    rows = {id: row for row, id in enumerate(ids)}
    questions = [
        make_question(f"{split}-{number}", rows[id], question, [answer], kind=_answer_type(answer))
        for number, (question, answer, id) in enumerate(zip(*read(), strict=True))
        if id in rows
    ]
    questions.sort(key=lambda each: each.photo)
    names = [f"{EASY_VQA}/{split}/{id}.png" for id in ids]
    return QuestionSet([Path(paths[id]) for id in ids], names, questions)


def _answer_type(answer: str) -> str:
    return "yes/no" if answer in YES_NO else "shape" if answer in SHAPES else "colour"


def _read_table(data: QuestionData, split: str) -> QuestionSet:
    """Opens one split of a table with one question per row; rows with one photograph share it. Raises `UserError` as
    `sources.open_split`, or for values of another kind."""
    columns = {key: column for key, column in data.columns.model_dump().items() if column is not None}
    rows = open_split(data.source, split, {f"columns.{key}": column for key, column in columns.items()})
    place = f"{data.source}, split {split!r}"
    table = PhotoTable(rows, data.columns.image, data.images or data.source, place)
    photo_of_row, first_rows = _unique_photos(table)
    questions = [
        _Row(cells, f"{place}, row {row}").question(f"{split}-{row}", photo_of_row[row])
        for row, cells in enumerate(_cells(rows, columns))
    ]
    questions.sort(key=lambda each: each.photo)
    return QuestionSet(select_photos(table, first_rows), [table.names[row] for row in first_rows], questions)


class _Row:
    """One row of a table. `cells`: values by key of `data.columns`."""

    def __init__(self, cells: dict[str, Any], place: str) -> None:
        self._cells, self._place = cells, place

    def question(self, id: str, photo: int) -> Question:
        own_id, kind, choices = (self._cells.get(key) for key in ("id", "kind", "choices"))
        candidates = [] if choices is None else self._texts("choices", choices)
        if "choices" in self._cells and not candidates:
            raise UserError(f"{self._place}: has no candidates (data.columns.choices).")
        (question,) = self._texts("question", self._cells["question"])
        kind = None if kind is None else self._texts("kind", kind)[0]
        id = id if own_id is None else str(own_id)
        return make_question(id, photo, question, self._answers(candidates), candidates, kind)

    def _answers(self, choices: list[str]) -> list[str]:
        """Returns one answer or several; a number is an index of candidates."""
        value = self._cells["answer"]
        if isinstance(value, int) and choices:
            if not 0 <= value < len(choices):
                raise UserError(f"{self._place}: answer {value} is no place among {len(choices)} candidates.")
            return [choices[value]]
        return self._texts("answer", value) or [""]

    def _texts(self, key: str, value: Any) -> list[str]:
        values = value if isinstance(value, list) else ["" if value is None else value]
        texts: list[Any] = [each.get("answer") if isinstance(each, dict) else each for each in values]
        for text in texts:
            if not isinstance(text, str):
                raise UserError(f"{self._place}: column of data.columns.{key} holds {type(text).__name__}, not text.")
        return texts


def _cells(rows: Dataset, columns: dict[str, str]) -> list[dict[str, Any]]:
    """Returns the values of every row except the photograph, by key; classes by their names."""
    cells = {}
    for key, column in columns.items():
        if key != "image":
            values, feature = list(rows[column]), rows.features[column]
            if isinstance(feature, datasets.ClassLabel):
                values = [None if value is None else feature.int2str(value) for value in values]
            cells[key] = values
    return [dict(zip(cells, values, strict=True)) for values in zip(*cells.values(), strict=True)]


def _unique_photos(table: PhotoTable) -> tuple[list[int], list[int]]:
    """Returns the photograph of each row, and the first row of each photograph."""
    keys = [hashlib.sha256(image).digest() if isinstance(image, bytes) else str(image).encode() for image in table]
    first_rows: dict[bytes, int] = {}
    for row, key in enumerate(keys):
        first_rows.setdefault(key, row)
    numbers = {key: number for number, key in enumerate(first_rows)}
    return [numbers[key] for key in keys], list(first_rows.values())
