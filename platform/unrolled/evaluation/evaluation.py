"""What every evaluation of a run is given and gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from unrolled.config import Config
from unrolled.evaluation.job import Advance, Workforce
from unrolled.files import writing
from unrolled.tasks import make_task
from unrolled.training.run import Chosen, RunFolder


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of one split.

    Attributes:
        config: the run's, with the settings of this evaluation.
        command: the command line, for the report.
        show: told what is done, how often, of how many, and in what word.
        say: told what a person should know besides.
    """

    run: RunFolder
    config: Config
    checkpoint: Chosen
    split: str
    command: str
    version: str
    show: Callable[[str, int, int, str], None]
    say: Callable[[str], None]

    @property
    def folder(self) -> Path:
        """Where its files go."""
        return self.run.path / "evaluation" / self.split

    @property
    def decoded(self) -> Path:
        """Where what was decoded is kept, so that it need not be decoded again."""
        return self.folder / "decoded"

    def make_folder(self) -> None:
        """Makes sure, before work begins, that its files can be written.

        Raises:
            UserError: they cannot.
        """
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            TemporaryFile(dir=self.folder).close()

    def progress(self, what: str, total: int, word: str, done: int = 0) -> Advance:
        """Returns what counts on from `done` to `total` and shows it."""

        def advance(count: int) -> None:
            nonlocal done
            done += count
            self.show(what, done, total, word)

        return advance

    @property
    def of(self) -> tuple[str, str]:
        """Names the run and the split."""
        return self.run.name, self.split


@dataclass(frozen=True)
class Report:
    """A finished evaluation.

    Attributes:
        scores: by strategy where there are strategies, else by name.
        path: of report.html; results.json and outputs.jsonl lie beside it.
        of: what was evaluated: run and split.
        lines: the scores as a person reads them.
    """

    scores: dict[str, Any]
    path: Path
    of: tuple[str, str]
    lines: Sequence[str]


def provenance(evaluation: Evaluation, workforce: Workforce) -> dict[str, Any]:
    """Returns what results.json says of how it was made."""
    model = make_task(evaluation.config, evaluation.run.vocabulary).build_model()
    return {
        "run": evaluation.run.name,
        "task": evaluation.config.task,
        "split": evaluation.split,
        "checkpoint": evaluation.checkpoint.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": evaluation.command,
        "version": evaluation.version,
        "device": workforce.device,
        "workers": workforce.workers,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
