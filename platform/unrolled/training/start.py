"""What a run begins with: its newest checkpoint, the weights of another run, or fresh ones."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from unrolled.config import Config
from unrolled.errors import UserError
from unrolled.tasks import Prepared, make_task
from unrolled.training import checkpoint
from unrolled.training.run import Chosen, RunFolder, choose_checkpoint, difference, open_run

KEY = "training.start_from"
FREE = ("dropout", "variational", "zoneout", "initialization", "engine", "sees")
"""Keys of a model, wherever they stand, that do not change which weights it has."""


def start(config: Config) -> Chosen | None:
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


def check_start(run: RunFolder, config: Config, data: Prepared, *, resume: bool) -> None:
    """Raises `UserError` where the run cannot begin with the weights of its checkpoint, or with those that its config
    names: they are not there, or they were learned for another task, model or vocabulary. Nothing is written."""
    newest = checkpoint.newest_whole(run.checkpoints)[0] if resume else None
    if newest is not None:
        checkpoint.load_model([newest], make_task(config, run.vocabulary).build_model())
    elif (chosen := start(config)) is not None:
        _check_first(run, config, data, chosen)


def _check_first(run: RunFolder, config: Config, data: Prepared, chosen: Chosen) -> None:
    first = open_run(str(config.training.start_from))
    if first.path == run.path:
        raise UserError(f"{KEY}: {first.path} is this run itself; give this one another name=….")
    before = first.config()
    if before.task != config.task:
        raise UserError(f"{KEY}: {first.path} was trained with task={before.task}, the config says {config.task}.")
    changed = difference(_fixed(before.model.model_dump()), _fixed(config.model.model_dump()), "model")
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
