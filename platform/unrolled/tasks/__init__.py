"""One file a task. A new one is a file, a line in `TASKS`, and its config's class (see `unrolled.config`)."""

from __future__ import annotations

from pathlib import Path

from unrolled.config import Config
from unrolled.tasks.base import (
    Attended,
    Baselined,
    Counting,
    Explainer,
    Findings,
    GlobalBatch,
    GroundingTask,
    ImageInputTask,
    MetricTask,
    Option,
    Prepared,
    Pretrained,
    Reply,
    Seeing,
    Seq2SeqTask,
    Shard,
    Shown,
    Table,
    Task,
    VQATask,
    WindowLoss,
    Writer,
)
from unrolled.tasks.captioning import Captioning
from unrolled.tasks.grounding import Grounding
from unrolled.tasks.language_modeling import LanguageModeling
from unrolled.tasks.synthetic import Memory
from unrolled.tasks.translation import Translation
from unrolled.tasks.vqa import QuestionAnswering

TASKS: dict[str, type[Task]] = {
    "translation": Translation,
    "captioning": Captioning,
    "language_modeling": LanguageModeling,
    "question_answering": QuestionAnswering,
    "pointing": Grounding,
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
    "Attended",
    "Baselined",
    "Counting",
    "Explainer",
    "Findings",
    "GlobalBatch",
    "GroundingTask",
    "ImageInputTask",
    "MetricTask",
    "Option",
    "Prepared",
    "Pretrained",
    "Reply",
    "Seeing",
    "Seq2SeqTask",
    "Shard",
    "Shown",
    "Table",
    "Task",
    "VQATask",
    "WindowLoss",
    "Writer",
    "make_task",
    "prepare",
]
