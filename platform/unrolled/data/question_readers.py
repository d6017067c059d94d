"""Readers of data sets of questions about photographs: VQA, Visual7W, easy-VQA and tables.

The files of VQA, versions 1 and 2, as they are published.

    v2_OpenEnded_mscoco_train2014_questions.json
        "questions": [{"question_id", "image_id", "question"}]
    v2_mscoco_train2014_annotations.json
        "annotations": [{"question_id", "answer_type", "answers": [{"answer"}, …]}]

Version 1 has no `v2_` before, and questions with `multiple_choices` in files of another name. Photographs are called
`COCO_train2014_000000000009.jpg` and lie in the folder, in `images`, or in a `train2014` in either.

Antol et al., VQA: Visual Question Answering, ICCV 2015; Goyal et al., Making the V in VQA Matter, CVPR 2017.

Visual7W's files as they are published: `dataset.json`, of questions answered in words or by boxes.

    {"dataset": "v7w_telling", "images": [{"image_id", "filename", "split", "qa_pairs": [
        {"qa_id", "image_id", "type", "question", "answer", "multiple_choices": [three wrong ones]}]}]}

The file for pointing has box ids in place of words, and lists `"boxes": [{"box_id", "image_id", "name", "x", "y",
"width", "height"}]` beside `images`. Photographs lie in the folder `images`.

Zhu, Groth, Bernstein and Fei-Fei, Visual7W: Grounded Question Answering in Images, CVPR 2016.

easy-VQA of its package `easy-vqa`: pictures of one coloured shape, and questions with 13 answers.

The package splits in train and test; of its training pictures every tenth is for validation here.

Questions about photographs in tables: a folder of parquet, JSON lines or CSV files, an address, or a hub id.

Questions about photographs of any source, opened alike.
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
from unrolled.data import scenes
from unrolled.data.caption_readers import PhotoTable
from unrolled.data.images import ScenePhotos, Selected, UnreadableImage, image_size, photo_paths, read_json
from unrolled.data.questions import (
    KINDS,
    Box,
    Question,
    QuestionSet,
    caption_questions,
    drop_empty,
    join_question_sets,
    make_question,
)
from unrolled.data.scenes import SIZES, pointing, telling
from unrolled.data.sources import get_split, open_split, split_aliases
from unrolled.errors import UserError, did_you_mean, listing

QUESTIONS, ANNOTATIONS = "_questions", "_annotations"


def vqa(data: QuestionData, split: str) -> QuestionSet | None:
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
        asked.append(
            make_question(str(id), rows[each["image_id"]], text, answers or [""], [str(word) for word in wrong], kind)
        )
    asked.sort(key=lambda each: each.photo)
    names = [form.format(id) for id in images]
    return QuestionSet(photo_paths(data.source, data.images, names, subtype), names, asked)


def _files(folder: Path, ending: str) -> dict[str, Path]:
    """Returns the files with that ending, in the folder or one below, by what stands before it."""
    found = sorted([*folder.glob(f"*{ending}.json"), *folder.glob(f"*/*{ending}.json")])
    return {file.stem.removesuffix(ending): file for file in found}


def _chosen(known: dict[str, Path], split: str, folder: Path) -> str:
    """A split is named by a file, or by a word in it with or without its year."""
    if split in known:
        return split
    pattern = "|".join(map(re.escape, split_aliases(split)))
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


EDGE = 2.0
"""Pixels by which a box may reach beyond its photograph: published boxes are rounded."""
SIDES = ("x", "y", "width", "height")


def visual7w(data: QuestionData, split: str) -> QuestionSet | None:
    """Reads one split; `None` if the folder has no such file."""
    folder = Path(data.source).expanduser()
    contents = {file: read_json(file) for file in sorted(folder.glob("dataset*.json"))}
    contents = {file: content for file, content in contents.items() if _is_visual7w(content)}
    if not contents:
        return None
    fitting = [file for file, content in contents.items() if ("boxes" in content) == data.pointing]
    if len(fitting) != 1:
        names = listing(file.name for file in fitting or contents)
        if fitting:
            raise UserError(f"data.source: {folder} has {names}; keep one of them.")
        asks, wants = ("in words", "boxes") if data.pointing else ("by boxes", "words")
        raise UserError(f"{folder / names}: is answered {asks}, and the task wants {wants}.")
    return _File(fitting[0], contents[fitting[0]]).split(data, split)


class _File:
    """A file that was read, and the checks of what stands in it."""

    def __init__(self, file: Path, content: dict[str, Any]) -> None:
        self._file, self._images = file, content["images"]
        self._boxes = self._read_boxes(content.get("boxes", []))
        self._pointing = "boxes" in content

    def split(self, data: QuestionData, split: str) -> QuestionSet:
        """Returns the questions of one split."""
        chosen = [image for image in self._images if image.get("split") in split_aliases(split)]
        if not chosen:
            there = sorted({str(image.get("split")) for image in self._images})
            raise UserError(f"data.splits: {self._file} has no split {split!r}; it has {listing(there)}.")
        self._check_ids()
        names = [str(self._value(image, "filename", str, "an image")) for image in chosen]
        paths = photo_paths(data.source, data.images, names)
        rows = {str(image.get("image_id")): row for row, image in enumerate(chosen)}
        questions = [
            self._question(pair, row, str(image.get("image_id")))
            for row, image in enumerate(chosen)
            for pair in image.get("qa_pairs", [])
        ]
        boxes = {box: at for box, (owner, at) in self._boxes.items() if owner in rows}
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
        owner, _ = self._boxes[str(candidate)]
        if owner != image:
            raise UserError(f"{self._file}, {place}: box {candidate} is of image {owner}, not of {image}.")

    def _read_boxes(self, rows: Sequence[dict[str, Any]]) -> dict[str, tuple[str, Box]]:
        """Returns each box's image and place, by id."""
        boxes: dict[str, tuple[str, Box]] = {}
        for row in rows:
            id = str(self._value(row, "box_id", int | str, "a box"))
            x, y, width, height = (float(self._value(row, side, int | float, f"box {id}")) for side in SIDES)
            if id in boxes:
                raise UserError(f"{self._file}: box_id {id} stands there twice; every box needs its own.")
            if not (math.isfinite(x + y + width + height) and width > 0 and height > 0):
                raise UserError(f"{self._file}, box {id}: {_shown((x, y, width, height))} holds no pixel.")
            boxes[id] = str(row.get("image_id")), (x, y, width, height)
        return boxes

    def _check_ids(self) -> None:
        """Over all splits, so that a result file tells them apart."""
        seen: set[str] = set()
        for image in self._images:
            for pair in image.get("qa_pairs", []):
                if (id := str(pair.get("qa_id"))) in seen:
                    raise UserError(f"{self._file}: qa_id {id} stands there twice; every question needs its own.")
                seen.add(id)

    def _check_inside(self, boxes: dict[str, Box], rows: dict[str, int], paths: Sequence[Path]) -> None:
        sizes: dict[int, tuple[int, int] | None] = {}
        for id, (x, y, width, height) in boxes.items():
            row = rows[self._boxes[id][0]]
            if row not in sizes:
                sizes[row] = _size(paths[row])
            if (size := sizes[row]) is None:
                continue
            if min(x, y) < -EDGE or x + width > size[0] + EDGE or y + height > size[1] + EDGE:
                raise UserError(
                    f"{self._file}, box {id}: {_shown((x, y, width, height))} reaches beyond {paths[row].name}, "
                    f"{size[0]} × {size[1]}; boxes are in pixels of the stored photograph."
                )

    def _value(self, row: dict[str, Any], key: str, kind: Any, place: str) -> Any:
        value = row.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            has = "nothing" if value is None else repr(value)
            raise UserError(f"{self._file}, {place}: {key} holds {has}, not {_wanted(kind)}.")
        return value


