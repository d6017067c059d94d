"""What every evaluation of a run is given and gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from unrolled.config import Config
from unrolled.config_file import dump_config
from unrolled.evaluation.job import Advance, Workforce
from unrolled.evaluation.members import Member
from unrolled.files import writing
from unrolled.training.run import RunFolder


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of one split.

    Attributes:
        members: the run, first, and those that decode with it.
        command: the command line, for the report.
        show: told what is done, how often, of how many, and in what word.
        say: told what a person should know besides.
    """

    members: Sequence[Member]
    split: str
    command: str
    version: str
    show: Callable[[str, int, int, str], None]
    say: Callable[[str], None]

    @property
    def run(self) -> RunFolder:
        """The run whose folder takes the results."""
        return self.members[0].run

    @property
    def config(self) -> Config:
        """The run's, with the settings of this evaluation."""
        return self.members[0].config

    @property
    def folder(self) -> Path:
        """Where its files go; an ensemble's do not replace those of the run alone."""
        others = "+".join(member.run.name for member in self.members[1:])
        return self.run.path / "evaluation" / (f"{self.split}-with-{others}" if others else self.split)

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
        """Names the run, or all of an ensemble, and the split."""
        return " + ".join(member.run.name for member in self.members), self.split

    @property
    def history(self) -> list[dict[str, Any]]:
        """The rows of the training; none of an ensemble, which was not trained as one."""
        return self.run.history() if len(self.members) == 1 else []

    @property
    def config_yaml(self) -> str:
        """The configs, as the report shows them."""
        if len(self.members) == 1:
            return dump_config(self.config)
        return "\n".join(f"# {member.run.name}\n{dump_config(member.config)}" for member in self.members)


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
    members = evaluation.members
    several = len(members) > 1
    models = [member.task().build_model() for member in members]
    checkpoints = [
        f"{member.run.name} {member.checkpoint.name}" if several else member.checkpoint.name for member in members
    ]
    return {
        "run": evaluation.of[0],
        **({"ensemble": [str(member.run.path) for member in members]} if several else {}),
        "task": evaluation.config.task,
        "split": evaluation.split,
        "checkpoint": "; ".join(checkpoints),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": evaluation.command,
        "version": evaluation.version,
        "device": workforce.device,
        "workers": workforce.workers,
        "parameters": sum(parameter.numel() for model in models for parameter in model.parameters()),
    }
