"""The tuner: Ray Tune runs the trials of a plan under a scheduler, and the records keep how they end.

Schedulers see a trial's `score` against its `progress`, of which a training has 1 / `tuning.grace`.
"""

from __future__ import annotations

import random
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import ray.tune
from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    HyperBandScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)
from ray.tune.search import Searcher

from unrolled.config import Config, Tuning
from unrolled.errors import RunFailed, UserError
from unrolled.tuning.progress import write_hparams
from unrolled.tuning.samplers import Sampler, build_sampler, num_points
from unrolled.tuning.search_space import Point, Space, perturb
from unrolled.tuning.sweep_checks import FingerprintCache
from unrolled.tuning.sweep_dir import (
    DIVERGED,
    FAILED,
    RUNNING,
    SCORED,
    STOPPED,
    Record,
    ScoreTracker,
    TrialConfig,
    TrialRecords,
    divergence,
    mode,
    run_config,
)
from unrolled.tuning.trial import INTERRUPTED, Trial, TrialSpec

if TYPE_CHECKING:
    from unrolled.cluster.ray_session import Resources

REDUCTION_FACTOR = 3
"""One of so many trials is continued at each rung of ASHA and HyperBand."""
MIN_SAMPLES = 3
"""Trials from which the median rule takes a median."""


def build_scheduler(tuning: Tuning, mode: str, seed: int) -> Any:
    """Returns the scheduler that `tuning.scheduler` names.

    Args:
        mode: `min` or `max`, of the score.
    """
    attributes = {"time_attr": "progress", "metric": "score", "mode": mode}
    max_progress = 1 / tuning.grace
    if tuning.scheduler == "asha":
        # A little more than the maximum, so that the scheduler stops no trial that finishes.
        return ASHAScheduler(
            **attributes, max_t=max_progress * 1.001, grace_period=1, reduction_factor=REDUCTION_FACTOR
        )
    if tuning.scheduler == "hyperband":
        return HyperBandScheduler(**attributes, max_t=round(max_progress), reduction_factor=REDUCTION_FACTOR)
    if tuning.scheduler == "median":
        return MedianStopping(**attributes, grace_period=1, min_samples_required=MIN_SAMPLES)
    if tuning.scheduler == "pbt":
        return PopulationTraining(**attributes, space=tuning.space, seed=seed)
    return FIFOScheduler()


class PopulationTraining(PopulationBasedTraining):  # type: ignore[misc]
    """Population-based training (Jaderberg et al. 2017): a trial of the worst quarter continues from a checkpoint of
    the best quarter, with perturbed values of that trial."""

    def __init__(self, *, space: Space, seed: int, **attributes: str) -> None:
        # Ray wants an explore function, though `_get_new_config` replaces what calls it.
        super().__init__(perturbation_interval=1, custom_explore_fn=dict, require_attrs=False, **attributes)
        self._space, self._generator = space, random.Random(seed)

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        spec, other = trial.config["spec"], trial_to_clone.config["spec"]
        parameters = perturb(self._space, other["trial"]["parameters"], self._generator)
        return {"spec": spec | {"trial": spec["trial"] | {"parameters": parameters}}}, {}


