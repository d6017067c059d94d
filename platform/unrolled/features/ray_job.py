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
from unrolled.features.extract import ExtractBlocks, Extractor, FeatureJob
from unrolled.features.store import Block


class _Worker:
    """An extractor in a Ray actor, with one thread: there is a worker for every core."""

    def __init__(self, data: Any, features: Any, split: str, fingerprint: str) -> None:
        torch.set_num_threads(1)
        self._extractor = Extractor(data, features, split)
        if self._extractor.photographs.fingerprint != fingerprint:
            raise UserError(f"data.source: {data.source} is not the same on all nodes; workers read it themselves.")

    def __call__(self, rows: Any) -> Any:
        (number,) = rows.column("block").to_pylist()
        made = self._extractor.block(number)
        return pa.table(
            {
                "block": [number],
                "grids": pa.array([made.grids.tobytes()], pa.large_binary()),
                "means": pa.array([made.means.tobytes()], pa.large_binary()),
                "unreadable": [json.dumps(list(made.unreadable.items()))],
                "channels": [made.means.shape[1]],
            }
        )


def extract_on_ray(workers: int) -> ExtractBlocks:
    """Returns what makes blocks on so many workers of one CPU each. Ray must be initialised.

    Raises:
        RunFailed: workers died too often; what was made is kept.
    """

    def compute(work: FeatureJob, missing: Sequence[int]) -> Iterator[tuple[int, Block]]:
        if not missing:
            return
        _hush()
        given = work.data, work.features, work.split, work.photographs.fingerprint
        # Numbers travel, not photographs: each worker reads what its block needs.
        blocks = ray.data.from_items([{"block": number} for number in missing], override_num_blocks=len(missing))
        made = blocks.map_batches(
            _Worker,
            fn_constructor_args=given,
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(missing))),
            num_cpus=1,
        )
        try:
            for table in made.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=0):
                yield _block(table)
        except RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise error.cause from None
            raise
        except RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise RunFailed(f"the workers that make features failed ({reason}); what was made is kept.") from None

    return compute


def _block(table: Any) -> tuple[int, Block]:
    (row,) = table.to_pylist()
    means = np.frombuffer(row["means"], np.float32).reshape(-1, row["channels"])
    grids = np.frombuffer(row["grids"], np.float16).reshape(len(means), -1, row["channels"])
    return row["block"], Block(grids, means, dict(json.loads(row["unreadable"])))


def _hush() -> None:
    """Leaves the console to our own line of progress."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for name in ("ray.data", "ray.data._internal"):
        logging.getLogger(name).setLevel(logging.ERROR)
