"""What a person sees of a training run: what will run, one live line, one line a validation, and what was made."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from unrolled.config import Config
from unrolled.metrics import metric_info

QUIET_SECONDS = 90.0
"""Without a terminal a progress line appears only after this long without any other line."""


class Console:
    """Args: `json_lines` prints every row as JSON instead of sentences; `stream` defaults to standard output."""

    def __init__(self, *, json_lines: bool = False, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout
        self.json_lines = json_lines
        self.live = not json_lines and self.stream.isatty()
        self._config: Config | None = None
        self._shown_scores: Sequence[str] = ()
        self._shown = time.monotonic()
        self._best = ""
        self._fragile = False
        self._block = 0
        self._counted = "tokens"

    def say(self, line: str = "") -> None:
        """Prints a line that stays."""
        if not self.json_lines:
            self._print(line)

    def json(self, row: dict[str, Any]) -> None:
        """Prints a row as JSON."""
        self._print(json.dumps(row))

    def block(self, lines: Sequence[str]) -> None:
        """Shows lines that the next block or line replaces."""
        self._clear()
        self.stream.write("".join(f"{line[:99]}\n" for line in lines))
        self.stream.flush()
        self._block = len(lines)

    def begin(self, config: Config, lines: Sequence[str], shown: Sequence[str], counted: str = "tokens") -> None:
        """Says what will run; `shown` are the scores that stand behind the loss of a validation, `counted` is what
        batches count."""
        self._config, self._shown_scores, self._counted = config, shown, counted
        for line in lines:
            self.say(line)

    def show(self, row: dict[str, Any]) -> None:
        """Shows one row of metrics.jsonl."""
        if self.json_lines:
            self.json(row)
        elif row["kind"] == "train":
            self._progress(row)
        elif row["kind"] == "validation":
            self._print(self._validation(row))
        elif row["kind"] == "skipped" and row["in_a_row"] == 1:
            where = f" in {row['where'][0]}" if row["where"] else ""
            self._print(f"step {row['step']:,} left out: loss {row['loss']}, gradient {row['gradient_norm']}{where}")
        elif row["kind"] == "resume":
            for sentence in row["damaged"]:
                self._print(sentence)
            self._print(f"continuing from step {row['step']:,}")

    def evaluating(self, what: str, done: int, total: int, word: str) -> None:
        """Shows how far an evaluation has come: `beam: 128 of 1,000 decoded`."""
        if self.live:
            self._replace(f"{what}: {done:,} of {total:,} {word}")
        elif done == total:
            self.say(f"{what}: {total:,} {word}")

    def conclude(self, scores: Sequence[dict[str, Any]], lines: Sequence[str], reports: Sequence[Path]) -> None:
        """Says what evaluations found, and where the report of each is."""
        if self.json_lines:
            for found, report in zip(scores, reports, strict=True):
                self._print(json.dumps({"scores": found, "report": str(report)}))
            return
        for line in (*lines, *(f"report: {report}" for report in reports)):
            self.say(line)

    def _progress(self, row: dict[str, Any]) -> None:
        line = "  ".join(
            part
            for part in (
                self._where(row),
                f"{row['tokens_per_second']:,.0f} {self._counted}/s",
                f"loss {row['loss']:.3f}",
                f"gradient {row['gradient_norm']:.2f}",
                self._best,
                self._left(row),
            )
            if part
        )
        if self.live:
            self._replace(line)
        elif time.monotonic() - self._shown >= QUIET_SECONDS:
            self._print(line)

    def _where(self, row: dict[str, Any]) -> str:
        epochs = f"/{self._config.training.epochs}" if self._config else ""
        return f"epoch {row['epoch']:.1f}{epochs}  step {row['step']:,}"

    def _validation(self, row: dict[str, Any]) -> str:
        scores = "  ".join(format_score(name, row[name]) for name in self._shown_scores)
        if row["best"] and self._config:
            self._best = f"best {format_score(self._config.training.metric, row[self._config.training.metric])}"
        mark = "  * best" if row["best"] else ""
        return (
            f"{self._where(row)}  {format_duration(row['seconds'])}  validation loss {row['loss']:.3f}  {scores}{mark}"
        )

    def _left(self, row: dict[str, Any]) -> str:
        if self._config is None:
            return ""
        done = self._config.training.completed(epoch=row["epoch"], step=row["step"], seconds=row["seconds"])
        return f"{format_duration(row['seconds'] * (1 - done) / done)} left" if done else ""

    def _replace(self, line: str) -> None:
        """Shows a line that the next one replaces."""
        self.stream.write(f"\r\x1b[2K{line[:99]}")
        self.stream.flush()
        self._fragile = True

    def _print(self, line: str) -> None:
        self._clear()
        self.stream.write(f"{line}\n")
        self.stream.flush()
        self._shown = time.monotonic()

    def _clear(self) -> None:
        """Takes back what was shown only for a while."""
        if self._block:
            self.stream.write(f"\x1b[{self._block}F\x1b[J")
        elif self._fragile:
            self.stream.write("\r\x1b[2K")
        self._fragile, self._block = False, 0


def format_score(name: str, value: float) -> str:
    """Returns a score as a line of text has it: `exact match 99.8`."""
    return f"{name.replace('_', ' ')} {value:.{metric_info(name).digits}f}"


def format_duration(seconds: float) -> str:
    """Returns `45 s`, `12 min` or `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