class MedianStopping(MedianStoppingRule):  # type: ignore[misc]
    """The median stopping rule (Golovin et al. 2017), without pauses for trials that lag behind."""

    def _on_insufficient_samples(self, _controller: Any, _trial: Any, _time: float) -> str:
        return str(TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Ignores the last result: it has been reported before, or says that the trial diverged."""


@dataclass(frozen=True)
class ReplayedTrial:
    """A trial of an earlier start, as schedulers know trials."""

    trial_id: str


def replay(scheduler: Any, name: str, results: Iterable[dict[str, Any]]) -> None:
    """Reports the results of a trial of an earlier start to a scheduler, so that new trials compare with it."""
    trial = ReplayedTrial(name)
    scheduler.on_trial_add(None, trial)
    for result in results:
        scheduler.on_trial_result(None, trial, result)


class TrialPlan:
    """The trials of a sweep in order: those that an earlier start left open, then new points with all their seeds.

    Args:
        num_points: points of the sweep, earlier starts included; None: all that the sampler has.
        seed: the first seed of each point.
    """

    def __init__(
        self, tuning: Tuning, sampler: Sampler, records: TrialRecords, *, num_points: int | None, seed: int
    ) -> None:
        self._sampler, self._records, self._num_points = sampler, records, num_points
        self._seeds, self._seed = tuning.seeds, seed
        self._points = 0
        self._open: dict[int, set[str]] = {}
        self._queue: deque[TrialConfig] = deque()
        self.closed = False
        points = {record["point"]: record["parameters"] for record in records.records.values()}
        for point in sorted(points):  # continue where earlier starts ended
            sampler.restore(points[point])
            self._enqueue(point, points[point])

    def _enqueue(self, point: int, parameters: Point) -> None:
        trials = [
            TrialConfig(f"{point * self._seeds + index + 1:04}", point, self._seed + index, parameters)
            for index in range(self._seeds)
        ]
        self._points = point + 1
        ended = {name for name, one in self._records.records.items() if one["state"] not in (RUNNING, FAILED)}
        open_trials = [trial for trial in trials if trial.name not in ended]
        self._open[point] = {trial.name for trial in open_trials}
        self._queue.extend(open_trials)
        self._tell_sampler(point)

    def next(self) -> TrialConfig | None:
        """Returns the next trial, which is recorded as started; None where there is none left."""
        if self.closed:
            return None
        if not self._queue and (self._num_points is None or self._points < self._num_points):
            point = self._sampler.ask()
            if point is not None:
                self._enqueue(self._points, point)
        if not self._queue:
            return None
        trial = self._queue.popleft()
        self._records.start(trial)
        return trial

    def complete(self, name: str) -> None:
        """Marks a trial as ended; with the last trial of a point the sampler gets its scores."""
        point = self._records.records[name]["point"]
        self._open[point].discard(name)
        self._tell_sampler(point)

    def _tell_sampler(self, point: int) -> None:
        if not self._open[point]:
            self._sampler.tell(point, self._records.mean_scores(point))


POLL_SECONDS = 0.2
TIME_OVER = "the time of the sweep was over"


@dataclass(frozen=True)
class TrialResources:
    """Resources of each trial.

    Attributes:
        trials: number of concurrent trials.
        workers: workers per trial; a single one trains in the trial's own process.
        cpus: CPUs per worker.
        gpu: whether each worker has a GPU.
    """

    trials: int
    workers: int
    cpus: int
    gpu: bool


def divide_resources(resources: Resources, tuning: Tuning, workers: int) -> TrialResources:
    """Divides the resources of a cluster among trials.

    Raises:
        UserError: the cluster cannot hold a single trial, now or ever.
    """
    resources.require(workers)
    most = (resources.capacity(1, 1) or resources.capacity(1, 0)) // workers
    most = min(most, tuning.concurrent or most)
    try:
        return TrialResources(most, workers, *resources.per_worker(most * workers))
    except UserError:  # others use some of them
        free = int(resources.free_gpus or resources.free_cpus) // workers
        trials = max(1, min(most, free))
        return TrialResources(trials, workers, *resources.per_worker(trials * workers))


class PlanSearcher(Searcher):  # type: ignore[misc]
    """Suggests the trials of a plan to Ray Tune."""

    def __init__(self, plan: TrialPlan, make_spec: Callable[[TrialConfig], TrialSpec]) -> None:
        super().__init__(metric="score", mode="min")
        self._plan, self._make_spec = plan, make_spec

    def set_search_properties(self, *_: Any, **__: Any) -> bool:
        """Ignores metric, mode and space: the plan has its own."""
        return True

    def suggest(self, trial_id: str) -> Any:
        trial = self._plan.next()
        return Searcher.FINISHED if trial is None else {"spec": asdict(self._make_spec(trial))}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Does nothing: `TrialCallback` tells the plan."""

    def __getstate__(self) -> dict[str, Any]:
        """Returns no state: a sweep is resumed from trials.jsonl."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Saves nothing, as for `__getstate__`."""

    def restore(self, checkpoint_path: str) -> None:
        """Restores nothing, as for `__getstate__`."""


class TrialCallback(ray.tune.Callback):  # type: ignore[misc]
    """Records how trials end; Ray Tune calls it in its own thread.

    Attributes:
        events: pairs of a trial's name and the row of a validation, or the record of a trial that ended.
        stop_reason: why interrupted trials that have a score count as stopped; None: they are left open.
    """

    def __init__(self, records: TrialRecords, plan: TrialPlan) -> None:
        self._records, self._plan = records, plan
        self.events: SimpleQueue[tuple[str, dict[str, Any]]] = SimpleQueue()
        self.stop_reason: str | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Returns no state, as for `PlanSearcher`."""
        return {}

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        if "row" in result:
            self.events.put((_name(trial), result["row"]))

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        name, last = _name(trial), trial.last_result or {}
        state, reason = last.get("state", RUNNING), last.get("reason")
        if state == INTERRUPTED:
            if self.stop_reason is not None and "score" in last:
                self._finish(name, STOPPED, self.stop_reason)
            return
        if state == RUNNING:
            self._records.sweep.trial(name).stop_file.touch()
            state, reason = STOPPED, f"stopped by {self._records.scheduler}"
        self._finish(name, state, reason)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        lines = [line for line in str(trial.get_error() or "").splitlines() if line.strip()]
        self._finish(_name(trial), FAILED, lines[-1].strip() if lines else "it failed too often")

    def _finish(self, name: str, state: str, reason: str | None) -> None:
        run = self._records.sweep.trial(name)
        if state in SCORED and (how := divergence(run)) is not None:
            state, reason = DIVERGED, how
        record = self._records.finish(name, state, reason)
        if run.path.is_dir():
            write_hparams(run, record)
        self._plan.complete(name)
        self.events.put((name, record))


def _name(trial: Any) -> str:
    return str(trial.config["spec"]["trial"]["name"])


class Tuner:
    """A sweep that is ready to run, or to continue where its records end.

    Args:
        smoke: whether trials are smoke tests of few examples and steps.
    """

    def __init__(self, records: TrialRecords, config: Config, resources: TrialResources, *, smoke: bool) -> None:
        assert config.tuning is not None
        self.records, self.config, self.resources, self.smoke = records, config, resources, smoke
        self.tuning: Tuning = config.tuning
        directions = ["minimize" if mode(name) == "min" else "maximize" for name in records.metrics]
        sampler = build_sampler(self.tuning, directions, config.seed)
        self.plan = TrialPlan(self.tuning, sampler, records, num_points=num_points(self.tuning), seed=config.seed)
        self.callback = TrialCallback(records, self.plan)
        self._scheduler = build_scheduler(self.tuning, mode(records.metrics[0]), config.seed)
        self._fingerprints = FingerprintCache()
        self._latest = self.tuning.scheduler == "pbt"  # copies the current parameters, not the best
        if self.tuning.scheduler in ("asha", "median"):  # the others compare only trials that run at the same time
            for record in records.records.values():
                if record["state"] in SCORED:
                    replay(self._scheduler, record["name"], self._results(record))

    @property
    def num_trials(self) -> int | None:
        """The number of trials; None: as many as the grid has."""
        points = num_points(self.tuning)
        return None if points is None else points * self.tuning.seeds

    def fit(self, on_event: Callable[[str, dict[str, Any]], None], on_poll: Callable[[], None]) -> bool:
        """Runs the sweep in a thread, so that this one receives signals; returns whether it ended uninterrupted.

        Args:
            on_event: called with a trial's name and the row of a validation, or the record of a trial that ended.
            on_poll: called several times per second.

        Raises:
            RunFailed: Ray Tune failed.
        """
        failures: list[str] = []

        def fit() -> None:
            try:
                self._ray_tuner().fit()
            except Exception:
                failures.append(traceback.format_exc())

        thread = threading.Thread(target=fit, name="ray_tune", daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(POLL_SECONDS)
            self._stop_if_due()
            self._handle_events(on_event)
            on_poll()
        self._handle_events(on_event)
        if failures:
            log = self.records.sweep.run.log
            with suppress(OSError), log.open("a", encoding="utf-8") as file:
                file.write(failures[0])
            raise RunFailed(f"the search failed: {failures[0].splitlines()[-1]}. Details: {log}")
        return not self._is_interrupted

    @property
    def _is_interrupted(self) -> bool:
        return self.records.sweep.run.stop_file.exists()

    def _stop_if_due(self) -> None:
        """Asks all trials to stop after an interruption or at the time limit."""
        minutes = self.tuning.minutes
        if minutes is not None and self.records.seconds > minutes * 60:
            self.callback.stop_reason = TIME_OVER
        if self._is_interrupted or self.callback.stop_reason:
            self.plan.closed = True
            for name in self.records.running():
                run = self.records.sweep.trial(name)
                if run.path.is_dir():
                    run.stop_file.touch()

    def _handle_events(self, on_event: Callable[[str, dict[str, Any]], None]) -> None:
        while True:
            try:
                on_event(*self.callback.events.get_nowait())
            except Empty:
                return

    def _ray_tuner(self) -> ray.tune.Tuner:
        options: dict[str, Any] = {"search_alg": PlanSearcher(self.plan, self._spec), "num_samples": -1}
        space: dict[str, Any] = {}
        if self.resources.workers > 1:
            options["max_concurrent_trials"] = self.resources.trials
        if self.tuning.scheduler == "pbt":  # needs its whole population from the start
            trials = iter(self.plan.next, None)
            options, space = {}, {"spec": ray.tune.grid_search([asdict(self._spec(trial)) for trial in trials])}
        return ray.tune.Tuner(
            Trial,
            param_space=space,
            tune_config=ray.tune.TuneConfig(
                **options,
                scheduler=self._scheduler,
                reuse_actors=True,
                trial_name_creator=_name,
                trial_dirname_creator=_name,
            ),
            run_config=ray.tune.RunConfig(
                name="trials",
                storage_path=str(self.records.sweep.scratch),
                failure_config=ray.tune.FailureConfig(max_failures=self.config.training.restarts),
                checkpoint_config=ray.tune.CheckpointConfig(checkpoint_at_end=False),
                callbacks=[self.callback],
                verbose=0,
            ),
        )

    def _spec(self, trial: TrialConfig) -> TrialSpec:
        sweep = self.records.sweep
        return TrialSpec(
            sweep=str(sweep.path),
            trial=asdict(trial),
            fingerprint=self._fingerprints(run_config(self.config, sweep, trial, smoke=self.smoke)),
            metric=self.records.metrics[0],
            unit=self.tuning.grace,
            latest=self._latest,
            smoke=self.smoke,
            workers=self.resources.workers,
            cpus=self.resources.cpus,
            gpu=self.resources.gpu,
        )

    def _results(self, record: Record) -> list[dict[str, float]]:
        run = self.records.sweep.trial(record["name"])
        tracker = ScoreTracker(run.config(), self.records.metrics[0], self.tuning.grace, latest=self._latest)
        return [tracker(row) for row in run.history() if row["kind"] == "validation"]
