"""The tuner and its schedulers: Ray Tune runs the trials that the plan orders.

Ray Tune's schedulers, as the tuning section names them.

They see a trial's `score` against its `progress`, of which `tuning.grace` of a training is 1.

Which trial comes next.

The search itself: Ray Tune runs trials that the plan orders, and the ledger hears how they end.
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
from typing import Any, Protocol, Self

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
from unrolled.tuning.samplers import Sampler, build_sampler, count
from unrolled.tuning.search_space import Point, Space, perturbed
from unrolled.tuning.sweep_dir import (
    DIVERGED,
    FAILED,
    RUNNING,
    SCORED,
    STOPPED,
    Ledger,
    Record,
    ScoreTracker,
    TrialConfig,
    diverged,
    mode,
    trial_config,
)
from unrolled.tuning.trial import INTERRUPTED, Trial, TrialSpec
from unrolled.tuning.validate import Fingerprints

REDUCTION = 3
"""Of so many trials one goes on, at every rung of ASHA and HyperBand."""
RIVALS = 3
"""Trials whose median the median rule takes, at least."""


def build_scheduler(tuning: Tuning, mode: str, seed: int) -> Any:
    """Returns the scheduler that `tuning.scheduler` names.

    Args:
        mode: `min` or `max`: which scores are good.
    """
    seen = {"time_attr": "progress", "metric": "score", "mode": mode}
    whole = 1 / tuning.grace
    if tuning.scheduler == "asha":
        # A little more than there is, so that no scheduler ends what ends by itself.
        return ASHAScheduler(**seen, max_t=whole * 1.001, grace_period=1, reduction_factor=REDUCTION)
    if tuning.scheduler == "hyperband":
        return HyperBandScheduler(**seen, max_t=round(whole), reduction_factor=REDUCTION)
    if tuning.scheduler == "median":
        return Median(**seen, grace_period=1, min_samples_required=RIVALS)
    if tuning.scheduler == "pbt":
        return Population(**seen, space=tuning.space, seed=seed)
    return FIFOScheduler()


def _as_it_is(config: dict[str, Any]) -> dict[str, Any]:
    return config


class Population(PopulationBasedTraining):  # type: ignore[misc]
    """Population based training (Jaderberg et al. 2017): a trial of the worst quarter goes on from a checkpoint of the
    best quarter, with that one's values a little changed."""

    def __init__(self, *, space: Space, seed: int, **seen: str) -> None:
        super().__init__(perturbation_interval=1, custom_explore_fn=_as_it_is, require_attrs=False, **seen)
        self._space, self._generator = space, random.Random(seed)

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        errand, other = trial.config["errand"], trial_to_clone.config["errand"]
        parameters = perturbed(self._space, other["order"]["parameters"], self._generator)
        return {"errand": errand | {"order": errand["order"] | {"parameters": parameters}}}, {}


