"""The commands as Python functions: what the command line calls, and what a notebook calls.

import unrolled
run = unrolled.train("configs/translation/dates.yaml", workers=2)
report = run.evaluate(split="test")
run.generate(["Monday 3 March 2025"])
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

import unrolled
from unrolled.cluster.session import connect
from unrolled.config import Config, smoke
from unrolled.config_file import load_config
from unrolled.data.corpus import Prepared, prepare
from unrolled.decoding import choose
from unrolled.errors import UserError
from unrolled.evaluation.decoder import Decoder
from unrolled.evaluation.evaluate import Report, evaluate, split_texts
from unrolled.evaluation.job import Here, OnRay
from unrolled.tasks import make_task
from unrolled.training import checkpoint
from unrolled.training.checkpoint import Progress
from unrolled.training.comm import Alone
from unrolled.training.console import Console, duration
from unrolled.training.launch import launch
from unrolled.training.run import RunFolder, choose_checkpoint, claim, open_run
from unrolled.training.signals import stopping
from unrolled.training.worker import work

STRATEGIES = ("greedy", "sample", "beam")


@dataclass(frozen=True)
class Run:
    """A trained run.

    Attributes:
        folder: its files.
        interrupted: whether the last training ended before its time, on request.
    """

    folder: RunFolder
    interrupted: bool = False

    @property
    def path(self) -> Path:
        return self.folder.path

    def evaluate(
        self,
        split: str = "test",
        decode: Sequence[str] = STRATEGIES,
        *,
        overrides: Sequence[str] = (),
        checkpoint: str = "best",
        workers: int = 1,
        local: bool = False,
        address: str | None = None,
        console: Console | None = None,
    ) -> Report:
        """Decodes a split with every strategy of `decode`, scores it and writes the report.

        Args:
            split: `train`, `validation`, `test`, or another split of the data.
            overrides: of the run's config, such as ``decoding.beam.size=10``.
            checkpoint: `best`, `last` or `step-N`.
            workers: Ray workers that share the split; with `local`, this process does it all.
            address: of a running Ray cluster; default: `$RAY_ADDRESS`, else a Ray of our own.

        Raises:
            UserError: something given cannot be used; nothing was written then.
        """
        console = console or Console()
        config = load_config(self.path / "config.yaml", overrides)
        strategies = choose(decode, config.decoding)
        chosen = choose_checkpoint(self.folder, checkpoint)
        texts = split_texts(config, split)
        given = ["unrolled", "evaluate", str(self.path), "--split", split, "--decode", ",".join(decode), *overrides]
        with ExitStack() as session:
            writer: Here | OnRay
            if local:
                writer = Here(self.folder, config, chosen)
            else:
                resources = session.enter_context(connect(address, self.folder.log))
                cpus, gpu = resources.share(workers)
                writer = OnRay(self.folder, config, chosen, workers=workers, cpus=cpus, gpu=gpu)
            return evaluate(
                self.folder,
                config,
                chosen,
                split,
                strategies,
                texts,
                writer,
                command=shlex.join(given),
                version=unrolled.__version__,
                show=console.decoding,
            )

    def generate(
        self, texts: Sequence[str], decode: str = "beam", *, overrides: Sequence[str] = (), checkpoint: str = "best"
    ) -> list[str]:
        """Returns one output a text. Arguments as in `evaluate`."""
        config = load_config(self.path / "config.yaml", overrides)
        strategy = choose([decode], config.decoding)[decode]
        decoder = Decoder(self.folder, config, choose_checkpoint(self.folder, checkpoint))
        return decoder.decode(strategy, range(len(texts)), texts)


def load(path: str | Path) -> Run:
    """Opens the folder of a run; raises `UserError` if it is none."""
    return Run(open_run(path))


def train(
    config: str | Path | Config,
    *,
    overrides: Sequence[str] = (),
    workers: int = 1,
    local: bool = False,
    address: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    tiny: bool = False,
    console: Console | None = None,
) -> Run:
    """Trains what a config describes, into the run folder that it names.

    Args:
        config: a YAML file, or a config made in Python (then without `overrides`).
        overrides: such as ``model.decoder.cell=lstm``.
        workers: data-parallel Ray Train workers, each with a GPU where there are as many.
        local: train in this process, without Ray.
        address: of a running Ray cluster; default: `$RAY_ADDRESS`, else a Ray of our own.
        resume: continue from the newest checkpoint.
        overwrite: replace a run of that name.
        tiny: few examples and few steps, to try a config.

    Raises:
        UserError: something given cannot be used; nothing was written then.
        RunFailed: training began and could not end; its checkpoints are kept.
    """
    console = console or Console()
    if local and workers != 1:
        raise UserError(f"--local trains in one process, so --workers {workers} cannot be kept; leave one of them out.")
    settings = config if isinstance(config, Config) else load_config(config, overrides)
    settings = smoke(settings) if tiny else settings
    run = claim(settings, resume=resume, overwrite=overwrite)
    data = prepare(settings.data)
    if resume and (newest := checkpoint.last(run.checkpoints)) is not None:
        checkpoint.load_model(newest, make_task(settings, run.vocabularies()).build_model())
    with ExitStack() as session:
        cpus, gpu = torch.get_num_threads(), torch.cuda.is_available()
        where = "this process, without Ray"
        if not local:
            resources = session.enter_context(connect(address, run.log))
            cpus, gpu = resources.share(workers)
            where = f"{workers} Ray worker{'s' if workers > 1 else ''} with {cpus} CPU{'s' if cpus > 1 else ''}"
            where += " and a GPU each" if gpu else " each"
        session.enter_context(run.held())
        run.start(settings, data, resume=resume)
        console.begin(settings, _introduction(settings, run, data, where))
        session.enter_context(stopping(run, console))
        if local:
            device = torch.device("cuda" if gpu else "cpu")
            progress = work(run, data.fingerprint, Alone(), device=device, threads=None, show=console.show)
        else:
            progress = launch(
                run,
                data.fingerprint,
                console,
                workers=workers,
                cpus=cpus,
                gpu=gpu,
                restarts=settings.training.restarts,
            )
    _conclude(console, settings, run, progress)
    return Run(run, interrupted=not progress.finished)


def _introduction(config: Config, run: RunFolder, data: Prepared, where: str) -> list[str]:
    model = make_task(config, data.vocabularies).build_model()
    encoder, decoder, words = config.model.encoder, config.model.decoder, data.vocabularies
    sees = f"{decoder.attention.score} attention" if decoder.conditioning == "attention" else "the summary alone"
    both = "bidirectional " if encoder.bidirectional else ""
    size = (
        f"{len(words.input):,} shared"
        if config.data.vocabulary.shared
        else f"{len(words.input):,} + {len(words.target):,}"
    )
    return [
        f"run      {run.path}",
        f"model    {sum(p.numel() for p in model.parameters()):,} parameters: {both}{encoder.cell} {encoder.hidden} → "
        f"{decoder.cell} {decoder.hidden} with {sees}",
        f"data     {config.data.source}: {len(data.split('train')):,} pairs to learn from, "
        f"{len(data.split('validation')):,} to validate; {config.data.vocabulary.kind} vocabulary of {size}",
        f"workers  {where}",
    ]


def _conclude(console: Console, config: Config, run: RunFolder, progress: Progress) -> None:
    metric = config.training.metric.replace("_", " ")
    done = f"{progress.step:,} steps in {duration(progress.seconds)}"
    if progress.best is not None:
        done += f"; best {metric} {progress.best:.{3 if metric == 'loss' else 1}f} at step {progress.best_step:,}"
    if not progress.finished:
        console.say(f"stopped: {done}")
        console.say(f"continue with: unrolled train {run.path / 'config.yaml'} --resume")
        return
    console.say(f"trained: {done}")
    console.say(f"evaluate with: unrolled evaluate {run.path} --split test --decode {','.join(STRATEGIES)}")
