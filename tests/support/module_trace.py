"""Modules of the package whose functions run during one translation update and one beam search.

python tests/support/module_trace.py
"""

from __future__ import annotations

import inspect
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType

import torch

import unrolled
from unrolled.decoding import search
from unrolled.tasks import Translation
from unrolled.training.train_step import TrainStep

PACKAGE = f"{Path(unrolled.__file__).parent}/"
CONFIG = {
    "task": "translation",
    "name": "traced",
    "data": {"source": "dates", "limit": 96, "vocabulary": {"kind": "character", "size": 200}},
    "model": {"encoder": {"hidden": 12, "embedding": 8}, "decoder": {"hidden": 12, "embedding": 8}},
    "training": {"epochs": 1, "batch_tokens": 400, "max_steps": 3},
    "decoding": {"max_length": 14},
}


class Tracer:
    """Records the modules that run while one call of `function` is under way.

    Args:
        function: whose call is traced.
        number: which of its calls, counted from 1; later ones find caches filled.
    """

    def __init__(self, function: Callable[..., object], number: int) -> None:
        self._code: CodeType = inspect.unwrap(function).__code__
        self._waiting, self._inside = number, False
        self.moves: list[str] = []

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if not code.co_filename.startswith(PACKAGE):
            return
        if code is self._code and event == "call":
            self._waiting -= 1
            self._inside = self._waiting == 0
        module = code.co_filename.removeprefix(PACKAGE).removesuffix(".py")
        if self._inside and event == "call" and self.moves[-1:] != [module]:
            self.moves.append(module)
        if code is self._code and event == "return":
            self._inside = False


def measure() -> dict[str, list[str]]:
    """Returns the modules entered, one entry per move from one to another: of the second update of a training, of a
    beam search over encoded sentences, and of a translation from text to text."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as storage:
        update = Tracer(TrainStep.__call__, 2)
        sys.setprofile(update)
        try:
            run = unrolled.train({**CONFIG, "storage": storage}, local=True)
        finally:
            sys.setprofile(None)
        found = {"translation update": update.moves}
        for name, function in (("beam search", search.decode), ("translation", Translation.decode)):
            tracer = Tracer(function, 1)
            run.generate(["3 May 2020"], "beam")
            sys.setprofile(tracer)
            try:
                run.generate(["3 May 2020"], "beam")
            finally:
                sys.setprofile(None)
            found[name] = tracer.moves
    return found


if __name__ == "__main__":
    for name, moves in measure().items():
        modules = sorted(set(moves))
        print(f"{name}: {len(modules)} modules, {len(moves)} moves between them: {', '.join(modules)}")
