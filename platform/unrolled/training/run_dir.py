"""Run directories.

The folder of a run: everything that it needs and everything that it made.

What a run begins with: its newest checkpoint, the weights of another run, or fresh ones.

The list of runs in a folder.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from filelock import FileLock, Timeout

from unrolled.config import Config
from unrolled.config.load import dump_config, first_difference, load_config, resolve_storage, runs_folder, value_at
from unrolled.errors import RunFailed, UserError, did_you_mean, listing
from unrolled.files import explain_write_errors, read_json_lines, write_atomic
from unrolled.tasks import Prepared, make_task
from unrolled.training import checkpoint
from unrolled.training.console import format_duration, format_score

CHECKPOINTS_KEPT = "; the checkpoints are kept"
"""How a sentence ends about a disk that refuses something during training."""


@dataclass(frozen=True)
class RunDir:
    """Paths and small files of one run; layout as the README's map shows it."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def vocabulary(self) -> Path:
        return self.path / "vocabulary"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def stop_file(self) -> Path:
        """While it exists, the workers end after their current step, with a checkpoint."""
        return self.path / ".stop"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """While open, no other process trains this run; a process that dies lets go of it.

        Raises:
            UserError: another process holds it, or nothing can be written there.
        """
        # Beside the folder, which `--overwrite` removes.
        lock = FileLock(self.path.with_name(f".{self.name}.lock"), timeout=0)
        with explain_write_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire()
            except Timeout:
                raise UserError(f"{self.path} is being trained by another process: wait for it or stop it.") from None
        try:
            yield
        finally:
            lock.release()

    def config(self) -> Config:
        """Reads the run's own complete config."""
        return load_config(self.path / "config.yaml")

    def start(self, config: Config, data: Prepared, *, resume: bool) -> None:
        """Writes what makes the folder self-sufficient; without `resume`, what stood there before is gone.

        Raises:
            UserError: the run to resume was trained on other data, or the folder cannot be written; what a run to
                resume needs is then as it was.
        """
        mark = self.vocabulary / "fingerprint"
        known = resume and mark.is_file()
        if known and mark.read_text(encoding="utf-8") != data.fingerprint:
            raise UserError(
                f"data: their content has changed since {self.path} was trained; a resumed run needs the same."
            )
        with explain_write_errors(self.path):
            if not resume and self.path.exists():
                shutil.rmtree(self.path)
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path / "config.yaml", dump_config(config))
            if not known:
                data.save(self.vocabulary)
                write_atomic(mark, data.fingerprint)
            self.checkpoints.mkdir(exist_ok=True)

    def history(self) -> list[dict[str, Any]]:
        """Reads all rows of metrics.jsonl."""
        return read_json_lines(self.metrics)

    def append(self, row: dict[str, Any]) -> None:
        """Adds a row to metrics.jsonl.

        Raises:
            RunFailed: the disk does not take it.
        """
        with (
            explain_write_errors(self.metrics, RunFailed, CHECKPOINTS_KEPT),
            self.metrics.open("a", encoding="utf-8") as file,
        ):
            file.write(json.dumps(row) + "\n")

    def rewind(self, step: int) -> None:
        """Drops the rows behind `step`: a run that continues from there writes them again.

        Raises:
            RunFailed: the disk does not take them.
        """
        with explain_write_errors(self.metrics, RunFailed, CHECKPOINTS_KEPT):
            rows = [row for row in self.history() if row["step"] <= step]
            write_atomic(self.metrics, "".join(json.dumps(row) + "\n" for row in rows))


