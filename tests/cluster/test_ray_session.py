"""Ray sessions and submitted jobs, on private and on real clusters."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray._private.runtime_env import packaging

from ray_clusters import Cluster, cluster, free_port
from unrolled.cluster.ray_session import DeferredLog, Resources, connect
from unrolled.cluster.submit import EXCLUDES, check_size, files_to_send, submit
from unrolled.errors import UserError

KNOWN = ("train", "evaluate", "runs")


def resources(*nodes: tuple[float, float]) -> Resources:
    cpus, gpus = sum(node[0] for node in nodes), sum(node[1] for node in nodes)
    return Resources(cpus, gpus, cpus, gpus, nodes)


# Resources


@pytest.mark.parametrize(
    ("nodes", "asked", "sentence"),
    [
        (
            [(2, 0)],
            (8, 1, 0),
            "--workers 8 needs 8 CPUs; the cluster has 2 (2 free). Use --workers 2 or fewer.",
        ),
        (
            [(16, 2)],
            (3, 1, 1),
            "--workers 3 needs 3 GPUs; the cluster has 2 (2 free). Use --workers 2 or fewer.",
        ),
        (
            [(4, 0)],
            (1, 1, 1),
            "--workers 1 needs 1 GPU; the cluster has 0 (0 free). Wait until other work ends, or use a larger cluster.",
        ),
        (
            [(3, 0), (3, 0)],
            (3, 2, 0),
            "--workers 3 needs 6 CPUs; the cluster has 6 (6 free) on 2 nodes, and a worker sits on one of them. "
            "Use --workers 2 or fewer.",
        ),
        ([(2, 0)], (0, 1, 0), "--workers 0: give 1 or more."),
    ],
)
def test_a_shortage_is_one_sentence(nodes, asked, sentence):
    with pytest.raises(UserError) as error:
        resources(*nodes).require(*asked)
    assert str(error.value) == sentence


@given(
    nodes=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), min_size=1, max_size=4),
    size=st.tuples(st.integers(1, 4), st.integers(0, 2)),
)
def test_as_many_workers_as_there_is_room_for_are_accepted_and_no_more(nodes, size):
    cluster = resources(*nodes)
    room = sum(min(cpus // size[0], gpus // size[1] if size[1] else cpus) for cpus, gpus in nodes)
    assert cluster.capacity(*size) == room
    if room:
        cluster.require(room, *size)
    with pytest.raises(UserError):
        cluster.require(room + 1, *size)


# What is sent


def write(folder: Path, *names: str, size: int = 10) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)


def test_a_job_gets_the_files_but_no_credentials_and_nothing_that_is_ignored(tmp_path):
    sent = ["configs/a.yaml", "data/deep/b.tsv", "train.py", ".gitignore", ".rayignore"]
    made = [".git/objects/1", ".venv/bin/python", "runs/tiny/log.txt", "src/__pycache__/m.pyc", ".ruff_cache/x"]
    secret = [".env", "keys/id_rsa", "keys/server.pem", ".netrc", ".aws/credentials", ".ray/auth_token"]
    write(tmp_path, *sent, *made, *secret, "data/big.bin", "notes/draft.md")
    (tmp_path / ".gitignore").write_text("*.bin\n", encoding="utf-8")
    (tmp_path / ".rayignore").write_text("notes/\n", encoding="utf-8")
    assert sorted(map(str, files_to_send(tmp_path))) == sorted(sent)
    archive = tmp_path.with_suffix(".zip")
    packaging.create_package(str(tmp_path), archive, include_gitignore=True, excludes=[".git", ".venv", *EXCLUDES])
    packed = [name for name in zipfile.ZipFile(archive).namelist() if not name.endswith("/")]
    assert sorted(packed) == sorted(sent)


def test_too_large_a_folder_is_refused_with_its_largest_places(tmp_path, monkeypatch):
    monkeypatch.setattr(packaging, "GCS_STORAGE_MAX_SIZE", 3 * 2**20)
    write(tmp_path, "data/photos/1.jpg", "data/photos/2.jpg", "video.mp4", size=2**20)
    write(tmp_path, "data/texts/a.txt", size=2**19)
    with pytest.raises(UserError) as error:
        check_size(tmp_path)
    assert "3.5 MiB of files, and Ray accepts at most 3.0 MiB" in str(error.value)
    assert "data/photos/ (2.0 MiB), video.mp4 (1.0 MiB), data/texts/ (0.5 MiB)" in str(error.value)


# What is refused before anything runs


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ([], "submit: give a command to run on the cluster: train, evaluate or runs."),
        (
            ["trian"],
            "submit: 'trian' is not a command; known are train, evaluate or runs. Did you mean 'train'?",
        ),
    ],
)
def test_only_commands_are_submitted(command, sentence):
    with pytest.raises(UserError) as error:
        submit("http://127.0.0.1:1", command, known=KNOWN)
    assert str(error.value) == sentence


def test_nobody_at_the_address_is_said_at_once(tmp_path):
    port = free_port()
    with pytest.raises(UserError, match=f"no Ray cluster answers at 127.0.0.1:{port}"), connect(f"127.0.0.1:{port}"):
        pass
    with pytest.raises(UserError, match=f"no Ray job server answers at http://127.0.0.1:{port}"):
        submit(f"127.0.0.1:{port}", ["train"], known=KNOWN, folder=tmp_path)


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "ray://127.0.0.1:10001", "head", "head:one"])
def test_an_address_of_another_kind_is_explained(address):
    with pytest.raises(UserError, match="give HOST:PORT"), connect(address):
        pass


def test_the_log_waits_for_its_folder_and_follows_it(tmp_path):
    log = tmp_path / "run" / "log.txt"
    file = DeferredLog(log)
    file.write("early\n")
    assert not log.parent.exists()
    log.parent.mkdir()
    file.write("later\n")
    assert log.read_text() == "early\nlater\n"
    shutil.rmtree(log.parent)
    log.parent.mkdir()
    file.write("anew\n")
    assert log.read_text() == "anew\n"


# A private session

CHATTERING = """
import os, sys, time
from pathlib import Path
from unrolled.cluster.ray_session import cluster_resources, connect
from unrolled.errors import UserError
log = Path(sys.argv[1])
with connect(log=log) as resources:
    import ray

    @ray.remote
    class Worker:
        def work(self):
            print("a line of a worker")
        def die(self):
            os._exit(3)

    worker = Worker.options(num_cpus=resources.cpus).remote()
    ray.get(worker.work.remote())
    while cluster_resources().free_cpus > 0:  # Ray's count lags
        time.sleep(0.1)
    with connect() as again:
        print("the same" if again.cpus == resources.cpus else "another")
        try:
            again.per_worker(1)
        except UserError as error:
            print(error)
    try:
        ray.get(worker.die.remote())
    except ray.exceptions.ActorDiedError:
        print("died")
    print("resources are", resources.per_worker(1))
    deadline = time.monotonic() + 60  # Ray hands on its workers' lines and its errors when it gets to it
    while not (log.exists() and all(line in log.read_text() for line in ("a line of a worker", "A worker died"))):
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    os.write(2, b"a line of C++\\n")
print("left running" if ray.is_initialized() else "ended")
"""


@pytest.mark.slow
def test_a_private_session_is_quiet_and_ends(tmp_path):
    command = [sys.executable, "-c", CHATTERING, str(tmp_path / "log.txt")]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False, env=environment)
    cpus = len(os.sched_getaffinity(0))
    assert done.stderr == ""
    same, shortage, died, shared, ended = done.stdout.splitlines()
    assert (same, died, ended) == ("the same", "died", "ended")
    assert shortage.startswith("--workers 1 needs 1 CPU; the cluster has") and "(0 free)" in shortage
    assert shared.startswith(f"resources are ({cpus}, ")
    log = (tmp_path / "log.txt").read_text(encoding="utf-8")
    for line in ("a line of a worker", "A worker died", "a line of C++"):
        assert line in log


# A real cluster


@pytest.fixture(scope="module")
def head() -> Iterator[Cluster]:
    pytest.importorskip("aiohttp_cors", reason="the job server needs ray[default]")
    with cluster(cpus=2) as running:
        yield running


def unrolled(*words: str, environment: dict[str, str], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "unrolled", *words],
        env=environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_a_submitted_command_shows_its_output_and_its_exit_code(head, tiny, tmp_path):
    storage = tmp_path / "storage"
    write(storage, "runs/none")
    send = ("submit", "--address", head.url, "--storage", str(storage))
    environment = head.environment | {"RAY_ADDRESS": "127.0.0.1:1"}  # --address wins
    good = unrolled(*send, "config", "tiny.yaml", "training.epochs=3", environment=environment, folder=tmp_path)
    out, err = good.communicate()
    assert "epochs: 3" in out, err
    assert good.returncode == 0
    bad = unrolled(*send, "config", "not there.yaml", environment=head.environment, folder=tmp_path)
    out, err = bad.communicate()
    assert "not there.yaml" in out
    assert bad.returncode == 2, err


@pytest.mark.slow
def test_ctrl_c_stops_a_job_and_leaves_its_checkpoint_in_the_storage(head, tiny, tmp_path):
    storage = tmp_path / "storage"
    tiny.write_text(tiny.read_text().replace(f"storage: {tmp_path / 'runs'}", "storage: runs"), encoding="utf-8")
    words = ("submit", "--address", head.url, "--storage", str(storage), "train", "tiny.yaml", "training.epochs=100000")
    process = unrolled(*words, environment=head.environment, folder=tmp_path)
    watchdog = threading.Timer(200, process.kill)
    watchdog.start()
    lines: list[str] = []
    pressed = False
    for line in process.stdout:
        lines.append(line)
        if "validation loss" in line and not pressed:
            process.send_signal(signal.SIGINT)
            pressed = True
    watchdog.cancel()
    assert process.wait() == 130, "".join(lines)
    assert any("--resume" in line for line in lines)
    assert list((storage / "runs" / "tiny" / "checkpoints").glob("step-*/model.safetensors"))


@pytest.mark.slow
def test_a_cluster_that_asks_for_a_token_is_joined_with_it_and_refuses_without(head, tmp_path):
    joining = (
        "import sys; from unrolled.cluster.ray_session import connect\n"
        "with connect(sys.argv[1]) as resources: print(resources.cpus)"
    )
    command = [sys.executable, "-c", joining, head.address]

    def join(**changes: str) -> subprocess.CompletedProcess[str]:
        environment = head.environment | changes
        return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=environment)

    assert join().stdout == "2.0\n"
    wrong = join(RAY_AUTH_TOKEN="0" * 64).stderr.splitlines()[-1]
    assert wrong.startswith("unrolled.errors.UserError: ") and "refuses our token" in wrong
    none = join(RAY_AUTH_TOKEN="", HOME=str(tmp_path)).stderr.splitlines()[-1]
    assert "asks for a token and there is none here" in none
    submitting = unrolled(
        "submit",
        "--address",
        head.url,
        "runs",
        environment=head.environment | {"RAY_AUTH_TOKEN": "0" * 64},
        folder=tmp_path,
    )
    assert "refuses our token" in submitting.communicate()[1]
    assert submitting.returncode == 2
