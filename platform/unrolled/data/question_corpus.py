"""Tokenised questions about photographs on disk: made once, memory-mapped by every worker."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from unrolled.config.vqa import PointingData, QuestionData
from unrolled.data.question_readers import open_questions
from unrolled.data.questions import Question, QuestionSet
from unrolled.data.tokenizer import Vocabulary, learn_vocabulary
from unrolled.errors import UserError
from unrolled.files import build_cached

FORMAT = 1
"""Raise when the files change their meaning, so that older ones are made again."""
VOCABULARY, ANSWERS = "words.json", "answers.json"
SPLITS = ("train", "validation")

Normalize = Callable[[str], str]
"""Makes of an answer as people gave it what is learned and compared."""


class QuestionSplit:
    """One split, memory-mapped.

    Attributes:
        path: of its file.
        photos: the photograph of every question, `(questions,)`, rising.
        names: of the photographs.
        lengths: tokens of every question and of its answer, the end symbol included, `(questions, 2)`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        self._tokens = {
            name: self._table.column(name).combine_chunks() for name in ("question_tokens", "answer_tokens")
        }
        self.photo_index: np.ndarray = self._table.column("photo").to_numpy()
        self.names: list[str] = json.loads(self._table.schema.metadata[b"names"])
        questions, answers = (np.diff(each.offsets.to_numpy()) for each in self._tokens.values())
        self.lengths = np.stack([questions, answers + 1], axis=1)

    def __len__(self) -> int:
        return len(self.photo_index)

    def question_tokens(self, rows: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """Returns the tokens of these questions."""
        return self._of("question_tokens", rows)

    def answer_tokens(self, rows: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """Returns the tokens of the answers to these questions, without begin and end symbols."""
        return self._of("answer_tokens", rows)

    def questions(self, rows: Sequence[int] | np.ndarray) -> list[Question]:
        """Returns these questions in words, with their answers and candidates."""
        taken = self._table.column("question").take(pa.array(rows, pa.int64())).to_pylist()
        found = []
        for row in taken:
            lists = {name: tuple(row[name]) for name in ("answers", "choices")}
            found.append(Question(**{**row, **lists}))
        return found

    def without(self, photos: set[int]) -> np.ndarray:
        """Returns the questions about all photographs but these."""
        return np.flatnonzero(~np.isin(self.photo_index, list(photos)))

    def _of(self, name: str, rows: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        column = self._tokens[name]
        values, offsets = column.values.to_numpy(), column.offsets.to_numpy()
        return [values[offsets[row] : offsets[row + 1]] for row in rows]


@dataclass(frozen=True)
class QuestionCorpus:
    """A folder of the cache with the vocabulary, the answers and both splits."""

    folder: Path

    @property
    def vocabulary(self) -> Vocabulary:
        """Opens the vocabulary, of questions and answers."""
        return Vocabulary.load(self.folder / VOCABULARY)

    @property
    def answers(self) -> list[str]:
        """All answers of the training split as they are compared, the most frequent first."""
        found: list[str] = json.loads((self.folder / ANSWERS).read_text(encoding="utf-8"))
        return found

    def split(self, name: str) -> QuestionSplit:
        """Opens `train` or `validation`."""
        return QuestionSplit(self.folder / f"{name}.arrow")


def prepare_questions(data: QuestionData, normal: Normalize, fingerprint: str | None = None) -> QuestionCorpus:
    """Learns the vocabulary on the training split and tokenises training and validation, unless that was done.

    Args:
        normal: makes of answers what is learned.
        fingerprint: of the questions, where another process has computed it.

    Raises:
        UserError: the data cannot be used, or the cache cannot be written.
    """
    asked: dict[str, QuestionSet] = {}
    if fingerprint is None:
        asked = _read(data)
        fingerprint = _fingerprint(data, asked)
    return QuestionCorpus(build_cached(fingerprint, lambda folder: _build(folder, data, normal, asked or _read(data))))


def _read(data: QuestionData) -> dict[str, QuestionSet]:
    return {split: open_questions(data, split) for split in SPLITS}


def _fingerprint(data: QuestionData, asked: dict[str, QuestionSet]) -> str:
    settings = [FORMAT, data.vocabulary.model_dump(), data.pointing, _also(data)]
    if (given := _given(data)) is not None:
        settings.append(given.read_text(encoding="utf-8"))
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for each in asked.values():
        told = [list(each.names), [asdict(question) for question in each.questions]]
        digest.update(json.dumps(told).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:20]


def _given(data: QuestionData) -> Path | None:
    """Returns the file of another run's vocabulary, where the data name one."""
    if not isinstance(data, PointingData) or data.words is None:
        return None
    file = Path(data.words).expanduser()
    if not file.is_file():
        raise UserError(f"data.words: {file}: no such file; a run has its vocabulary in vocabulary/{VOCABULARY}.")
    return file


def _also(data: QuestionData) -> list[str]:
    """Returns the questions of further sources."""
    if not isinstance(data, PointingData):
        return []
    others = [PointingData(source=source, splits=data.splits) for source in data.also]
    opened = [open_questions(other, split) for other in others for split in SPLITS]
    return [question.question for asked in opened for question in asked.questions]


def _build(folder: Path, data: QuestionData, normal: Normalize, asked: dict[str, QuestionSet]) -> None:
    learned = asked["train"].questions
    answers = [normal(question.answer) for question in learned]
    texts = [question.question for question in learned] + ([] if data.pointing else answers)
    given = _given(data)
    vocabulary = Vocabulary.load(given) if given else learn_vocabulary(texts + _also(data), data.vocabulary)
    vocabulary.save(folder / VOCABULARY)
    counted = sorted(Counter(answers).items(), key=lambda pair: (-pair[1], pair[0]))
    (folder / ANSWERS).write_text(json.dumps([answer for answer, _ in counted]), encoding="utf-8")
    for split, each in asked.items():
        _write(folder / f"{split}.arrow", each, vocabulary, normal)


def _write(path: Path, asked: QuestionSet, vocabulary: Vocabulary, normal: Normalize) -> None:
    questions = sorted(asked.questions, key=lambda question: question.photo)
    tokens = {
        "question_tokens": vocabulary.encode([question.question for question in questions]),
        "answer_tokens": vocabulary.encode([normal(question.answer) for question in questions]),
    }
    table = pa.table(
        {
            "photo": pa.array([question.photo for question in questions], pa.int64()),
            "question": pa.array([asdict(question) for question in questions]),
            **{name: pa.array(rows, pa.large_list(pa.int32())) for name, rows in tokens.items()},
        }
    ).replace_schema_metadata({"names": json.dumps(list(asked.names))})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
