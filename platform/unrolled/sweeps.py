"""Sweeps as a Python function: what `unrolled tune` calls, and what a notebook calls.

import unrolled
sweep = unrolled.tune("configs/memory/sweep.yaml")
sweep.best.evaluate(split="validation")
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import unrolled
from unrolled.api import Run
from unrolled.cluster.session import connect
from unrolled.config import Config
from unrolled.config_file import load_config
from unrolled.training.console import Console
from unrolled.training.signals import stopping
from unrolled.tuning.folder import SweepFolder, claim_sweep, source_of
from unrolled.tuning.ledger import Ledger, Origin
from unrolled.tuning.prepare import check_sweep
from unrolled.tuning.progress import Progress, conclusion, introduction
from unrolled.tuning.report import write_report
from unrolled.tuning.search import Search, share


@dataclass(frozen=True)
class Sweep:
    """A sweep and what it found.

    Attributes:
        summary: what its sweep.json holds.
        interrupted: whether it ended before its time, on request.
    """

    folder: SweepFolder
    summary: dict[str, Any]
    interrupted: bool = False

    @property
    def path(self) -> Path:
        return self.folder.path

    @property
    def best(self) -> Run | None:
        """The best trial, if any has a score."""
        name = self.summary["best"]
        return None if name is None else Run(self.folder.trial(name))


def tune(
    config: str | Path | Config,
    *,
    overrides: Sequence[str] = (),
    trials: int | None = None,
    workers: int = 1,
    address: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    tiny: bool = False,
    console: Console | None = None,
) -> Sweep:
    """Searches the space of a config's `tuning` section with many trainings on Ray Tune.

    Args:
        config: a YAML file, the folder of a sweep, or a config made in Python (then without `overrides`).
        trials: points of the space, in place of `tuning.trials`.
        workers: Ray Train workers of every trial; 1: it trains in the trial's own process.
        resume: continue: what ended is not trained again, the rest goes on from its checkpoints.
        overwrite: replace a sweep of that name.
        tiny: few trials of few examples and few steps, to try a config.
        overrides, address: as for `train`.

    Raises:
        UserError: something given cannot be used; nothing was written then.
    """
    console = console or Console()
    given = shlex.join(["unrolled", "tune", str(config) if not isinstance(config, Config) else config.name, *overrides])
    settings = config if isinstance(config, Config) else load_config(*source_of(config, overrides))
    settings, tuning, metrics = check_sweep(settings, trials=trials, workers=workers, tiny=tiny)
    sweep = claim_sweep(settings, resume=resume, overwrite=overwrite)
    with ExitStack() as session:
        resources = session.enter_context(connect(address, sweep.run.log))
        shares = share(resources, tuning, workers)
        session.enter_context(sweep.run.held())
        sweep.start(settings, resume=resume)
        ledger = Ledger(sweep, settings, metrics, Origin(given, shares.trials, unrolled.__version__))
        search = Search.of(ledger, settings, shares, tiny=tiny)
        for line in introduction(ledger, shares.trials, shares.cpus, workers):
            console.say(line)
        session.enter_context(stopping(sweep.run, console))
        progress = Progress(console, ledger, search.count)
        whole = search(progress.show, progress.look)
        progress.close()
        summary = ledger.write()
        write_report(summary, sweep.page)
        shutil.rmtree(sweep.scratch, ignore_errors=True)
    for line in conclusion(ledger, whole=whole):
        console.say(line)
    return Sweep(sweep, summary, interrupted=not whole)
