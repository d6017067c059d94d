"""Configuration: the schema of all keys with their types, defaults and meanings.

A config is a YAML file; `key.path=value` arguments override it. Each task has a config class in a module of its own.
Sections that tasks share are in `common`, `training` and `tuning`. `load` reads files and overrides and words the error
messages.
"""

from __future__ import annotations

from unrolled.config.base import Config
from unrolled.config.captioning import CaptioningConfig
from unrolled.config.common import (
    CellName,
    Decoding,
    Engine,
    Recurrent,
    RecurrentWithInitialState,
    Section,
    Source,
    Vocabulary,
)
from unrolled.config.language_modeling import LanguageModelingConfig
from unrolled.config.synthetic import MemoryConfig
from unrolled.config.training import Clipping, EarlyStopping, Optimizer, Schedule, Training
from unrolled.config.translation import TranslationConfig
from unrolled.config.tuning import Parameter, Tuning
from unrolled.config.vqa import PointingConfig, QuestionAnsweringConfig

CONFIGS: dict[str, type[Config]] = {
    "translation": TranslationConfig,
    "captioning": CaptioningConfig,
    "question_answering": QuestionAnsweringConfig,
    "language_modeling": LanguageModelingConfig,
    "pointing": PointingConfig,
    "memory": MemoryConfig,
}
"""The config class of each `task`."""

__all__ = [
    "CONFIGS",
    "CaptioningConfig",
    "CellName",
    "Clipping",
    "Config",
    "Decoding",
    "EarlyStopping",
    "Engine",
    "LanguageModelingConfig",
    "MemoryConfig",
    "Optimizer",
    "Parameter",
    "PointingConfig",
    "Recurrent",
    "RecurrentWithInitialState",
    "Schedule",
    "Section",
    "Source",
    "Training",
    "TranslationConfig",
    "Tuning",
    "Vocabulary",
]
