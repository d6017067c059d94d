"""Sweeps on a real Ray of two CPUs."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import pytest

import unrolled
from ray_clusters import of_session
from repository import CONFIGS
from small_sweeps import MEMORY, sweep_config, trained_steps
from unrolled.cluster.ray_session import connect
from unrolled.config.load import load_config
from unrolled.errors import UserError
from unrolled.training import checkpoint
from unrolled.training.console import Console
from unrolled.tuning.sweep_dir import SweepDir

SHIPPED = sorted(CONFIGS.rglob("sweep.yaml"))
pytestmark = pytest.mark.slow
CELLS = {"model.cell": {"choice": ["rnn", "lstm", "gru"]}}
CLIPPING = {
    "training.clipping.kind": {"choice": ["none", "norm"]},
    "training.clipping.threshold": {"loguniform": [0.01, 10], "when": {"training.clipping.kind": ["norm"]}},
}
RATES = {"training.optimizer.learning_rate": {"loguniform": [1e-4, 1e-1]}}


@pytest.fixture(scope="module")
def ray_session(tmp_path_factory):
    """One private Ray for all tests of this file."""
    with connect(None, tmp_path_factory.mktemp("ray") / "log.txt") as resources:
        yield resources


@pytest.fixture
def sweep(ray_session, tmp_path):
    """Searches a space and returns what came of it."""

    def run(space, *overrides, text=MEMORY, **options):
        tuning = {
            key: options.pop(key) for key in ("metric", "sampler", "scheduler", "seeds", "concurrent") if key in options
        }
        path = sweep_config(tmp_path, text, {"space": space, **tuning})
        return unrolled.tune(path, overrides=overrides, **options)

    return run


def states(sweep):
    return [trial["state"] for trial in sweep.summary["trials"]]


def test_asha_stops_trials_and_the_best_is_a_run_like_any_other(sweep, capsys):
    found = sweep(CELLS | CLIPPING, trials=6, scheduler="asha")
    said = capsys.readouterr()
    assert said.err == "" and "6 of 6" in said.out and "Trial status" not in said.out
    summary = json.loads((found.path / "sweep.json").read_text(encoding="utf-8"))
    assert summary == found.summary
    assert set(states(found)) == {"finished", "stopped"}
    finished = [trial for trial in summary["trials"] if trial["state"] == "finished"]
    for trial in summary["trials"]:
        assert trial["scores"]["mse"] == min(row["scores"]["mse"] for row in trial["history"])
        assert ("training.clipping.threshold" in trial["parameters"]) == (
            trial["parameters"]["training.clipping.kind"] == "norm"
        )
        assert 0 <= trial["clipped"] <= 1 and trial["gradient_norm"]["median"] <= trial["gradient_norm"]["largest"]
        assert (trial["steps"] == 60) == (trial in finished) and trial["seconds"] > 0
        assert checkpoint.last(found.path / "trials" / trial["name"] / "checkpoints") is not None
    assert summary["best"] == min(finished, key=lambda trial: trial["scores"]["mse"])["name"]
    events = (found.path / "trials" / "0001" / "tensorboard").glob("events*")
    assert sum(b"_hparams_/session_start_info" in file.read_bytes() for file in events) == 1
    assert summary["mode"] == ["min"] and summary["space"]["training.clipping.threshold"]["when"]

    more = sweep(CELLS | CLIPPING, trials=8, scheduler="asha", resume=True)  # measured by the rungs of before
    assert more.summary["trials"][:6] == summary["trials"] and len(more.summary["trials"]) == 8

    report = found.best.evaluate(split="validation", local=True)
    assert report.scores["mse"] == pytest.approx(summary["trials"][int(summary["best"]) - 1]["scores"]["mse"], rel=1e-4)
    best = load_config(found.path / "best.yaml")
    assert best.tuning is None and best.name == "sweep-best"
    again = unrolled.train(found.path / "best.yaml", local=True)
    assert trained_steps(again.path) == 60
    stopped = next(trial for trial in summary["trials"] if trial["state"] == "stopped")
    more = unrolled.train(found.path / "trials" / stopped["name"] / "config.yaml", local=True, resume=True)
    assert trained_steps(more.path) == 60


def test_a_finished_sweep_is_extended_and_nothing_is_trained_twice(sweep):
    first = sweep(CELLS, trials=2)
    before = {path: path.stat().st_mtime_ns for path in (first.path / "trials").rglob("metrics.jsonl")}
    second = sweep(CELLS, trials=3, resume=True)
    assert [trial["name"] for trial in second.summary["trials"]] == ["0001", "0002", "0003"]
    assert second.summary["trials"][:2] == first.summary["trials"]
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    assert len({trial["parameters"]["model.cell"] for trial in second.summary["trials"]}) == 3
    with pytest.raises(UserError, match=r"was begun with tuning\.space\.model\.cell\.choice=\['rnn', 'lstm', 'gru'\]"):
        sweep({"model.cell": {"choice": ["rnn", "lstm"]}}, resume=True)
    with pytest.raises(UserError, match=r"tuning\.space\.model\.hidden=nothing, the config says \{'choice': \[4\]\}"):
        sweep(CELLS | {"model.hidden": {"choice": [4]}}, resume=True)
    with pytest.raises(UserError, match="exists already"):
        sweep(CELLS)
    by_folder = unrolled.tune(first.path, resume=True, trials=3)
    assert by_folder.summary["trials"] == second.summary["trials"]


def test_several_seeds_make_one_point(sweep):
    found = sweep({"model.cell": {"grid": ["rnn", "gru"]}}, trials=2, seeds=2)
    trials = found.summary["trials"]
    assert [(trial["point"], trial["seed"]) for trial in trials] == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert trials[0]["parameters"] == trials[1]["parameters"] != trials[2]["parameters"]
    assert trials[0]["scores"] != trials[1]["scores"]
    means = [sum(trial["scores"]["mse"] for trial in trials[i : i + 2]) for i in (0, 2)]
    best = next(trial for trial in trials if trial["name"] == found.summary["best"])
    assert best["point"] == means.index(min(means))


def test_a_diverged_trial_is_marked_and_the_others_go_on(sweep):
    rates = {"training.optimizer.learning_rate": {"grid": [0.01, 1e300]}}
    for scheduler in ("asha", "median"):
        options = ["training.optimizer.name=sgd", "training.skip_non_finite=1", f"name={scheduler}"]
        found = sweep(rates | CELLS, *options, trials=4, scheduler=scheduler)
        assert [state == "diverged" for state in states(found)] == [False, True] * 2
        trial = found.summary["trials"][1]
        assert "not finite" in trial["reason"]
        assert found.summary["best"] in ("0001", "0003")


def test_a_loss_that_explodes_without_end_is_divergence_too(sweep):
    rates = {"training.optimizer.learning_rate": {"grid": [0.01, 1e6]}}
    found = sweep(rates, "training.optimizer.name=sgd", "training.clipping.kind=value", trials=2)
    assert states(found) == ["finished", "diverged"]
    assert "the loss rose from" in found.summary["trials"][1]["reason"]


def test_the_clock_ends_what_is_running(sweep):
    def stopped_by_the_clock(before, resume):
        """Sweeps with ever more time, as a slow machine needs it, until the clock has stopped more trials."""
        for minutes in (0.4, 1, 2, 4):
            found = sweep(CELLS, "training.epoch_steps=100000", f"tuning.minutes={minutes}", trials=3, resume=resume)
            assert not found.interrupted and set(states(found)) <= {"stopped", "running"}  # some had no time at all
            if states(found).count("stopped") > before:
                break
            resume = True
        return {trial["name"]: trial for trial in found.summary["trials"] if trial["state"] == "stopped"}

    ended = stopped_by_the_clock(0, resume=False)
    assert ended and {trial["reason"] for trial in ended.values()} == {"the time of the sweep was over"}
    if len(ended) < 3:
        assert ended.items() < stopped_by_the_clock(len(ended), resume=True).items()


def test_json_lines_are_trials(sweep, capsys):
    sweep(CELLS, trials=2, console=Console(json_lines=True))
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["name"] for row in rows} == {"0001", "0002"} and all("scores" in row for row in rows)


@pytest.mark.parametrize("config", SHIPPED, ids=lambda path: path.parent.name)
def test_every_shipped_sweep_runs(ray_session, config, tmp_path, shared_data, capsys):
    found = unrolled.tune(config, overrides=[f"storage={tmp_path}"], smoke=True)
    assert len(found.summary["trials"]) == 3 and set(states(found)) <= {"finished", "stopped"}
    assert all(trial["steps"] <= 5 for trial in found.summary["trials"])


def test_tpe_weighs_two_scores(sweep):
    found = sweep(CELLS | RATES, trials=5, sampler="tpe", metric=["mse", "tokens_per_second"])
    assert found.summary["mode"] == ["min", "max"]
    assert all({"mse", "tokens_per_second"} <= trial["scores"].keys() for trial in found.summary["trials"])
    more = sweep(CELLS | RATES, trials=6, sampler="tpe", metric=["mse", "tokens_per_second"], resume=True)
    assert more.summary["trials"][:5] == found.summary["trials"] and len(more.summary["trials"]) == 6


@pytest.mark.parametrize("scheduler", ["median", "hyperband"])
def test_other_schedulers_come_to_an_end(sweep, scheduler):
    found = sweep(RATES | CELLS, trials=6, scheduler=scheduler)
    assert set(states(found)) <= {"finished", "stopped"} and "finished" in states(found)
    assert all(trial["steps"] == 60 for trial in found.summary["trials"] if trial["state"] == "finished")


def test_population_based_training_moves_checkpoints(sweep):
    rates = {"training.optimizer.learning_rate": {"choice": [1e-6, 1e-5, 1e-3, 1e-2]}}
    found = sweep(rates, trials=4, scheduler="pbt", sampler="grid")
    assert set(states(found)) == {"finished"}
    ended_with = [trial["parameters"]["training.optimizer.learning_rate"] for trial in found.summary["trials"]]
    assert ended_with != [1e-6, 1e-5, 1e-3, 1e-2]
    for trial in found.summary["trials"]:
        config = SweepDir(found.path).trial(trial["name"]).config()
        assert config.training.optimizer.learning_rate == trial["parameters"]["training.optimizer.learning_rate"]


class KillsATrial(Console):
    """Kills the actor of a trial when there is a checkpoint."""

    killed = 0

    def __init__(self, trials):
        super().__init__()
        self.trials = trials
        self.thread = threading.Thread(target=self._kill)
        self.thread.start()

    def _kill(self):
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not self.killed:
            if any((self.trials / "0001" / "checkpoints").glob("step-*")):
                (self.killed,) = of_session(os.getsid(0), "ray::Trial")
                os.kill(self.killed, signal.SIGKILL)
            time.sleep(0.02)


def test_a_killed_trial_goes_on_from_its_checkpoint(sweep, tmp_path):
    console = KillsATrial(tmp_path / "runs" / "sweep" / "trials")
    long = ["training.epoch_steps=1500", "training.validate_every=100"]
    found = sweep({"model.cell": {"choice": ["lstm"]}}, *long, trials=1, console=console)
    console.thread.join()
    assert console.killed
    assert states(found) == ["finished"] and found.summary["trials"][0]["steps"] == 1500
    rows = [json.loads(line) for line in (found.best.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert next(row["step"] for row in rows if row["kind"] == "resume") >= 100


def test_more_workers_than_the_cluster_has_are_refused_at_once(sweep, tmp_path):
    with pytest.raises(UserError, match=r"--workers 64 needs 64 CPUs; the cluster has"):
        sweep(CELLS, workers=64)
    assert not (tmp_path / "runs").exists()


def test_trials_of_two_workers(sweep):
    found = sweep({"model.cell": {"choice": ["rnn"]}}, trials=1, workers=2)
    assert states(found) == ["finished"] and found.summary["trials"][0]["steps"] == 60