def _is_visual7w(content: Any) -> bool:
    images = content.get("images") if isinstance(content, dict) else None
    return isinstance(images, list) and bool(images) and isinstance(images[0], dict) and "qa_pairs" in images[0]


def _size(path: Path) -> tuple[int, int] | None:
    try:
        return image_size(path)
    except UnreadableImage:  # which is reported when photographs are read
        return None


def _shown(box: Box) -> str:
    x, y, width, height = box
    return f"x {x:g}, y {y:g}, {width:g} × {height:g}"


def _wanted(kind: Any) -> str:
    return {str: "text", int | float: "a number"}.get(kind, "a number or text")


NAME = "easy-vqa"
VALIDATES = 10
SHAPES, VERDICTS = ("circle", "rectangle", "triangle"), ("yes", "no")


def easy_vqa(split: str) -> QuestionSet:
    """Reads one split; raises `UserError` where there is no such split or the package is not installed."""
    try:
        import easy_vqa as package
    except ModuleNotFoundError:
        raise UserError(
            f"data.source: {NAME} needs its package, which is not installed: `pip install 'unrolled[easy-vqa]'`."
        ) from None
    train = package.get_train_questions, package.get_train_image_paths
    test = package.get_test_questions, package.get_test_image_paths
    questions, paths = get_split({"train": train, "validation": train, "test": test}, split, NAME)
    found: dict[int, str] = paths()
    ids = sorted(id for id in found if split == "test" or (id % VALIDATES == 0) == (split == "validation"))
    rows = {id: row for row, id in enumerate(ids)}
    asked = [
        make_question(f"{split}-{number}", rows[id], question, [answer], kind=_kind(answer))
        for number, (question, answer, id) in enumerate(zip(*questions(), strict=True))
        if id in rows
    ]
    asked.sort(key=lambda each: each.photo)
    return QuestionSet([Path(found[id]) for id in ids], [f"{NAME}/{split}/{id}.png" for id in ids], asked)


