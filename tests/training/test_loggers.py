"""Runs followed by the real packages of MLflow and Weights & Biases, without a network."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import unrolled
from ray_clusters import WORKER, of_session, processes, wait_until
from unrolled import api
from unrolled.cli import main
from unrolled.errors import RunFailed
from unrolled.training.console import Console
from unrolled.training.loggers import scalars
from unrolled.training.run_dir import RunDir

CONFIG = """\
task: memory
name: adding
data: {problem: adding, length: 8, validation: 7}
model: {hidden: 4}
training: {batch: 4, max_steps: 12, validate_every: 4, log_every: 2}
"""
MLFLOW, WANDB = "training.trackers=[mlflow]", "training.trackers=[wandb]"


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "adding.yaml"
    path.write_text(f"{CONFIG}storage: {tmp_path / 'runs'}\n", encoding="utf-8")
    return path


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A client of an MLflow that keeps its runs in a folder."""
    client = pytest.importorskip("mlflow.tracking")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlflow").as_uri())
    return client.MlflowClient(tracking_uri=(tmp_path / "mlflow").as_uri())


@pytest.fixture
def wandb():
    """The package, which reads its environment anew after the test."""
    package = pytest.importorskip("wandb")
    yield package
    stop = threading.Thread(target=package.teardown, daemon=True)
    stop.start()
    stop.join(30)
    if stop.is_alive():  # it waits for its service without bound
        for pid, _, line in processes():
            if "wandb-core" in line:
                os.kill(pid, signal.SIGKILL)


class Stops(Console):
    """Requests a stop, as Ctrl-C does, after a step; records the printed lines."""

    def __init__(self, step=None, folder=None):
        super().__init__()
        self.step, self.folder, self.said = step, folder, []

    def print(self, line=""):
        super().print(line)
        self.said.append(line)

    def show_row(self, row):
        super().show_row(row)
        if row["step"] == self.step:
            (self.folder / ".stop").touch()


def train(path, *overrides, **options):
    return api.train(path, local=True, overrides=overrides, **options)


def logged(run):
    """The numbers of metrics.jsonl by name, as (step, value)."""
    found = defaultdict(list)
    for row in run.folder.history():
        for name, value in scalars(row).items():
            found[name].append((row["step"], value))
    return dict(found)


def only_run(client):
    (experiment,) = (one for one in client.search_experiments() if one.name == "unrolled")
    (found,) = client.search_runs([experiment.experiment_id])
    return found


def stored(client, run):
    histories = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    return {name: [(one.step, one.value) for one in history] for name, history in histories.items()}


def test_mlflow_has_config_rows_and_state(tiny, store):
    run = train(tiny, MLFLOW)
    found = only_run(store)
    assert found.info.run_name == "adding" and found.info.status == "FINISHED" and found.info.end_time
    assert found.data.params["model.hidden"] == "4" and found.data.params["training.max_steps"] == "12"
    assert found.data.params["training.trackers"] == "['mlflow']"
    want = logged(run)
    assert stored(store, found) == want
    assert [step for step, _ in want["train/loss"]] == [2, 4, 6, 8, 10, 12]
    assert [step for step, _ in want["validation/mse"]] == [4, 8, 12]


def test_a_resumed_run_continues_its_mlflow_run(tiny, store, tmp_path):
    train(tiny, MLFLOW, console=Stops(5 + 1, tmp_path / "runs" / "adding"))
    assert (before := only_run(store)).info.status == "KILLED"
    run = train(tiny, MLFLOW, resume=True)
    found = only_run(store)
    assert (found.info.run_id, found.info.status) == (before.info.run_id, "FINISHED")
    assert stored(store, found) == logged(run)

    train(tiny, MLFLOW, overwrite=True)
    assert len(store.search_runs([found.info.experiment_id])) == 2


def test_what_the_tracker_lacks_comes_with_the_resumption(tiny, store):
    """A run that had no tracker; one whose driver died before the last rows were sent; one that MLflow has lost."""
    run = train(tiny, "training.max_steps=4")
    run = train(tiny, MLFLOW, "training.max_steps=6", resume=True)
    assert stored(store, only_run(store)) == logged(run)

    mark = run.path / "mlflow.json"
    before = mark.read_text(encoding="utf-8")
    train(tiny, "training.max_steps=8", resume=True)
    assert mark.read_text(encoding="utf-8") == before
    run = train(tiny, MLFLOW, "training.max_steps=8", resume=True)
    assert stored(store, only_run(store)) == logged(run)

    store.delete_run(only_run(store).info.run_id)
    run = train(tiny, MLFLOW, resume=True)
    assert stored(store, only_run(store)) == logged(run)


def test_a_failed_run_is_marked_so(tiny, store):
    diverging = ["training.optimizer.name=sgd", "training.optimizer.learning_rate=1e300", "training.skip_non_finite=1"]
    with pytest.raises(RunFailed):
        train(tiny, MLFLOW, *diverging)
    assert only_run(store).info.status == "FAILED"


def offline_files(run):
    return sorted(run.path.glob("wandb/offline-run-*/*.wandb"))


