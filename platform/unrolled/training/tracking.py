"""Trackers follow a run.

The process that was asked to train owns them, not a worker: it has its user's environment and lives on when workers
die. What they get is a copy of metrics.jsonl, so that a server which does not answer costs rows there, not training.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any

from unrolled.config import Config
from unrolled.errors import UserError
from unrolled.files import write_whole
from unrolled.training.run import RunFolder
from unrolled.training.tensorboard import numbers
from unrolled.training.trackers import Mark, State, Tracker, attempt, reason

CLOSE_SECONDS = 60.0
"""How long the end of a command waits for trackers."""


class Tracking:
    """While open, hands the rows of a run to its trackers; at the end, says to them how it ended.

    Attributes:
        state: how it ended, unless an exception closes this.

    Raises:
        UserError: a tracker does not begin.
    """

    def __init__(self, trackers: Sequence[Tracker], run: RunFolder, config: Config, say: Callable[[str], None]) -> None:
        self.state: State = "failed"
        self._followers: list[_Follower] = []
        try:
            for tracker in trackers:
                self._followers.append(_Follower(tracker, run, config, say))
        except UserError:
            self._end()
            raise

    def take(self, row: dict[str, Any]) -> None:
        """Takes a row of metrics.jsonl; never waits."""
        for follower in self._followers:
            follower.rows.put(row)

    def __enter__(self) -> Tracking:
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None) -> None:
        if kind is not None:
            self.state = "killed" if issubclass(kind, (KeyboardInterrupt, SystemExit)) else "failed"
        self._end()

    def _end(self) -> None:
        for follower in self._followers:
            follower.rows.put(self.state)
        for follower in self._followers:
            follower.join()


class _Follower:
    """Hands rows to one tracker, in a thread of its own. A file in the run's folder says how far it has come."""

    def __init__(self, tracker: Tracker, run: RunFolder, config: Config, say: Callable[[str], None]) -> None:
        self.rows: SimpleQueue[dict[str, Any] | State] = SimpleQueue()
        self._tracker, self._say, self._said = tracker, say, False
        self._file = run.path / f"{tracker.name}.json"
        self._note(attempt(tracker, lambda: tracker.begin(run, config, _read(self._file))))
        say(f"{tracker.name:<8} {tracker.where()}")
        for row in run.history():
            if _place(row) > self._mark.row:
                self.rows.put(row)
        self._thread = threading.Thread(target=self._follow, name=tracker.name, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        waiting: deque[dict[str, Any]] = deque()
        while True:
            # All that has come meanwhile: a server that does not answer is asked once for all of it.
            come = [self.rows.get(), *(self.rows.get() for _ in range(self.rows.qsize()))]
            waiting.extend(row for row in come if isinstance(row, dict) and numbers(row))
            state = come[-1]
            try:
                while waiting:
                    self._tracker.send(waiting[0])
                    self._note(Mark(self._mark.run, _place(waiting.popleft())))
                if not isinstance(state, dict):
                    self._tracker.end(state)
            except Exception as error:
                self._complain(reason(error))
            if not isinstance(state, dict):
                return

    def join(self) -> None:
        """Waits for the end, not for ever."""
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            self._complain("no answer in time")

    def _complain(self, why: str) -> None:
        if not self._said:
            self._said = True
            name, late = self._tracker.name, self._tracker.late
            self._say(f"{name} does not take rows ({why}): metrics.jsonl keeps them, {late}")

    def _note(self, mark: Mark) -> None:
        self._mark = mark
        with suppress(OSError):  # a disk that takes nothing ends the training, not this thread
            write_whole(self._file, json.dumps(asdict(mark)))


def _place(row: dict[str, Any]) -> tuple[int, str]:
    return row["step"], row["kind"]


def _read(file: Path) -> Mark | None:
    if not file.is_file():
        return None
    values = json.loads(file.read_text(encoding="utf-8"))
    return Mark(values["run"], tuple(values["row"]))
