"""TensorBoard's files of a run."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from typing import Any

from unrolled.errors import RunFailed
from unrolled.files import writing
from unrolled.training.run import KEPT, RunFolder


class TensorBoard:
    """An event file in the run's folder. TensorBoard's own writers write in a thread, where a full disk cannot be
    answered.

    Raises:
        RunFailed: the disk does not take it; so do the methods.
    """

    def __init__(self, run: RunFolder) -> None:
        # Slow to import, and only one process needs them.
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        folder, now = run.path / "tensorboard", time.time()
        self._path = folder / f"events.out.tfevents.{now:.6f}.{socket.gethostname()}.{os.getpid()}"
        with writing(folder, RunFailed, KEPT):
            folder.mkdir(exist_ok=True)
            self._file = self._path.open("wb")
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")

    def log(self, row: Mapping[str, Any]) -> None:
        """Writes the numbers of a row of metrics.jsonl."""
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in numbers(row).items()]
        self._write(step=row["step"], summary=self._summary(value=values))

    def add(self, summary: Any) -> None:
        """Writes a summary that a plugin of TensorBoard's made."""
        self._write(summary=summary)

    def _write(self, **content: Any) -> None:
        with writing(self._path, RunFailed, KEPT):
            self._records.write(self._event(wall_time=time.time(), **content).SerializeToString())
            self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        with writing(self._path, RunFailed, KEPT):
            self._file.close()


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row of metrics.jsonl, by `train/loss` and the like; norms of layers by `gradient/…`."""
    kind = row["kind"]
    plain = {f"{kind}/{name}": value for name, value in row.items() if isinstance(value, float)}
    for name in ("seconds", "epoch"):
        plain.pop(f"{kind}/{name}", None)
    return plain | {f"gradient/{layer}": norm for layer, norm in row.get("layers", {}).items()}
