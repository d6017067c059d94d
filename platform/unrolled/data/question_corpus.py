"""Tokenised questions about photographs, with answers and candidates."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from unrolled.config.vqa import PointingData, QuestionData
from unrolled.data.corpus import (
    SPLITS,
    VOCABULARY,
    PhotoCorpus,
    PhotoTokenTable,
    build_corpus,
    photo_token_table,
    token_rows,
)
from unrolled.data.question_readers import open_questions
from unrolled.data.questions import Question
from unrolled.data.tokenizer import Vocabulary, learn_vocabulary
from unrolled.errors import UserError

ANSWERS = "answers.json"
Content = dict[str, Any]
"""`names` and `questions`; of the training split also `further` questions and the `given` vocabulary of another run."""


class QuestionSplit(PhotoTokenTable):
    """One split; rows are questions.

    Attributes:
        lengths: tokens of every question and of its answer, the end symbol included, `(questions, 2)`.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        questions, answers = map(self.row_lengths, ("question_tokens", "answer_tokens"))
        self.lengths = np.stack([questions, answers + 1], axis=1)

    def question_tokens(self, rows: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """Returns the token ids of questions."""
        return self.rows("question_tokens", rows)

    def answer_tokens(self, rows: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """Returns the token ids of the answers to questions, without begin and end symbols."""
        return self.rows("answer_tokens", rows)

    def questions(self, rows: Sequence[int] | np.ndarray) -> list[Question]:
        """Returns questions as texts, with their answers and candidates."""
        records = self.table.column("question").take(pa.array(rows, pa.int64())).to_pylist()
        tuples = ("answers", "choices")
        return [Question(**{**record, **{name: tuple(record[name]) for name in tuples}}) for record in records]


class QuestionCorpus(PhotoCorpus):
    """Questions of the training and the validation split."""

    @property
    def answers(self) -> list[str]:
        """All normalised answers of the training split, the most frequent first; none where regions are pointed at."""
        answers: list[str] = json.loads((self.folder / ANSWERS).read_text(encoding="utf-8"))
        return answers

    def split(self, name: str) -> QuestionSplit:
        """Opens `train` or `validation`."""
        return QuestionSplit(self.path(name))


def prepare_questions(
    data: QuestionData, normalize: Callable[[str], str], fingerprint: str | None = None
) -> QuestionCorpus:
    """Learns the vocabulary on the training split and tokenises both splits, unless that was done.

    Args:
        normalize: makes of an answer what is learned and compared.
        fingerprint: as of `build_corpus`.

    Raises:
        UserError: the data cannot be used, or the cache cannot be written.
    """

    def read(split: str) -> Content:
        opened = open_questions(data, split)
        content = {"names": list(opened.names), "questions": [asdict(question) for question in opened.questions]}
        if split == "train":
            given = _given_vocabulary(data)
            content |= {"further": _further_questions(data), "given": given and given.read_text(encoding="utf-8")}
        return content

    def tokenize(contents: Mapping[str, Content], folder: Path) -> dict[str, pa.Table]:
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
    return photo_token_table(
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