def records(file):
    """Records of an offline file of Weights & Biases: LevelDB's log format after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, whole = file.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if 0 < (rest := -place % 32768) < 7:  # no header fits into what is left of the block
            place += rest
            continue
        _checksum, length, kind = struct.unpack_from("<IHB", content, place)
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, the last part of one
            yield Record.FromString(whole)
            whole = b""


def written(file):
    """Returns the rows, the config and the exit code of an offline file."""
    rows, config, code = defaultdict(list), {}, None
    for record in records(file):
        values = {item.nested_key[0] if item.nested_key else item.key: item.value_json for item in record.history.item}
        for name in values.keys() - {"step", "_step", "_runtime", "_timestamp"}:
            rows[name].append((json.loads(values["step"]), json.loads(values[name])))
        config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        code = record.exit.exit_code if record.HasField("exit") else code
    return dict(rows), config, code


def test_weights_and_biases_has_config_rows_and_state(tiny, wandb, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = train(tiny, WANDB, console=Stops(6, tmp_path / "runs" / "adding"))
    wandb.teardown()  # its service has written everything then
    (file,) = offline_files(run)
    rows, config, code = written(file)
    assert rows == logged(run) and code == 255
    assert config["model"]["hidden"] == 4

    run = train(tiny, WANDB, "training.epochs=98", resume=True)
    wandb.teardown()
    newest = next(one for one in offline_files(run) if one != file)
    assert newest.name == file.name  # of the same id, whose files replace each other at the server
    rows, config, code = written(newest)
    assert rows == logged(run) and code == 0 and config["training"]["epochs"] == 98


@pytest.mark.slow
def test_killed_workers_and_drivers_lose_no_row(tiny, store, tmp_path):
    endless = ["training.max_steps=99999", "training.checkpoint_every=40", MLFLOW]
    folder = RunDir(tmp_path / "runs" / "adding")

    def command(*arguments):
        words = [sys.executable, "-m", "unrolled", "train", str(tiny), "--workers", "2", *arguments]
        return subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )

    def step():
        return max((row["step"] for row in folder.history()), default=0)

    driver = command(*endless)
    wait_until(lambda: step() >= 100, "steps")
    os.kill(of_session(driver.pid, WORKER)[0], signal.SIGKILL)
    wait_until(lambda: any(row["kind"] == "resume" for row in folder.history()), "a new group of workers")
    reached = step()
    wait_until(lambda: step() >= reached + 100, "more steps")
    driver.kill()
    driver.wait()
    wait_until(lambda: not of_session(driver.pid, WORKER), "the workers' end", 60)
    assert only_run(store).info.status == "RUNNING"
    resumed = command("--resume", f"training.max_steps={step() + 20}", *endless[1:])
    said, _ = resumed.communicate(timeout=180)
    assert resumed.returncode == 0, said
    found = only_run(store)
    assert found.info.status == "FINISHED"
    for name, rows in logged(unrolled.load(folder.path)).items():
        sent = [(one.step, one.value) for one in store.get_metric_history(found.info.run_id, name)]
        assert set(sent) >= set(rows)
        if not name.endswith("tokens_per_second"):
            assert set(sent) == set(rows)  # what was sent twice, between a checkpoint and a kill, is the same


class Server(ThreadingHTTPServer):
    """The part of MLflow's server that one training run uses; does not answer while `down`."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answers)
        self.down, self.goes_down_after, self.metrics, self.states = False, None, [], []

    def answer(self, call, body):
        if call.endswith("get-by-name"):
            return {"experiment": {"experiment_id": "1", "name": "unrolled", "lifecycle_stage": "active"}}
        if call.endswith("log-batch"):
            self.metrics += [(one["key"], one["step"]) for one in body.get("metrics", [])]
            self.down = self.goes_down_after is not None and len(self.metrics) >= self.goes_down_after
        if call.endswith("runs/update"):
            self.states.append(body["status"])
        info = {"run_id": "abc", "experiment_id": "1", "lifecycle_stage": "active", "status": "RUNNING"}
        return {"run": {"info": info}, "run_info": info}


class Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        call = self.path.partition("?")[0]
        if self.server.down:
            return
        if "/api/2.0/mlflow/" not in call:
            self.send_error(404)
            return
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
        text = json.dumps(self.server.answer(call, body)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with Server() as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_server_that_stops_answering_costs_one_line(tiny, server, capsys):
    server.goes_down_after = 20
    console = Stops()
    run = train(tiny, MLFLOW, console=console)
    (line,) = (line for line in console.said if line.startswith("mlflow does not take rows"))
    assert "metrics.jsonl keeps them" in line and capsys.readouterr().err == ""
    assert server.states == [] and max(step for _, step in server.metrics) < 12

    server.down, server.goes_down_after = False, None
    train(tiny, MLFLOW, resume=True)
    want = [(name, row["step"]) for row in run.folder.history() for name in scalars(row)]
    assert server.metrics == want and server.states == ["RUNNING", "FINISHED"]


def refused(capsys, *arguments):
    assert main(["train", *map(str, arguments)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_no_server_at_the_start(tiny, tmp_path, capsys, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    want = "training.trackers: mlflow cannot be used (Connection refused); MLFLOW_TRACKING_URI names its server."
    assert refused(capsys, tiny, "--local", MLFLOW) == f"unrolled: {want}\n"
    assert not (tmp_path / "runs").exists()


def test_no_server_of_weights_and_biases_at_the_start(tiny, wandb, tmp_path, capsys, monkeypatch):
    for name, value in {"BASE_URL": "http://127.0.0.1:9", "API_KEY": "a" * 40, "HTTP_TIMEOUT": "1"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    assert "training.trackers: wandb cannot be used (Failed to" in refused(capsys, tiny, "--local", WANDB)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_package_that_is_not_there(tiny, tmp_path, capsys, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    want = f"unrolled: training.trackers names {name}, which is not installed: pip install {name}.\n"
    assert refused(capsys, tiny, "--local", f"training.trackers=[{name}]") == want
    assert not (tmp_path / "runs").exists()
