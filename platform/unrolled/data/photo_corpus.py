"""Tokenised captions of photographs, and questions about them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa

from unrolled.config.captioning import CaptionData
from unrolled.config.vqa import PointingData, QuestionData
from unrolled.data.caption_readers import open_captions
from unrolled.data.corpus import SPLITS, Corpus, TokenTable, build_corpus, check_max_length, token_rows
from unrolled.data.question_readers import open_questions
from unrolled.data.questions import Question
from unrolled.data.tokenizer import Vocabulary, learn_vocabulary
from unrolled.errors import UserError

VOCABULARY, ANSWERS = "words.json", "answers.json"


class PhotoTokenTable(TokenTable):
    """One split of texts about photographs: one row per text, in the order of the photographs."""

    @cached_property
    def photo_index(self) -> np.ndarray:
        """The photograph of every row, ascending."""
        index: np.ndarray = self.table.column("photo").to_numpy()
        return index

    @cached_property
    def names(self) -> list[str]:
        """The names of the photographs."""
        names: list[str] = json.loads(self.table.schema.metadata[b"names"])
        return names

    def without(self, photos: set[int]) -> np.ndarray:
        """Returns the rows about all photographs but these."""
        return np.flatnonzero(~np.isin(self.photo_index, list(photos)))


Split_co = TypeVar("Split_co", bound=PhotoTokenTable, covariant=True)


class PhotoCorpus(Corpus, Generic[Split_co]):
    """Texts about photographs, of the training and the validation split; `table` is the class of a split."""

    table: Callable[[Path], Split_co]

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary.load(self.folder / VOCABULARY)

    def split(self, name: str) -> Split_co:
        """Opens `train` or `validation`."""
        return self.table(self.path(name))


class CaptionSplit(PhotoTokenTable):
    """One split of captions; `lengths`: their tokens, the end symbol included, `(captions,)`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.lengths = self.num_tokens("caption_tokens") + 1

    def texts(self) -> list[list[str]]:
        """Returns the normalised captions of every photograph."""
        texts: list[list[str]] = [[] for _ in self.names]
        for photo, text in zip(self.photo_index.tolist(), self.table.column("caption").to_pylist(), strict=True):
            texts[photo].append(text)
        return texts

    def group_by_photo(self, captions: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Groups captions, given in ascending order, by photograph; returns the groups and their tokens."""
        _, starts = np.unique(self.photo_index[captions], return_index=True)
        return np.split(captions, starts[1:]), np.add.reduceat(self.lengths[captions], starts)


class CaptionCorpus(PhotoCorpus[CaptionSplit]):
    """Captions of the training and the validation split."""

    table = CaptionSplit


def prepare_captions(
    data: CaptionData, normalize: Callable[[str], str], fingerprint: str | None = None
) -> CaptionCorpus:
    """Learns the vocabulary on the training split and tokenises both splits, unless that was done. `normalize` makes of
    a caption what is learned and compared; `fingerprint` and errors are as of `build_corpus`."""

    def read(split: str) -> tuple[list[str], list[list[str]]]:
        captioned = open_captions(data, split)
        return list(captioned.names), captioned.captions

    def tokenize(contents: Mapping[str, tuple[list[str], list[list[str]]]], folder: Path) -> dict[str, pa.Table]:
        texts = {
            split: [normalize(text) for own in captions for text in own] for split, (_, captions) in contents.items()
        }
        vocabulary = learn_vocabulary(texts["train"], data.vocabulary)
        vocabulary.save(folder / VOCABULARY)
        tables = {}
        for split, (names, captions) in contents.items():
            photos = np.repeat(np.arange(len(names)), [len(own) for own in captions])
            tokens = token_rows(vocabulary.encode(texts[split]))
            tables[split] = _photo_table(
                names, photos, caption=pa.array(texts[split], pa.large_string()), caption_tokens=tokens
            )
        return tables

    corpus = CaptionCorpus(build_corpus(["captions", data.vocabulary.model_dump()], read, tokenize, fingerprint))
    check_max_length(corpus.split("train").lengths[:, None], data.max_length, data.source, "caption")
    return corpus


class QuestionSplit(PhotoTokenTable):
    """One split of questions; `lengths`: tokens of question and answer, the end symbol included, `(questions, 2)`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        questions, answers = map(self.num_tokens, ("question_tokens", "answer_tokens"))
        self.lengths = np.stack([questions, answers + 1], axis=1)

    def questions(self, rows: Sequence[int] | np.ndarray) -> list[Question]:
        """Returns questions as texts, with their answers and candidates."""
        records = self.table.column("question").take(pa.array(rows, pa.int64())).to_pylist()
        tuples = ("answers", "choices")
        return [Question(**{**record, **{name: tuple(record[name]) for name in tuples}}) for record in records]


class QuestionCorpus(PhotoCorpus[QuestionSplit]):
    """Questions of the training and the validation split."""

    table = QuestionSplit

    @property
    def answers(self) -> list[str]:
        """All normalised answers of the training split, the most frequent first; none where regions are pointed at."""
        answers: list[str] = json.loads((self.folder / ANSWERS).read_text(encoding="utf-8"))
        return answers


def prepare_questions(
    data: QuestionData, normalize: Callable[[str], str], fingerprint: str | None = None
) -> QuestionCorpus:
    """Learns the vocabulary on the training split and tokenises both splits, unless that was done. `normalize` makes of
    an answer what is learned and compared; `fingerprint` and errors are as of `build_corpus`."""

    def read(split: str) -> dict[str, Any]:
        opened = open_questions(data, split)
        content = {"names": list(opened.names), "questions": [asdict(question) for question in opened.questions]}
        if split == "train":
            given = _given_vocabulary(data)
            content |= {"further": _further_questions(data), "given": given and given.read_text(encoding="utf-8")}
        return content

    def tokenize(contents: Mapping[str, dict[str, Any]], folder: Path) -> dict[str, pa.Table]:
        train = contents["train"]
        answers = [] if data.pointing else [normalize(question["answer"]) for question in train["questions"]]
        if (given := _given_vocabulary(data)) is not None:
            vocabulary = Vocabulary.load(given)
        else:
            texts = [question["question"] for question in train["questions"]] + answers + train["further"]
            vocabulary = learn_vocabulary(texts, data.vocabulary)
        vocabulary.save(folder / VOCABULARY)
        if not data.pointing:
            counts = sorted(Counter(answers).items(), key=lambda pair: (-pair[1], pair[0]))
            (folder / ANSWERS).write_text(json.dumps([answer for answer, _ in counts]), encoding="utf-8")
        return {
            split: _table(content["names"], content["questions"], vocabulary, normalize)
            for split, content in contents.items()
        }

    settings = ["questions", data.vocabulary.model_dump(), data.pointing]
    return QuestionCorpus(build_corpus(settings, read, tokenize, fingerprint))


def _table(
    names: Sequence[str], questions: Sequence[dict[str, Any]], vocabulary: Vocabulary, normalize: Callable[[str], str]
) -> pa.Table:
    questions = sorted(questions, key=lambda question: question["photo"])
    answers = [normalize(question["answer"]) for question in questions]
    return _photo_table(
        names,
        [question["photo"] for question in questions],
        question=pa.array(questions),
        question_tokens=token_rows(vocabulary.encode([question["question"] for question in questions])),
        answer_tokens=token_rows(vocabulary.encode(answers)),
    )


def _given_vocabulary(data: QuestionData) -> Path | None:
    """Returns the vocabulary file of another run, where `data.words` names one."""
    if not isinstance(data, PointingData) or data.words is None:
        return None
    file = Path(data.words).expanduser()
    if not file.is_file():
        raise UserError(f"data.words: {file}: no such file; a run has its vocabulary in vocabulary/{VOCABULARY}.")
    return file


def _further_questions(data: QuestionData) -> list[str]:
    """Returns the questions of the sources `data.also`."""
    if not isinstance(data, PointingData):
        return []
    others = [PointingData(source=source, splits=data.splits) for source in data.also]
    opened = [open_questions(other, split) for other in others for split in SPLITS]
    return [question.question for questions in opened for question in questions.questions]


def _photo_table(names: Sequence[str], photos: Sequence[int] | np.ndarray, **columns: pa.Array) -> pa.Table:
    """Returns the table of a `PhotoTokenTable`."""
    table = pa.table({"photo": pa.array(photos, pa.int64()), **columns})
    return table.replace_schema_metadata({"names": json.dumps(list(names))})
