"""One file a task. A new one is a file and a line in `TASKS`."""

from __future__ import annotations

from unrolled.config import Config
from unrolled.data.corpus import Vocabularies
from unrolled.tasks.task import Task
from unrolled.tasks.translation import Translation

TASKS: dict[str, type[Translation]] = {"translation": Translation}


def make_task(config: Config, vocabularies: Vocabularies) -> Task:
    """Returns the task that `config.task` names."""
    return TASKS[config.task](config, vocabularies)


__all__ = ["TASKS", "Task", "make_task"]
