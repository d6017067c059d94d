"""Feature extraction with Ray Data."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from ray.exceptions import RayError, RayTaskError

from unrolled.errors import RunFailed, UserError
from unrolled.features.extract import BlockExtractor, ExtractBlocks, FeatureJob
from unrolled.features.store import Block


def extract_on_ray(workers: int) -> ExtractBlocks:
    """Returns a function that extracts blocks on Ray workers of one CPU each; it raises `RunFailed` if workers died too
    often, and finished blocks are kept. Ray must be initialised."""

    def extract_blocks(job: FeatureJob, missing: Sequence[int]) -> Iterator[tuple[int, Block]]:
        if not missing:
            return
        _silence()
        # Numbers are sent, not photographs: each worker reads those of its block.
        numbers = ray.data.from_items([{"block": number} for number in missing], override_num_blocks=len(missing))
        blocks = numbers.map_batches(
            _Worker,
            fn_constructor_args=(job.data, job.features, job.split, job.photographs.fingerprint),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(missing))),
            num_cpus=1,
        )
        try:
            for table in blocks.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=0):
                yield _from_table(table)
        except RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise error.cause from None
            raise
        except RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise RunFailed(f"the workers that make features failed ({reason}); what was made is kept.") from None

    return extract_blocks


class _Worker:
    """An extractor in a Ray actor, with one thread: there is one worker per core."""

    def __init__(self, data: Any, features: Any, split: str, fingerprint: str) -> None:
        torch.set_num_threads(1)
        self._extractor = BlockExtractor(data, features, split)
        if self._extractor.photographs.fingerprint != fingerprint:
            raise UserError(f"data.source: {data.source} is not the same on all nodes; workers read it themselves.")

    def __call__(self, rows: Any) -> Any:
        (number,) = rows.column("block").to_pylist()
        block = self._extractor.extract(number)
        return pa.table(
            {
                "block": [number],
                "grids": pa.array([block.grids.tobytes()], pa.large_binary()),
                "means": pa.array([block.means.tobytes()], pa.large_binary()),
                "unreadable": [json.dumps(list(block.unreadable.items()))],
                "channels": [block.means.shape[1]],
            }
        )


def _from_table(table: Any) -> tuple[int, Block]:
    (row,) = table.to_pylist()
    means = np.frombuffer(row["means"], np.float32).reshape(-1, row["channels"])
    grids = np.frombuffer(row["grids"], np.float16).reshape(len(means), -1, row["channels"])
    return row["block"], Block(grids, means, dict(json.loads(row["unreadable"])))


def _silence() -> None:
    """Turns off the progress bars and messages of Ray Data; the console has a progress line of its own."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for name in ("ray.data", "ray.data._internal"):
        logging.getLogger(name).setLevel(logging.ERROR)