def resolve_run_dir(config: Config, *, resume: bool, overwrite: bool) -> RunDir:
    """Returns the run's folder, checked but untouched.

    Raises:
        UserError: it exists and neither `resume` nor `overwrite` was asked for; there is nothing to resume, or
            what is there was trained with another task, data or model; it is not a run, so it is not overwritten.
    """
    run = RunDir(runs_folder(config) / config.name)
    exists = run.path.exists() and any(run.path.iterdir()) if run.path.is_dir() else run.path.exists()
    if resume and overwrite:
        raise UserError("--resume and --overwrite contradict each other: give one of them.")
    if resume:
        _check_resumable(run, config, exists)
    elif exists and not overwrite:
        raise UserError(
            f"{run.path} exists already: give --resume to continue it, --overwrite to replace it, or name=OTHER."
        )
    elif exists and not (run.path / "config.yaml").is_file():
        raise UserError(f"{run.path} is not a run (it has no config.yaml), so --overwrite leaves it alone.")
    return run


def _check_resumable(run: RunDir, config: Config, exists: bool) -> None:
    if not exists or not (run.path / "config.yaml").is_file():
        raise UserError(f"{run.path}: there is no run to resume; leave --resume out to start it.")
    before, now = run.config().model_dump(), config.model_dump()
    if before["task"] != now["task"]:
        raise UserError(f"{run.path} was trained with task={before['task']}, the config says {now['task']}.")
    for section in config.frozen_keys:
        changed = first_difference(value_at(before, section), value_at(now, section), section)
        if changed:
            key, old, new = changed
            raise UserError(
                f"{run.path} was trained with {key}={old}, the config says {new}: a resumed run keeps "
                f"{listing(config.frozen_keys)}; give another name=… for the change."
            )


def open_run(path: str | Path) -> RunDir:
    """Opens an existing run folder (relative ones as `resolve_storage` says).

    Raises:
        UserError: there is no run.
    """
    folder = resolve_storage(path)
    if not (folder / "config.yaml").is_file():
        others = [str(Path(path).parent / other.name) for other in folder.parent.glob("*") if other.is_dir()]
        raise UserError(f"{path}: is not a run folder (no config.yaml there).{did_you_mean(str(path), others)}")
    return RunDir(folder)


@dataclass(frozen=True)
class ChosenCheckpoint:
    """A checkpoint, or several whose weights are averaged (Junczys-Dowmunt et al. 2016; Vaswani et al. 2017, section
    6.1)."""

    folders: tuple[Path, ...]

    @property
    def name(self) -> str:
        """As a report says it: `step-9`, or `average of step-6, step-9`."""
        names = ", ".join(folder.name for folder in self.folders)
        return names if len(self.folders) == 1 else f"average of {names}"


def choose_checkpoint(run: RunDir, which: str = "best") -> ChosenCheckpoint:
    """Returns the checkpoint `best`, `last` or `step-N` of a run; for `average` all that it kept, for `average-N` the
    N newest of them.

    Raises:
        UserError: there is none of that name, or there are fewer.
    """
    kept = checkpoint.list_checkpoints(run.checkpoints)
    if which == "best" and (best := checkpoint.best(run.checkpoints)) is not None:
        return ChosenCheckpoint((best,))
    if not kept:
        raise UserError(f"{run.path}: has no checkpoint yet; train it first.")
    if which == "last":
        return ChosenCheckpoint((kept[-1],))
    if which.partition("-")[0] == "average":
        return ChosenCheckpoint(tuple(kept[-_count(run, which, kept) :]))
    names = [path.name for path in kept]
    if which not in names:
        known = ["best", "last", "average", *names]
        raise UserError(f"--checkpoint {which}: {run.path} has {listing(known)}.{did_you_mean(which, known)}")
    return ChosenCheckpoint((run.checkpoints / which,))


def _count(run: RunDir, which: str, kept: Sequence[Path]) -> int:
    """Returns how many of the `kept` checkpoints `average` or `average-N` takes."""
    number = which.removeprefix("average").removeprefix("-")
    count = len(kept) if which == "average" else int(number) if number.isdecimal() else 0
    if not 1 <= count <= len(kept):
        names = ", ".join(path.name for path in kept)
        raise UserError(
            f"--checkpoint {which}: {run.path} has {len(kept)} to average ({names}); "
            f"give average, or average-N with N from 1 to {len(kept)}."
        )
    return count


