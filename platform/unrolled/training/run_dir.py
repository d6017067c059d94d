"""Run directories: paths and files of a run, choice of a checkpoint, initial weights, and the list of runs."""

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
from unrolled.config.load import dump_stored_config, first_difference, load_stored_config, resolve_storage, value_at
from unrolled.errors import RunFailed, UserError, did_you_mean, listing
from unrolled.files import explain_write_errors, read_json_lines, write_atomic
from unrolled.tasks import PreparedData, make_task
from unrolled.training import checkpoint
from unrolled.training.console import format_duration, format_score

CHECKPOINTS_KEPT = "; the checkpoints are kept"
"""End of the sentence about a disk that refuses a file during training."""


@dataclass(frozen=True)
class RunDir:
    """Paths and small files of one run."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

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
        """While open, no other process trains this run; a process that dies releases the lock.

        Raises:
            UserError: another process holds it, or nothing can be written there.
        """
        # Next to the folder, which `--overwrite` removes.
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

    def config(self, overrides: Sequence[str] = ()) -> Config:
        """Reads the run's complete config, with `overrides` such as ``decoding.beam.size=10``.

        Raises:
            UserError: an override is invalid, or the folder has another format than this version reads.
        """
        return load_stored_config(self.config_file, overrides)

    def initialize(self, config: Config, data: PreparedData, *, resume: bool) -> None:
        """Writes config and vocabulary; without `resume`, the previous content of the folder is removed.

        Raises:
            UserError: the run to resume was trained on other data, or the folder cannot be written; what a run to
                resume needs is then unchanged.
        """
        fingerprint = self.vocabulary / "fingerprint"
        known = resume and fingerprint.is_file()
        if known and fingerprint.read_text(encoding="utf-8") != data.fingerprint:
            raise UserError(
                f"data: their content has changed since {self.path} was trained; a resumed run needs the same."
            )
        with explain_write_errors(self.path):
            if not resume and self.path.exists():
                shutil.rmtree(self.path)
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomic(self.config_file, dump_stored_config(config))
            if not known:
                data.save(self.vocabulary)
                write_atomic(fingerprint, data.fingerprint)
            self.checkpoints.mkdir(exist_ok=True)

    def history(self) -> list[dict[str, Any]]:
        """Reads all rows of metrics.jsonl."""
        return read_json_lines(self.metrics)

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Appends a row to metrics.jsonl.

        Raises:
            RunFailed: the disk refuses it.
        """
        with (
            explain_write_errors(self.metrics, RunFailed, CHECKPOINTS_KEPT),
            self.metrics.open("a", encoding="utf-8") as file,
        ):
            file.write(json.dumps(row) + "\n")

    def truncate_metrics(self, step: int) -> None:
        """Removes the rows after `step`, which a run that continues from there writes again.

        Raises:
            RunFailed: the disk refuses the file.
        """
        with explain_write_errors(self.metrics, RunFailed, CHECKPOINTS_KEPT):
            rows = [row for row in self.history() if row["step"] <= step]
            write_atomic(self.metrics, "".join(json.dumps(row) + "\n" for row in rows))


def open_run(path: str | Path) -> RunDir:
    """Opens an existing run folder; a relative path as `resolve_storage` reads it.

    Raises:
        UserError: there is no run.
    """
    run = RunDir(resolve_storage(path))
    if not run.config_file.is_file():
        others = [str(Path(path).parent / other.name) for other in run.path.parent.glob("*") if other.is_dir()]
        raise UserError(f"{path}: is not a run folder (no config.yaml there).{did_you_mean(str(path), others)}")
    return run


def resolve_run_dir(config: Config, *, resume: bool, overwrite: bool) -> RunDir:
    """Returns the folder for a run to train, checked and unchanged.

    Raises:
        UserError: it exists and neither `resume` nor `overwrite` is set; there is nothing to resume, or the existing
            run has another task, data, model or format; it is not a run, so it is not overwritten.
    """
    run = RunDir(resolve_storage(config.storage) / config.name)
    exists = run.path.exists() and not (run.path.is_dir() and not any(run.path.iterdir()))
    if resume and overwrite:
        raise UserError("--resume and --overwrite contradict each other: give one of them.")
    if resume:
        _check_resumable(run, config)
    elif exists and not overwrite:
        raise UserError(
            f"{run.path} exists already: give --resume to continue it, --overwrite to replace it, or name=OTHER."
        )
    elif exists and not run.config_file.is_file():
        raise UserError(f"{run.path} is not a run (it has no config.yaml), so --overwrite leaves it alone.")
    return run


def _check_resumable(run: RunDir, config: Config) -> None:
    if not run.config_file.is_file():
        raise UserError(f"{run.path}: there is no run to resume; leave --resume out to start it.")
    before, now = run.config().model_dump(), config.model_dump()
    if before["task"] != now["task"]:
        raise UserError(f"{run.path} was trained with task={before['task']}, the config says {now['task']}.")
    for frozen in config.frozen_keys:
        if changed := first_difference(value_at(before, frozen), value_at(now, frozen), frozen):
            key, old, new = changed
            raise UserError(
                f"{run.path} was trained with {key}={old}, the config says {new}: a resumed run keeps "
                f"{listing(config.frozen_keys)}; give another name=… for the change."
            )


# Choice of a checkpoint -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChosenCheckpoint:
    """A checkpoint, or several whose weights are averaged (Junczys-Dowmunt et al. 2016; Vaswani et al. 2017, section
    6.1)."""

    folders: tuple[Path, ...]

    @property
    def name(self) -> str:
        """As reports print it: `step-9`, or `average of step-6, step-9`."""
        names = ", ".join(folder.name for folder in self.folders)
        return names if len(self.folders) == 1 else f"average of {names}"