def _kind(answer: str) -> str:
    return "yes/no" if answer in VERDICTS else "shape" if answer in SHAPES else "colour"


def question_table(data: QuestionData, split: str) -> QuestionSet:
    """Opens one split, a question a row; rows with one photograph share it.

    Raises:
        UserError: as `sources.open_split`, or a column that holds something else than it should.
    """
    named = {key: column for key, column in data.columns.model_dump().items() if column is not None}
    rows = open_split(data.source, split, {f"columns.{key}": column for key, column in named.items()})
    place = f"{data.source}, split {split!r}"
    table = PhotoTable(rows, data.columns.image, data.images or data.source, place)
    owners, firsts = _photographs(table)
    asked = [
        _Row(cells, f"{place}, row {row}").question(f"{split}-{row}", owners[row])
        for row, cells in enumerate(_cells(rows, named))
    ]
    asked.sort(key=lambda each: each.photo)
    return QuestionSet(Selected(table, firsts), [table.names[row] for row in firsts], asked)


class _Row:
    """One row. `cells`: by key of `data.columns`."""

    def __init__(self, cells: dict[str, Any], place: str) -> None:
        self._cells, self._place = cells, place

    def question(self, id: str, photo: int) -> Question:
        given, kind, choices = (self._cells.get(key) for key in ("id", "kind", "choices"))
        wrong = [] if choices is None else self._texts("choices", choices)
        if "choices" in self._cells and not wrong:
            raise UserError(f"{self._place}: has no candidates (data.columns.choices).")
        (question,) = self._texts("question", self._cells["question"])
        answers = self._answers(wrong)
        known = None if kind is None else self._texts("kind", kind)[0]
        return make_question(id if given is None else str(given), photo, question, answers, wrong, known)

    def _answers(self, choices: list[str]) -> list[str]:
        """One answer or several; a number is the place among candidates."""
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