class Median(MedianStoppingRule):  # type: ignore[misc]
    """The median rule (Golovin et al. 2017), which never makes a trial wait for others."""

    def _on_insufficient_samples(self, _controller: Any, _trial: Any, _time: float) -> str:
        return str(TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Its results were seen already, and the last may be that it diverged."""


@dataclass(frozen=True)
class Earlier:
    """A trial of an earlier start, as schedulers know trials."""

    trial_id: str


def replay(scheduler: Any, name: str, results: Iterable[dict[str, Any]]) -> None:
    """Lets a scheduler see what a trial of an earlier start reported, so that others are measured by it."""
    trial = Earlier(name)
    scheduler.on_trial_add(None, trial)
    for result in results:
        scheduler.on_trial_result(None, trial, result)


class Plan:
    """Hands out the trials of a sweep: those that an earlier start left open, then new points with all their seeds.

    Args:
        count: points of the sweep, earlier starts included; `None`: as many as the sampler has.
        seed: the first seed of every point.
    """

    def __init__(self, tuning: Tuning, sampler: Sampler, ledger: Ledger, *, count: int | None, seed: int) -> None:
        self._sampler, self._ledger, self._count = sampler, ledger, count
        self._seeds, self._seed = tuning.seeds, seed
        self._points = 0
        self._open: dict[int, set[str]] = {}
        self._waiting: deque[TrialConfig] = deque()
        self.closed = False
        self._continue()

    def _continue(self) -> None:
        """Takes up what earlier starts did."""
        points = {record["point"]: record["parameters"] for record in self._ledger.records.values()}
        for point in sorted(points):
            self._sampler.known(points[point])
            self._enqueue(point, points[point])

    def _enqueue(self, point: int, parameters: Point) -> None:
        orders = [
            TrialConfig(f"{point * self._seeds + place + 1:04}", point, self._seed + place, parameters)
            for place in range(self._seeds)
        ]
        self._points = point + 1
        open_ = [order for order in orders if self._state(order.name) in (None, RUNNING, FAILED)]
        self._open[point] = {order.name for order in open_}
        self._waiting.extend(open_)
        self._tell(point)

    def _state(self, name: str) -> str | None:
        record = self._ledger.records.get(name)
        return None if record is None else record["state"]

    def next(self) -> TrialConfig | None:
        """Returns the next trial, which is noted as begun; `None` where there is none any more."""
        if self.closed:
            return None
        if not self._waiting and (self._count is None or self._points < self._count):
            point = self._sampler.next()
            if point is not None:
                self._enqueue(self._points, point)
        if not self._waiting:
            return None
        order = self._waiting.popleft()
        self._ledger.begin(order)
        return order

    def ended(self, name: str) -> None:
        """Says that a trial ended; with the last of its point the sampler learns the scores."""
        point = self._ledger.records[name]["point"]
        self._open[point].discard(name)
        self._tell(point)

    def _tell(self, point: int) -> None:
        if not self._open[point]:
            self._sampler.tell(point, self._ledger.values(point))


POLL_SECONDS = 0.2
TIME_OVER = "the time of the sweep was over"


class Room(Protocol):
    """What a cluster has; see `unrolled.cluster.ray_session.Resources`."""

    @property
    def free_cpus(self) -> float: ...
    @property
    def free_gpus(self) -> float: ...
    def capacity(self, cpus: float, gpus: float) -> int: ...
    def require(self, workers: int) -> None: ...
    def per_worker(self, workers: int) -> tuple[int, bool]: ...


@dataclass(frozen=True)
class Share:
    """What every trial gets.

    Attributes:
        trials: at a time.
        workers: of one trial; one trains in the trial's own process.
        cpus: of a worker.
    """

    trials: int
    workers: int
    cpus: int
    gpu: bool


def share(resources: Room, tuning: Tuning, workers: int) -> Share:
    """Divides what a cluster has among trials.

    Raises:
        UserError: it cannot hold one trial, now or ever.
    """
    resources.require(workers)
    most = (resources.capacity(1, 1) or resources.capacity(1, 0)) // workers
    most = min(most, tuning.concurrent or most)
    try:
        return Share(most, workers, *resources.per_worker(most * workers))
    except UserError:  # others use a part of it
        free = int(resources.free_gpus or resources.free_cpus) // workers
        some = max(1, min(most, free))
        return Share(some, workers, *resources.per_worker(some * workers))


class PlanSearcher(Searcher):  # type: ignore[misc]
    """Hands the plan's orders to Ray Tune."""

    def __init__(self, plan: Plan, errand: Callable[[TrialConfig], TrialSpec]) -> None:
        super().__init__(metric="score", mode="min")
        self._plan, self._errand = plan, errand

    def set_search_properties(self, *_: Any, **__: Any) -> bool:
        """It has all that it needs."""
        return True

    def suggest(self, trial_id: str) -> Any:
        order = self._plan.next()
        return Searcher.FINISHED if order is None else {"errand": asdict(self._errand(order))}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """The plan hears it from `Watch`."""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing of it is kept in the files that Ray Tune writes."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: trials.jsonl is what a sweep goes on from."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as for `save`."""


class TrialCallback(ray.tune.Callback):  # type: ignore[misc]
    """Hears from Ray Tune, in its thread, and passes on.

    Attributes:
        told: rows of validations, with the trial's name, and records of trials that ended.
        over: why interrupted trials that have a score count as stopped; all others are left open.
    """

    def __init__(self, ledger: Ledger, plan: Plan) -> None:
        self._ledger, self._plan = ledger, plan
        self.told: SimpleQueue[tuple[str, dict[str, Any]]] = SimpleQueue()
        self.over: str | None = None

    def __getstate__(self) -> dict[str, Any]:
        """As for `Orders`."""
        return {}

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        if "row" in result:
            self.told.put((_name(trial), result["row"]))

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        name, last = _name(trial), trial.last_result or {}
        state, reason = last.get("state", RUNNING), last.get("reason")
        if state == INTERRUPTED:
            if self.over is not None and "score" in last:
                self._end(name, STOPPED, self.over)
            return
        if state == RUNNING:
            self._ledger.sweep.trial(name).stop_file.touch()
            state, reason = STOPPED, f"stopped by {self._ledger.scheduler}"
        self._end(name, state, reason)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        said = [line for line in str(trial.get_error() or "").splitlines() if line.strip()]
        self._end(_name(trial), FAILED, said[-1].strip() if said else "it failed too often")

    def _end(self, name: str, state: str, reason: str | None) -> None:
        if state in SCORED and (how := diverged(self._ledger.sweep.trial(name))) is not None:
            state, reason = DIVERGED, how
        record = self._ledger.end(name, state, reason)
        if (run := self._ledger.sweep.trial(name)).path.is_dir():
            write_hparams(run, record)
        self._plan.ended(name)
        self.told.put((name, record))


def _name(trial: Any) -> str:
    return str(trial.config["errand"]["order"]["name"])


class Search:
    """A search that is ready to run.

    Args:
        smoke: whether trials are the smoke versions of themselves.
    """

    def __init__(self, ledger: Ledger, plan: Plan, config: Config, share: Share, *, smoke: bool) -> None:
        assert config.tuning is not None
        self.ledger, self.plan, self.config, self.share, self.smoke = ledger, plan, config, share, smoke
        self.tuning: Tuning = config.tuning
        self.watch = TrialCallback(ledger, plan)
        self._scheduler = build_scheduler(self.tuning, mode(ledger.metrics[0]), config.seed)
        self._fingerprints = Fingerprints()
        if self.tuning.scheduler in ("asha", "median"):  # the others compare trials that train side by side
            for record in ledger.records.values():
                if record["state"] in SCORED:
                    replay(self._scheduler, record["name"], self._results(record))

    @classmethod
    def of(cls, ledger: Ledger, config: Config, share: Share, *, smoke: bool) -> Self:
        """A search of the config's space that goes on where the ledger stands."""
        assert config.tuning is not None
        ways = ["minimize" if mode(name) == "min" else "maximize" for name in ledger.metrics]
        sampler = build_sampler(config.tuning, ways, config.seed)
        plan = Plan(config.tuning, sampler, ledger, count=count(config.tuning), seed=config.seed)
        return cls(ledger, plan, config, share, smoke=smoke)

    @property
    def count(self) -> int | None:
        """Trials that there will be; `None`: as many as the grid has."""
        points = count(self.tuning)
        return None if points is None else points * self.tuning.seeds

    def __call__(self, show: Callable[[str, dict[str, Any]], None], look: Callable[[], None]) -> bool:
        """Runs it, in a thread of Ray's, so that this one hears signals. Returns whether it came to its end, and not
        to an interruption.

        Args:
            show: receives rows of validations and records of ended trials, each with the trial's name.
            look: called several times a second.

        Raises:
            RunFailed: Ray Tune could not go on.
        """
        failures: list[str] = []

        def fit() -> None:
            try:
                self._tuner().fit()
            except Exception:
                failures.append(traceback.format_exc())

        thread = threading.Thread(target=fit, name="ray_tune", daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(POLL_SECONDS)
            self._end_in_time()
            self._show_all(show)
            look()
        self._show_all(show)
        if failures:
            log = self.ledger.sweep.run.log
            with suppress(OSError), log.open("a", encoding="utf-8") as file:
                file.write(failures[0])
            raise RunFailed(f"the search failed: {failures[0].splitlines()[-1]}. Details: {log}")
        return not self._interrupted

    @property
    def _interrupted(self) -> bool:
        return self.ledger.sweep.run.stop_file.exists()

    def _end_in_time(self) -> None:
        """Asks all trials to end where the user or the clock does."""
        minutes = self.tuning.minutes
        if minutes is not None and self.ledger.seconds > minutes * 60:
            self.watch.over = TIME_OVER
        if self._interrupted or self.watch.over:
            self.plan.closed = True
            for name in self.ledger.running():
                run = self.ledger.sweep.trial(name)
                if run.path.is_dir():
                    run.stop_file.touch()

    def _show_all(self, show: Callable[[str, dict[str, Any]], None]) -> None:
        while True:
            try:
                show(*self.watch.told.get_nowait())
            except Empty:
                return

    def _tuner(self) -> ray.tune.Tuner:
        given: dict[str, Any] = {"search_alg": PlanSearcher(self.plan, self._errand), "num_samples": -1}
        space: dict[str, Any] = {}
        if self.share.workers > 1:
            given["max_concurrent_trials"] = self.share.trials
        if self.tuning.scheduler == "pbt":  # which wants to know its population from the start
            orders = iter(self.plan.next, None)
            given, space = {}, {"errand": ray.tune.grid_search([asdict(self._errand(order)) for order in orders])}
        return ray.tune.Tuner(
            Trial,
            param_space=space,
            tune_config=ray.tune.TuneConfig(
                **given,
                scheduler=self._scheduler,
                reuse_actors=True,
                trial_name_creator=_name,
                trial_dirname_creator=_name,
            ),
            run_config=ray.tune.RunConfig(
                name="trials",
                storage_path=str(self.ledger.sweep.scratch),
                failure_config=ray.tune.FailureConfig(max_failures=self.config.training.restarts),
                checkpoint_config=ray.tune.CheckpointConfig(checkpoint_at_end=False),
                callbacks=[self.watch],
                verbose=0,
            ),
        )

    def _errand(self, order: TrialConfig) -> TrialSpec:
        sweep = self.ledger.sweep
        return TrialSpec(
            sweep=str(sweep.path),
            order=asdict(order),
            fingerprint=self._fingerprints(trial_config(self.config, sweep, order, smoke=self.smoke)),
            metric=self.ledger.metrics[0],
            unit=self.tuning.grace,
            latest=self._latest,
            smoke=self.smoke,
            workers=self.share.workers,
            cpus=self.share.cpus,
            gpu=self.share.gpu,
        )

    @property
    def _latest(self) -> bool:
        return self.tuning.scheduler == "pbt"  # which copies the parameters of now, not the best

    def _results(self, record: Record) -> list[dict[str, float]]:
        run = self.ledger.sweep.trial(record["name"])
        told = ScoreTracker(run.config(), self.ledger.metrics[0], self.tuning.grace, latest=self._latest)
        return [told(row) for row in run.history() if row["kind"] == "validation"]
