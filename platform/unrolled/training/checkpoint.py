"""Checkpoints: atomic, checksummed, written in the background."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unrolled.errors import RunFailed, UserError

WEIGHTS, TRAINING, PROGRESS = "model.safetensors", "training.pt", "progress.json"


@dataclass
class Progress:
    """Progress of a run.

    Attributes:
        step: updates made, skipped ones included.
        epoch, batch: position of the next update: epoch, and index within the epoch's plan.
        seconds: of training, resumes included.
        first_loss: loss of the first update, that is of the untrained model.
        best, best_step: the best validation score so far and its step.
        regular_best: the best score of the regular validations, those not made merely because a run ended.
        bad_validations: regular validations since `regular_best`.
        validated: step of the last validation.
        skipped: consecutive updates, up to now, that were skipped.
        finished: whether nothing is left to do under the config that trained it.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    first_loss: float | None = None
    best: float | None = None
    best_step: int | None = None
    regular_best: float | None = None
    bad_validations: int = 0
    validated: int | None = None
    skipped: int = 0
    finished: bool = False


@dataclass(frozen=True)
class Snapshot:
    """Content of a checkpoint, copied so that training can continue while it is written.

    Attributes:
        weights: of the model, by name.
        training: `TrainStep.state_dict`.
    """

    weights: dict[str, Tensor]
    training: dict[str, Any]
    progress: Progress

    @classmethod
    def of(cls, model: nn.Module, training: dict[str, Any], progress: Progress) -> Self:
        # Tied matrices are one parameter under several names; the file holds a copy per name.
        weights = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
        return cls(weights, _copy(training), replace(progress))


