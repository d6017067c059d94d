"""The whole configuration: its schema, its defaults, and what each key means.

A config is a YAML file; `key.path=value` arguments override it. Every task has a class of its own, one file each;
what tasks share is in `sections.py` and `training.py`. Reading, overriding and the sentences that answer a mistake
are in `config_file.py`.
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
"""The class of every `task`. A new one is a file and a line here."""

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
