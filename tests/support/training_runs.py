"""Training runs without Ray, in one process or several."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import socket
from pathlib import Path

import numpy as np
import torch
import torch.distributed
import torch.multiprocessing
from safetensors.torch import load_file

from unrolled.config.load import load_config
from unrolled.tasks import prepare
from unrolled.training import distributed
from unrolled.training.distributed import ProcessGroup, SingleWorker
from unrolled.training.run_dir import choose_checkpoint, resolve_run_dir
from unrolled.training.trainer import train_worker

WORDS = ("the", "king", "is", "dead,", "long", "live", "Queen!", "\n", "and", "so;")
multiprocessing.set_forkserver_preload(["pytest", "unrolled.tasks", "unrolled.training.trainer"])
TEXT = " ".join(np.random.default_rng(3).choice(WORDS, size=500).tolist())


def config_of_text(folder, config):
    """Writes a language model's config; `TEXT` and the runs lie beside it."""
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    path = folder / "text.yaml"
    path.write_text(config % (folder / "text.txt") + f"storage: {folder / 'runs'}\n", encoding="utf-8")
    return path


def start(path, *overrides, resume=False, overwrite=False):
    config = load_config(path, overrides)
    run = resolve_run_dir(config, resume=resume, overwrite=overwrite)
    data = prepare(config)
    run.initialize(config, data, resume=resume)
    return run, data.fingerprint


def train(path, *overrides, comm=None, **options):
    run, fingerprint = start(path, *overrides, **options)
    return run, train_worker(run, fingerprint, comm or SingleWorker(), device=torch.device("cpu"), threads=1)


def weights(run, which="last"):
    return load_file(choose_checkpoint(run, which).folders[0] / "model.safetensors")


def copied(run: Path, storage: Path) -> Path:
    """Copies a run to another storage, for a test that changes it; returns its folder."""
    folder = storage / run.name
    shutil.copytree(run, folder)
    config = folder / "config.yaml"
    text = config.read_text(encoding="utf-8")
    assert f"storage: {run.parent}\n" in text
    config.write_text(text.replace(f"storage: {run.parent}\n", f"storage: {storage}\n"), encoding="utf-8")
    return folder


def travelling():
    """Makes this process send gradients in many small buckets, as on a system without anonymous files."""
    del os.memfd_create
    distributed.BUCKET_BYTES = 1000


def _process(rank, size, run, fingerprint, port, setup, environment):
    if setup is not None:
        setup()
    os.environ |= environment | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=size)
    train_worker(run, fingerprint, ProcessGroup(), device=torch.device("cpu"), threads=1)
    torch.distributed.destroy_process_group()
    os._exit(0)  # gloo's threads may still let go of tensors, which ends a Python that is shutting down with an abort


def train_together(path, size, *overrides, setup=None, **options):
    run, fingerprint = start(path, *overrides, **options)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Forked by a server that has imported torch once; its environment is that of the first test that used it.
    given = size, run, fingerprint, port, setup, dict(os.environ)
    torch.multiprocessing.start_processes(_process, given, nprocs=size, start_method="forkserver")
    return run
