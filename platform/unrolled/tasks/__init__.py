"""Tasks: one module per task over the base in `tasks.base`.

A new task is a module, an entry of `TASKS`, and a config class (see `unrolled.config`).
"""

from __future__ import annotations

from pathlib import Path

from unrolled.config import Config
from unrolled.tasks.base import (
    AttentionMap,
    Choice,
    GalleryItem,
    GenerationTask,
    GlobalBatch,
    GroundingTask,
    MetricResults,
    MetricTask,
    Prediction,
    PreparedData,
    Seq2SeqTask,
    Shard,
    StepTraceTask,
    Table,
    Task,
    VQATask,
    WindowLoss,
)
from unrolled.tasks.captioning import Captioning
from unrolled.tasks.grounding import Grounding
from unrolled.tasks.image_inputs import ImageInputTask
from unrolled.tasks.language_modeling import LanguageModeling
from unrolled.tasks.synthetic import SyntheticMemory
from unrolled.tasks.translation import Translation
from unrolled.tasks.vqa import QuestionAnswering

TASKS: dict[str, type[Task]] = {
    "translation": Translation,
    "captioning": Captioning,
    "language_modeling": LanguageModeling,
    "question_answering": QuestionAnswering,
    "pointing": Grounding,
    "memory": SyntheticMemory,
}


def prepare(config: Config, fingerprint: str | None = None) -> PreparedData:
    """Prepares the data of `config`; see `Task.prepare`."""
    return TASKS[config.task].prepare(config, fingerprint)


def make_task(config: Config, folder: Path) -> Task:
    """Returns the task named by `config.task`, with the files that `PreparedData.save` wrote into `folder`."""
    return TASKS[config.task](config, folder)


__all__ = [
    "TASKS",
    "AttentionMap",
    "Captioning",
    "Choice",
    "GalleryItem",
    "GenerationTask",
    "GlobalBatch",
    "Grounding",
    "GroundingTask",
    "ImageInputTask",
    "LanguageModeling",
    "MetricResults",
    "MetricTask",
    "Prediction",
    "PreparedData",
    "QuestionAnswering",
    "Seq2SeqTask",
    "Shard",
    "StepTraceTask",
    "SyntheticMemory",
    "Table",
    "Task",
    "Translation",
    "VQATask",
    "WindowLoss",
    "make_task",
    "prepare",
]
