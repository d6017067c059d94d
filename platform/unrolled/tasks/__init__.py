"""One file a task. A new one is a file, a line in `TASKS`, and its config's class (see `unrolled.config`)."""

from __future__ import annotations

from pathlib import Path

from unrolled.config import Config
from unrolled.tasks.captioning import Captioning
from unrolled.tasks.findings import Findings, Option, Shown, Table
from unrolled.tasks.language_modeling import LanguageModeling
from unrolled.tasks.memory import Memory
from unrolled.tasks.pointing import Pointing
from unrolled.tasks.question_answering import QuestionAnswering
from unrolled.tasks.task import (
    Answerer,
    Asker,
    Attended,
    Baselined,
    Chooser,
    Counting,
    Examinee,
    Explainer,
    GlobalBatch,
    Part,
    Piece,
    Prepared,
    Pretrained,
    Reply,
    Seeing,
    Task,
    Viewer,
    Writer,
)
from unrolled.tasks.translation import Translation

TASKS: dict[str, type[Task]] = {
    "translation": Translation,
    "captioning": Captioning,
    "language_modeling": LanguageModeling,
    "question_answering": QuestionAnswering,
    "pointing": Pointing,
    "memory": Memory,
}


def prepare(config: Config, fingerprint: str | None = None) -> Prepared:
    """Makes the data of `config` ready; see `Task.prepare`."""
    return TASKS[config.task].prepare(config, fingerprint)


def make_task(config: Config, folder: Path) -> Task:
    """Returns the task that `config.task` names, with what `Prepared.save` wrote into `folder`."""
    return TASKS[config.task](config, folder)


__all__ = [
    "TASKS",
    "Answerer",
    "Asker",
    "Attended",
    "Baselined",
    "Chooser",
    "Counting",
    "Examinee",
    "Explainer",
    "Findings",
    "GlobalBatch",
    "Option",
    "Part",
    "Piece",
    "Prepared",
    "Pretrained",
    "Reply",
    "Seeing",
    "Shown",
    "Table",
    "Task",
    "Viewer",
    "Writer",
    "make_task",
    "prepare",
]
