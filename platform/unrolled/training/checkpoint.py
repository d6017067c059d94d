"""Checkpoints: a folder that is whole or does not exist."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from unrolled.errors import UserError


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        step: updates made.
        epoch, batch: the next global batch of the plan.
        seconds: of training, resumes included.
        best, best_step: the metric's best value on validation, and the step that had it.
        waited: validations since then.
        validated: step of the last validation.
        finished: nothing is left to do under the config that trained it.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    best: float | None = None
    best_step: int | None = None
    waited: int = 0
    validated: int | None = None
    finished: bool = False


def save(folder: Path, model: nn.Module, training: dict[str, Any], progress: Progress, keep: int) -> Path:
    """Writes `folder/step-N` atomically, then removes all but the `keep` newest and the best one.

    Args:
        folder: the run's `checkpoints`.
        training: states of optimizer and schedule.
    """
    target = folder / f"step-{progress.step}"
    building = folder / f".{target.name}.{os.getpid()}"
    building.mkdir(parents=True, exist_ok=True)
    # Tied matrices are one parameter under several names; a file holds each name with its own copy.
    weights = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    save_file(weights, building / "model.safetensors")
    torch.save(training, building / "training.pt")
    (building / "progress.json").write_text(json.dumps(asdict(progress), indent=1), encoding="utf-8")
    for path in (*building.iterdir(), building):
        _sync(path)
    shutil.rmtree(target, ignore_errors=True)
    building.rename(target)
    _sync(folder)
    _prune(folder, keep, progress.best_step)
    return target


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _prune(folder: Path, keep: int, best: int | None) -> None:
    for path in everything(folder)[:-keep]:
        if step_of(path) != best:
            shutil.rmtree(path, ignore_errors=True)
    for torn in folder.glob(".step-*"):
        shutil.rmtree(torn, ignore_errors=True)


def step_of(checkpoint: Path) -> int:
    """Returns N of `step-N`."""
    return int(checkpoint.name.removeprefix("step-"))


def everything(folder: Path) -> list[Path]:
    """Returns the checkpoints of a run, oldest first."""
    return sorted((path for path in folder.glob("step-*") if path.name[5:].isdigit()), key=step_of)


def last(folder: Path) -> Path | None:
    """Returns the newest checkpoint."""
    found = everything(folder)
    return found[-1] if found else None


def best(folder: Path) -> Path | None:
    """Returns the best checkpoint by the run's metric; before any validation, the newest."""
    newest = last(folder)
    if newest is None:
        return None
    step = read_progress(newest).best_step
    named = folder / f"step-{step}"
    return named if step is not None and named.is_dir() else newest


def read_progress(checkpoint: Path) -> Progress:
    """Reads where a checkpoint stands.

    Raises:
        UserError: the file is missing or is not ours.
    """
    path = checkpoint / "progress.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Progress(**{field.name: values[field.name] for field in fields(Progress)})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is not a checkpoint's progress ({error}).") from None


def load_model(checkpoint: Path, model: nn.Module) -> None:
    """Fills the model's parameters.

    Raises:
        UserError: the file is damaged, or belongs to another model.
    """
    path = checkpoint / "model.safetensors"
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read as a model ({error}).") from None
    own = model.state_dict()
    for name in sorted(own.keys() | weights.keys()):
        there = tuple(weights[name].shape) if name in weights else "missing"
        here = tuple(own[name].shape) if name in own else "not part of it"
        if there != here:
            raise UserError(
                f"{path}: belongs to another model: {name} is {there} there, {here} in the model of the config."
            )
    model.load_state_dict(weights)


def load_training(checkpoint: Path) -> dict[str, Any]:
    """Reads the states of optimizer and schedule.

    Raises:
        UserError: the file is damaged.
    """
    path = checkpoint / "training.pt"
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises whatever pickle, zip or the disk raised
        raise UserError(f"{path}: cannot be read as a training state ({error}).") from None
    return state
