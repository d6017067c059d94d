"""A feature job that is killed, Ray and all, goes on where it was: blocks that are on disk are not made again."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from ray_clusters import of_session
from unrolled.config.load import load_config
from unrolled.features import extract_features, extract_locally, feature_job
from unrolled.features.store import BLOCK

pytestmark = pytest.mark.slow
BLOCKS, WORKERS, PATIENCE = 15, 2, 800
PHOTOGRAPHS = BLOCKS * BLOCK - 7  # the last block is not full
CONFIG = """\
task: captioning
data: {source: photographs, vocabulary: {min_frequency: 1}}
model: {features: {backbone: small}}
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A config of photographs that take a few milliseconds each to decode, no two blocks alike; one is broken."""
    place = tmp_path / "photographs" / "train"
    place.mkdir(parents=True)
    encoded = [encode(seed) for seed in range(11)]
    rows = ["file_name,captions"]
    for number in range(PHOTOGRAPHS):
        (place / f"{number:03}.png").write_bytes(encoded[number % 11] if number != 5 else encoded[0][:900])
        rows.append(f"{number:03}.png,a photograph")
    (place / "metadata.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNROLLED_CACHE", str(tmp_path / "cache"))
    return path


def encode(seed):
    """A photograph as PNG, which is always decoded whole."""
    file = BytesIO()
    noise = np.random.default_rng(seed).integers(0, 255, (320, 320, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "PNG", compress_level=1)
    return file.getvalue()


@pytest.fixture
def start(config):
    """Starts the job; what is left of it at the end is killed."""
    words = [sys.executable, "-m", "unrolled", "features", str(config), "--split", "train", "--workers", str(WORKERS)]
    drivers = []

    def run():
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        drivers.append(subprocess.Popen(words, **output, start_new_session=True))
        return drivers[-1]

    yield run
    for driver in drivers:
        kill_all(driver)


def lines(record):
    """The blocks that are on disk, each as the line that says so."""
    try:
        return [line for line in record.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    except FileNotFoundError:  # not begun, or done
        return []


def kill_all(driver):
    """Kills the driver and everything that it has started, at once."""
    mine = of_session(driver.pid)
    for pid in mine:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    driver.wait()
    deadline = time.monotonic() + 60
    while of_session(driver.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return len(mine)


def hold(driver, record):
    """Stops the workers where they are, until all that they have made is on disk."""
    for pid in of_session(driver.pid, "ray::MapWorker"):
        os.kill(pid, signal.SIGSTOP)
    before = None
    while (now := lines(record)) != before:
        before = now
        time.sleep(2)


def outcome(driver):
    said, _ = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 0, said
    return said


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def unread(photographs):
    """Forgets which photographs were read: the file system notes when a file was read after that."""
    for path in photographs.glob("*.png"):
        os.utime(path, ns=(0, path.stat().st_mtime_ns))
    probe = photographs / "metadata.csv"
    os.utime(probe, ns=(0, probe.stat().st_mtime_ns))
    if not probe.read_bytes() or not probe.stat().st_atime_ns:
        pytest.skip("this file system does not note when files are read")


def read_blocks(photographs):
    """The blocks of which photographs were read."""
    return {int(path.stem) // BLOCK for path in photographs.glob("*.png") if path.stat().st_atime_ns}


def test_a_kill_costs_a_block_a_worker_at_most(start, config, tmp_path):
    photographs = tmp_path / "photographs" / "train"
    job = feature_job(load_config(config), "train")
    record = job.folder.with_name(f".{job.folder.name}") / "blocks.jsonl"
    unread(photographs)
    driver = start()
    deadline = time.monotonic() + PATIENCE
    while len(lines(record)) < BLOCKS // 3 and driver.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    assert driver.poll() is None, driver.communicate()[0]
    hold(driver, record)
    assert kill_all(driver) > WORKERS  # Ray's own processes, too
    kept = {json.loads(line)[0] for line in lines(record)}
    assert BLOCKS // 3 <= len(kept) < BLOCKS and not job.folder.exists()
    begun = read_blocks(photographs)
    assert kept <= begun and len(begun - kept) <= WORKERS

    unread(photographs)
    said = outcome(start())
    missing = set(range(BLOCKS)) - kept
    assert read_blocks(photographs) == missing
    made = sum(min(BLOCK, PHOTOGRAPHS - number * BLOCK) for number in missing)
    assert f"{PHOTOGRAPHS} photographs, {made} made in" in said and "005.png" in said

    unread(photographs)
    resumed, said = content(job.folder), outcome(start())
    assert "nothing to do" in said and read_blocks(photographs) == set() and content(job.folder) == resumed
    shutil.rmtree(job.folder)
    extract_features(job, extract_locally, lambda done, of: None)
    assert content(job.folder) == resumed