KEY = "training.start_from"
FREE = ("dropout", "variational", "zoneout", "initialization", "engine", "sees")
"""Keys of a model, wherever they stand, that do not change which weights it has."""


def initial_weights(config: Config) -> ChosenCheckpoint | None:
    """Returns the weights that a run begins with; `None`: fresh ones.

    Raises:
        UserError: there is no such run, or it has no checkpoint.
    """
    given = config.training.start_from
    if given is None:
        return None
    try:
        return choose_checkpoint(open_run(given))
    except UserError as error:
        raise UserError(f"{KEY}: {error}") from None


def check_initial_weights(run: RunDir, config: Config, data: Prepared, *, resume: bool) -> None:
    """Raises `UserError` where the run cannot begin with the weights of its checkpoint, or with those that its config
    names: they are not there, or they were learned for another task, model or vocabulary. Nothing is written."""
    newest = checkpoint.newest_intact(run.checkpoints)[0] if resume else None
    if newest is not None:
        checkpoint.load_model([newest], make_task(config, run.vocabulary).build_model())
    elif (chosen := initial_weights(config)) is not None:
        _check_first(run, config, data, chosen)


def _check_first(run: RunDir, config: Config, data: Prepared, chosen: ChosenCheckpoint) -> None:
    first = open_run(str(config.training.start_from))
    if first.path == run.path:
        raise UserError(f"{KEY}: {first.path} is this run itself; give this one another name=….")
    before = first.config()
    if before.task != config.task:
        raise UserError(f"{KEY}: {first.path} was trained with task={before.task}, the config says {config.task}.")
    changed = first_difference(_fixed(before.model.model_dump()), _fixed(config.model.model_dump()), "model")
    if changed:
        key, old, new = changed
        raise UserError(f"{KEY}: {first.path} was trained with {key}={old}, the config says {new}.")
    with TemporaryDirectory(prefix="unrolled-start-") as scratch:
        folder = Path(scratch)
        data.save(folder)
        for path in sorted(folder.iterdir()):
            theirs = first.vocabulary / path.name
            if not theirs.is_file() or theirs.read_bytes() != path.read_bytes():
                raise UserError(f"{KEY}: {first.path} has another {path.name}: give this run the data of that one.")
        checkpoint.load_model(chosen.folders, make_task(config, folder).build_model())


def _fixed(model: dict[str, Any]) -> dict[str, Any]:
    """The section without what is `FREE`."""
    return {key: _fixed(value) if isinstance(value, dict) else value for key, value in model.items() if key not in FREE}


ROW = "{:<24} {:<14} {:>9} {:>8}  {:<22} {}"
RECENT_SECONDS = 180
"""A run whose metrics or log grew in this time is taken to be training."""


def list_runs(storage: str | Path) -> Iterator[str]:
    """Yields a heading and a line a run: name, state, steps, time, best score, last change.

    Raises:
        UserError: there is no such folder.
    """
    folder = resolve_storage(storage)
    if not folder.is_dir():
        raise UserError(f"{storage}: there is no such folder of runs.")
    yield ROW.format("RUN", "STATE", "STEPS", "TIME", "BEST", "CHANGED")
    for path in sorted(folder.iterdir()):
        if (path / "config.yaml").is_file():
            yield _line(RunDir(path))


def _line(run: RunDir) -> str:
    changed = max(file.stat().st_mtime for file in (run.metrics, run.log, run.path) if file.exists())
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(changed))
    active = time.time() - changed < RECENT_SECONDS
    newest = checkpoint.last(run.checkpoints)
    if newest is None:
        return ROW.format(run.name, "starting" if active else "no checkpoint", "", "", "", when)
    progress = checkpoint.read_progress(newest)
    state = "finished" if progress.finished else "training" if active else "stopped"
    best = "" if progress.best is None else format_score(run.config().training.metric, progress.best)
    return ROW.format(run.name, state, f"{progress.step:,}", format_duration(progress.seconds), best, when)
