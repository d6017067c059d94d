"""Recurrent sequence models, trained, tuned and evaluated at cluster scale on Ray."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Run", "Sweep", "load", "train", "tune"]

if TYPE_CHECKING:
    from unrolled.api import Sweep, train, tune
    from unrolled.run import Run, load


def __getattr__(name: str) -> Any:
    """Imports the commands on first access, since importing them takes seconds."""
    if name not in __all__:
        raise AttributeError(f"module 'unrolled' has no attribute {name!r}")
    return getattr(import_module("unrolled.run" if name in ("Run", "load") else "unrolled.api"), name)
