"""The folder of a sweep: what it searches, its trials, and what it found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unrolled.config import Config
from unrolled.config_file import changed_config, dump_config, load_config, runs_folder
from unrolled.errors import UserError
from unrolled.files import write_whole, writing
from unrolled.training.run import RunFolder, difference
from unrolled.tuning.space import Point

CONFIG = "sweep.yaml"
FREE = ("name", "storage", "tuning.trials", "tuning.minutes", "tuning.concurrent")
"""Keys that a resumed sweep may change."""


@dataclass(frozen=True)
class Order:
    """A trial: which point of the space, trained from which seed.

    Attributes:
        point: its number from 0.
    """

    name: str
    point: int
    seed: int
    parameters: Point


@dataclass(frozen=True)
class SweepFolder:
    """Paths and files of one sweep; every trial is the folder of a run under `trials/`."""

    path: Path

    @property
    def run(self) -> RunFolder:
        """For what it shares with the folder of a run: the lock, the log, the file that asks for an end."""
        return RunFolder(self.path)

    @property
    def trials(self) -> Path:
        return self.path / "trials"

    @property
    def summary(self) -> Path:
        return self.path / "sweep.json"

    @property
    def best(self) -> Path:
        return self.path / "best.yaml"

    @property
    def page(self) -> Path:
        return self.path / "report.html"

    @property
    def scratch(self) -> Path:
        """What Ray Tune writes; nothing of it is needed again."""
        return self.path / ".tune"

    def trial(self, name: str) -> RunFolder:
        """The run of a trial."""
        return RunFolder(self.trials / name)

    def config(self) -> Config:
        """Reads what is searched."""
        return load_config(self.path / CONFIG)

    def start(self, config: Config, *, resume: bool) -> None:
        """Writes what is searched; without `resume`, what stood there before is gone."""
        with writing(self.path):
            if not resume and self.path.exists():
                shutil.rmtree(self.path)
            self.trials.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(self.scratch, ignore_errors=True)
            # Without a line that a killed process left half written, to which the next would be added.
            write_whole(self._rows, "".join(json.dumps(row) + "\n" for row in self.recorded()))
            write_whole(self.path / CONFIG, dump_config(config))

    def record(self, row: dict[str, Any]) -> None:
        """Adds what is now known of a trial to trials.jsonl, the truth from which a sweep is resumed."""
        with writing(self._rows), self._rows.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def recorded(self) -> list[dict[str, Any]]:
        """Returns the last row of every trial in trials.jsonl, in the order of their names."""
        rows = {row["name"]: row for row in self._read()}
        return [rows[name] for name in sorted(rows)]

    def _read(self) -> Iterator[dict[str, Any]]:
        if not self._rows.is_file():
            return
        for line in self._rows.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue  # a line that a killed process left half written

    @property
    def _rows(self) -> Path:
        return self.path / "trials.jsonl"


def source_of(config: str | Path, overrides: Sequence[str]) -> tuple[Path, list[str]]:
    """Returns config file and overrides, also where the folder of a sweep was given in place of a config."""
    folder = Path(config)
    if not (folder / CONFIG).is_file():
        return folder, [*overrides]
    place = folder.resolve()
    return place / CONFIG, [*overrides, f"storage={place.parent}", f"name={place.name}"]


def trial_config(config: Config, sweep: SweepFolder, order: Order, *, tiny: bool) -> Config:
    """Returns the config of a trial's run; `tiny`: few examples, few steps."""
    own = {"name": order.name, "storage": str(sweep.trials), "seed": order.seed, "tuning": None}
    own_config = changed_config(config, order.parameters | own, "tuning.space")
    return own_config.smoke() if tiny else own_config


def claim_sweep(config: Config, *, resume: bool, overwrite: bool) -> SweepFolder:
    """Returns the sweep's folder, checked but untouched.

    Raises:
        UserError: it exists and neither `resume` nor `overwrite` was asked for; there is nothing to resume, or
            what is there searched otherwise; it is not a sweep, so it is not overwritten.
    """
    sweep = SweepFolder(runs_folder(config) / config.name)
    exists = sweep.path.exists() and (not sweep.path.is_dir() or any(sweep.path.iterdir()))
    is_sweep = (sweep.path / CONFIG).is_file()
    if resume and overwrite:
        raise UserError("--resume and --overwrite contradict each other: give one of them.")
    if resume:
        if not is_sweep:
            raise UserError(f"{sweep.path}: there is no sweep to resume; leave --resume out to start it.")
        _check_same(sweep, config)
    elif exists and not overwrite:
        raise UserError(
            f"{sweep.path} exists already: give --resume to continue it, --overwrite to replace it, or name=OTHER."
        )
    elif exists and not is_sweep:
        raise UserError(f"{sweep.path} is not a sweep (it has no {CONFIG}), so --overwrite leaves it alone.")
    return sweep


def _check_same(sweep: SweepFolder, config: Config) -> None:
    before, now = (_without_free(values) for values in (sweep.config(), config))
    if changed := difference(before, now, ""):
        key, old, new = changed
        raise UserError(
            f"{sweep.path} was begun with {key}={_shown(old)}, the config says {_shown(new)}: a resumed sweep keeps "
            "its space and all else but tuning.trials, tuning.minutes and tuning.concurrent; give another name=… for "
            "the change."
        )


def _shown(value: Any) -> str:
    if isinstance(value, dict):  # a key of the space that is new or gone
        value = {name: given for name, given in value.items() if given}
    return "nothing" if value is None else str(value)


def _without_free(config: Config) -> dict[str, Any]:
    values = config.model_dump(exclude_none=True)
    for key in FREE:
        *parents, last = key.split(".")
        section = values
        for parent in parents:
            section = section.get(parent, {})
        section.pop(last, None)
    return values