def _copy(values: Any) -> Any:
    if isinstance(values, Tensor):
        return values.detach().cpu().clone()
    if isinstance(values, dict):
        return {key: _copy(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return type(values)(_copy(value) for value in values)
    return values


def save(folder: Path, snapshot: Snapshot, keep: int) -> Path:
    """Writes `folder/step-N` atomically, then removes all checkpoints but the `keep` newest and the best.

    Args:
        folder: the run's `checkpoints`.

    Raises:
        RunFailed: the disk refuses it; earlier checkpoints are unchanged.
    """
    target = folder / f"step-{snapshot.progress.step}"
    partial = folder / f".{target.name}.{os.getpid()}"
    try:
        _write(partial, snapshot)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        _sync(folder)
    except (OSError, SafetensorError, RuntimeError) as error:  # torch and safetensors wrap the disk's error
        shutil.rmtree(partial, ignore_errors=True)
        reason = getattr(error, "strerror", None) or str(error).strip().splitlines()[0]
        raise RunFailed(f"{target}: cannot be written ({reason}); older checkpoints are kept.") from None
    _prune(folder, keep, snapshot.progress.best_step)
    return target


def _write(folder: Path, snapshot: Snapshot) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(snapshot.weights, folder / WEIGHTS)
    with (folder / TRAINING).open("wb") as file:  # given a path, torch would not report the disk's error
        torch.save(snapshot.training, file)
    values = asdict(snapshot.progress)
    checksums = {name: sha256(folder / name) for name in (WEIGHTS, TRAINING)} | {PROGRESS: _progress_sha256(values)}
    (folder / PROGRESS).write_text(json.dumps(values | {"sha256": checksums}, indent=1), encoding="utf-8")
    for path in (*folder.iterdir(), folder):
        _sync(path)


def _progress_sha256(progress: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(progress, sort_keys=True).encode()).hexdigest()


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _prune(folder: Path, keep: int, best: int | None) -> None:
    for path in list_checkpoints(folder)[:-keep]:
        if step_of(path) != best:
            shutil.rmtree(path, ignore_errors=True)
    for unfinished in folder.glob(".step-*"):
        shutil.rmtree(unfinished, ignore_errors=True)


def step_of(checkpoint: Path) -> int:
    """Returns N of `step-N`."""
    return int(checkpoint.name.removeprefix("step-"))


def list_checkpoints(folder: Path) -> list[Path]:
    """Returns the checkpoints of a run, oldest first."""
    return sorted((path for path in folder.glob("step-*") if path.name[5:].isdigit()), key=step_of)


def last(folder: Path) -> Path | None:
    """Returns the newest checkpoint."""
    found = list_checkpoints(folder)
    return found[-1] if found else None


def newest_intact(folder: Path) -> tuple[Path | None, list[str]]:
    """Returns the newest checkpoint whose files are unchanged, and the errors of those after it.

    Raises:
        UserError: there are checkpoints, but all are damaged.
    """
    errors: list[str] = []
    for path in reversed(list_checkpoints(folder)):
        try:
            verify(path)
        except UserError as error:
            errors.append(str(error))
        else:
            return path, errors
    if errors:
        raise UserError(f"{errors[0]} No older checkpoint is whole; start anew with --overwrite.")
    return None, []


def verify(checkpoint: Path) -> None:
    """Checks a checkpoint's files against their checksums.

    Raises:
        UserError: a file is missing or has changed.
    """
    read_progress(checkpoint)
    for name in (WEIGHTS, TRAINING):
        _checked(checkpoint / name)


def _checked(path: Path) -> Path:
    try:
        expected = json.loads((path.parent / PROGRESS).read_text(encoding="utf-8"))["sha256"][path.name]
        same = sha256(path) == expected
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be checked ({error}).") from None
    if not same:
        raise UserError(f"{path}: is damaged: its checksum is not the one it was written with.")
    return path


def best(folder: Path) -> Path | None:
    """Returns the best checkpoint by the run's metric; before any validation, the newest."""
    newest = last(folder)
    if newest is None:
        return None
    step = read_progress(newest).best_step
    found = folder / f"step-{step}"
    return found if step is not None and found.is_dir() else newest


def read_progress(checkpoint: Path) -> Progress:
    """Reads the progress of a checkpoint.

    Raises:
        UserError: the file is missing, damaged or of another kind.
    """
    path = checkpoint / PROGRESS
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        checksums = values.pop("sha256")
        if missing := asdict(Progress()).keys() - values.keys():
            raise KeyError(*missing)
        progress, intact = Progress(**values), checksums[PROGRESS] == _progress_sha256(values)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is not a checkpoint's progress ({error}).") from None
    if not intact:
        raise UserError(f"{path}: is damaged: its checksum is not the one it was written with.")
    return progress


def load_model(checkpoints: Sequence[Path], model: nn.Module) -> None:
    """Loads the weights of one checkpoint into the model, or the mean of several, computed in float64.

    Raises:
        UserError: a file is damaged, or belongs to another model.
    """
    first, *others = checkpoints
    weights = _load_weights(first, model)
    if others:
        weights = {name: tensor.double() for name, tensor in weights.items()}
        for other in others:
            for name, tensor in _load_weights(other, model).items():
                weights[name] += tensor
        weights = {name: total / len(checkpoints) for name, total in weights.items()}
    model.load_state_dict(weights)


def _load_weights(checkpoint: Path, model: nn.Module) -> dict[str, Tensor]:
    """Reads weights, checked against the names and shapes of the model."""
    path = checkpoint / WEIGHTS
    try:
        weights: dict[str, Tensor] = load_file(_checked(path))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read as a model ({error}).") from None
    expected = model.state_dict()
    for name in sorted(expected.keys() | weights.keys()):
        there = tuple(weights[name].shape) if name in weights else "missing"
        here = tuple(expected[name].shape) if name in expected else "not part of it"
        if there != here:
            raise UserError(
                f"{path}: belongs to another model: {name} is {there} there, {here} in the model of the config."
            )
    return weights


def load_training(checkpoint: Path) -> dict[str, Any]:
    """Reads the training state, for `TrainStep.load_state_dict`.

    Raises:
        UserError: the file is damaged.
    """
    path = _checked(checkpoint / TRAINING)
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch passes on any error of pickle, zip or the disk
        raise UserError(f"{path}: cannot be read as a training state ({error}).") from None
    return state


class CheckpointWriter:
    """A thread that writes one checkpoint after another.

    Args:
        folder: the run's `checkpoints`.
        keep: number of newest checkpoints that are kept, in addition to the best.
        background: whether `save` returns at once, rather than when the checkpoint is written.
    """

    def __init__(self, folder: Path, keep: int, *, background: bool) -> None:
        self._folder, self._keep, self._background = folder, keep, background
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._pending: Future[Path] | None = None

    def save(self, snapshot: Snapshot) -> None:
        """Writes a checkpoint, after the one before it.

        Raises:
            RunFailed: this one or the one before could not be written.
        """
        self.wait()
        self._pending = self._thread.submit(save, self._folder, snapshot, self._keep)
        if not self._background:
            self.wait()

    def wait(self) -> None:
        """Waits until all checkpoints are written.

        Raises:
            RunFailed: one could not be written.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()