def choose_checkpoint(run: RunDir, which: str = "best") -> ChosenCheckpoint:
    """Returns a checkpoint of a run, or several to average.

    Args:
        which: `best`, `last` or `step-N`; `average` for all that the run kept, `average-N` for the N newest of them.

    Raises:
        UserError: there is none of that name, or there are fewer than N.
    """
    kept = checkpoint.list_checkpoints(run.checkpoints)
    if which == "best" and (best := checkpoint.best(run.checkpoints)) is not None:
        return ChosenCheckpoint((best,))
    if not kept:
        raise UserError(f"{run.path}: has no checkpoint yet; train it first.")
    if which == "last":
        return ChosenCheckpoint((kept[-1],))
    if which.partition("-")[0] == "average":
        return ChosenCheckpoint(tuple(kept[-_average_count(run, which, kept) :]))
    names = [path.name for path in kept]
    if which not in names:
        known = ["best", "last", "average", *names]
        raise UserError(f"--checkpoint {which}: {run.path} has {listing(known)}.{did_you_mean(which, known)}")
    return ChosenCheckpoint((run.checkpoints / which,))


def _average_count(run: RunDir, which: str, kept: Sequence[Path]) -> int:
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


# Initial weights ------------------------------------------------------------------------------------------

START_FROM = "training.start_from"
WEIGHT_INDEPENDENT_KEYS = ("dropout", "variational", "zoneout", "initialization", "engine", "sees")
"""Keys of a model, in any section, that do not change which weights it has."""


def initial_weights(config: Config) -> ChosenCheckpoint | None:
    """Returns the weights of another run that a new run begins with; `None` for fresh ones.

    Raises:
        UserError: there is no such run, or it has no checkpoint.
    """
    source = config.training.start_from
    if source is None:
        return None
    try:
        return choose_checkpoint(open_run(source))
    except UserError as error:
        raise UserError(f"{START_FROM}: {error}") from None


def check_initial_weights(run: RunDir, config: Config, data: PreparedData, *, resume: bool) -> None:
    """Checks, without writing, that a run can begin with the weights of its checkpoint or of `training.start_from`.

    Raises:
        UserError: they are missing, or belong to another task, model or vocabulary.
    """
    newest = checkpoint.newest_intact(run.checkpoints)[0] if resume else None
    if newest is not None:
        checkpoint.load_model([newest], make_task(config, run.vocabulary).build_model())
    elif (chosen := initial_weights(config)) is not None:
        _check_source_run(run, config, data, chosen)


def _check_source_run(run: RunDir, config: Config, data: PreparedData, chosen: ChosenCheckpoint) -> None:
    source = open_run(str(config.training.start_from))
    if source.path == run.path:
        raise UserError(f"{START_FROM}: {source.path} is this run itself; give this one another name=….")
    before = source.config()
    if before.task != config.task:
        raise UserError(
            f"{START_FROM}: {source.path} was trained with task={before.task}, the config says {config.task}."
        )
    old_model, new_model = (_weight_keys(each.model.model_dump()) for each in (before, config))
    if changed := first_difference(old_model, new_model, "model"):
        key, old, new = changed
        raise UserError(f"{START_FROM}: {source.path} was trained with {key}={old}, the config says {new}.")
    with TemporaryDirectory(prefix="unrolled-start-") as scratch:
        vocabulary = Path(scratch)
        data.save(vocabulary)
        for path in sorted(vocabulary.iterdir()):
            other = source.vocabulary / path.name
            if not other.is_file() or other.read_bytes() != path.read_bytes():
                raise UserError(
                    f"{START_FROM}: {source.path} has another {path.name}: give this run the data of that one."
                )
        checkpoint.load_model(chosen.folders, make_task(config, vocabulary).build_model())


def _weight_keys(model: dict[str, Any]) -> dict[str, Any]:
    """Returns the section without `WEIGHT_INDEPENDENT_KEYS`."""
    return {
        key: _weight_keys(value) if isinstance(value, dict) else value
        for key, value in model.items()
        if key not in WEIGHT_INDEPENDENT_KEYS
    }


# List of runs ---------------------------------------------------------------------------------------------

ROW = "{:<24} {:<14} {:>9} {:>8}  {:<22} {}"
RECENT_SECONDS = 180
"""A run whose metrics or log changed within this time is assumed to be training."""


def list_runs(storage: str | Path) -> Iterator[str]:
    """Yields a heading and one line per run: name, state, steps, time, best score, last change.

    Raises:
        UserError: there is no such folder.
    """
    folder = resolve_storage(storage)
    if not folder.is_dir():
        raise UserError(f"{storage}: there is no such folder of runs.")
    yield ROW.format("RUN", "STATE", "STEPS", "TIME", "BEST", "CHANGED")
    for path in sorted(folder.iterdir()):
        if RunDir(path).config_file.is_file():
            yield _table_line(RunDir(path))


def _table_line(run: RunDir) -> str:
    changed = max(file.stat().st_mtime for file in (run.metrics, run.log, run.path) if file.exists())
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(changed))
    active = time.time() - changed < RECENT_SECONDS
    newest = checkpoint.last(run.checkpoints)
    if newest is None:
        return ROW.format(run.name, "starting" if active else "no checkpoint", "", "", "", when)
    try:
        progress, metric = checkpoint.read_progress(newest), run.config().training.metric
    except UserError:  # a damaged checkpoint or another format, as any other command on the run says
        return ROW.format(run.name, "unreadable", "", "", "", when)
    state = "finished" if progress.finished else "training" if active else "stopped"
    best = "" if progress.best is None else format_score(metric, progress.best)
    return ROW.format(run.name, state, f"{progress.step:,}", format_duration(progress.seconds), best, when)