def _cells(rows: Dataset, named: dict[str, str]) -> list[dict[str, Any]]:
    """Returns every row's values but the photograph, by key; classes by their names."""
    columns = {}
    for key, column in named.items():
        if key != "image":
            values, feature = list(rows[column]), rows.features[column]
            if isinstance(feature, datasets.ClassLabel):
                values = [None if value is None else feature.int2str(value) for value in values]
            columns[key] = values
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _photographs(table: PhotoTable) -> tuple[list[int], list[int]]:
    """Returns each row's photograph, and each photograph's first row."""
    known: dict[bytes, int] = {}
    owners: list[int] = []
    firsts: list[int] = []
    for row, image in enumerate(table):
        key = hashlib.sha256(image).digest() if isinstance(image, bytes) else str(image).encode()
        if key not in known:
            known[key] = len(firsts)
            firsts.append(row)
        owners.append(known[key])
    return owners, firsts


FOLD_SPLITS = ("train", "validation")
"""Splits that folds are dealt from."""


def open_questions(data: QuestionData, split: str) -> QuestionSet:
    """Opens one split.

    Args:
        split: `train`, `validation`, `test`, or another split of the source.

    Raises:
        UserError: no such source or split, files in none of the known forms, questions, answers, candidates or boxes
            that cannot be, or no question with an answer.
    """
    splits = data.splits.model_dump()
    if data.folds is not None and split in FOLD_SPLITS:
        asked = _fold(data, data.folds, [splits[name] for name in FOLD_SPLITS], validates=split == "validation")
    else:
        asked = _whole(data, splits.get(split, split))
    return asked if data.limit is None else asked.part(range(min(data.limit, len(asked))))


def _fold(data: QuestionData, folds: int, splits: Sequence[str], *, validates: bool) -> QuestionSet:
    """Joins splits and returns the photographs of `data.fold`, or all others. Photographs of one name stay together."""
    parts = [_whole(data, split) for split in dict.fromkeys(splits)]
    names = [name for part in parts for name in part.names]
    dealt = sorted(set(names), key=lambda name: hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest())
    chosen = set(dealt[data.fold :: data.folds])
    rows = [row for row, name in enumerate(names) if (name in chosen) == validates]
    if not rows:
        raise UserError(f"data.folds: {folds} is more than the {len(dealt)} photographs of {data.source}.")
    return drop_empty(join_question_sets(parts), f"data.source: {data.source}").part(rows)


def _whole(data: QuestionData, split: str) -> QuestionSet:
    place = f"data.source: {data.source}, split {split!r}"
    if isinstance(data, PointingData) and data.captions:
        return drop_empty(caption_questions(data, split), place)
    if data.source == scenes.NAME:
        return drop_empty(_scenes(data, split), place)
    if Path(data.source).expanduser().is_dir() and (found := visual7w(data, split)):
        return drop_empty(found, place)
    if data.pointing:
        raise UserError(f"{place}: has no dataset.json with boxes, from which a pointing task learns.")
    if data.source == NAME:
        return drop_empty(easy_vqa(split), place)
    if Path(data.source).expanduser().is_dir() and (found := vqa(data, split)):
        return drop_empty(found, place)
    return drop_empty(question_table(data, split), place)


def _scenes(data: QuestionData, split: str) -> QuestionSet:
    get_split(SIZES, split, scenes.NAME)
    questions: list[Question] = []
    boxes: dict[str, Box] = {}
    for row, scene in enumerate(scenes.scenes()[split]):
        if data.pointing:
            for asked in pointing(scene):
                ids = {box: f"{split}-{len(boxes) + place}" for place, box in enumerate(asked.choices)}
                boxes |= {name: box for box, name in ids.items()}
                own = f"{split}-{len(questions)}"
                questions.append(make_question(own, row, asked.question, [ids[asked.answer]], list(ids.values())))
        else:
            for told in telling(scene):
                questions.append(
                    make_question(f"{split}-{len(questions)}", row, told.question, [told.answer], told.choices)
                )
    names = [f"{scenes.NAME}/{split}/{row}.png" for row in range(SIZES[split])]
    return QuestionSet(ScenePhotos(split), names, questions, boxes)
