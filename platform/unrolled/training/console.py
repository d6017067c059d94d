"""Console output: what will run, one live line, one line per validation, and the results."""

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
"""Without a terminal, a progress line is printed only after this time without any other line."""


class Console:
    """Prints the output of commands.

    Args:
        json_lines: whether rows are printed as JSON, and nothing else.
        stream: default: standard output.

    Attributes:
        live: whether lines can be replaced, on a terminal.
    """

    def __init__(self, *, json_lines: bool = False, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout
        self.json_lines = json_lines
        self.live = not json_lines and self.stream.isatty()
        self._config: Config | None = None
        self._metric_names: Sequence[str] = ()
        self._unit = "tokens"
        self._last_printed = time.monotonic()
        self._best = ""
        self._replaceable_line = False
        self._block_height = 0

    def print(self, line: str = "") -> None:
        """Prints a permanent line, unless rows are printed as JSON."""
        if not self.json_lines:
            self._print(line)

    def json(self, row: dict[str, Any]) -> None:
        self._print(json.dumps(row))

    def show_block(self, lines: Sequence[str]) -> None:
        """Prints lines that the next block or line replaces."""
        self._clear()
        self.stream.write("".join(f"{line[:99]}\n" for line in lines))
        self.stream.flush()
        self._block_height = len(lines)

    def introduce(self, config: Config, lines: Sequence[str], metric_names: Sequence[str], unit: str) -> None:
        """Prints what will run.

        Args:
            metric_names: scores that are printed after the loss of a validation.
            unit: of the targets, in the plural.
        """
        self._config, self._metric_names, self._unit = config, metric_names, unit
        for line in lines:
            self.print(line)

    def show_row(self, row: dict[str, Any]) -> None:
        if self.json_lines:
            self.json(row)
        elif row["kind"] == "train":
            self._show_training(row)
        elif row["kind"] == "validation":
            self._print(self._validation_line(row))
        elif row["kind"] == "skipped" and row["in_a_row"] == 1:
            where = f" in {row['where'][0]}" if row["where"] else ""
            self._print(f"step {row['step']:,} left out: loss {row['loss']}, gradient {row['gradient_norm']}{where}")
        elif row["kind"] == "resume":
            for sentence in row["damaged"]:
                self._print(sentence)
            self._print(f"continuing from step {row['step']:,}")

    def show_progress(self, label: str, done: int, total: int, unit: str) -> None:
        """Prints the progress of other work: `beam: 128 of 1,000 decoded`."""
        if self.live:
            self._replace(f"{label}: {done:,} of {total:,} {unit}")
        elif done == total:
            self.print(f"{label}: {total:,} {unit}")

    def conclude(self, scores: Sequence[dict[str, Any]], lines: Sequence[str], reports: Sequence[Path]) -> None:
        """Prints the scores of evaluations and the path of each report."""
        if self.json_lines:
            for values, report in zip(scores, reports, strict=True):
                self.json({"scores": values, "report": str(report)})
            return
        for line in (*lines, *(f"report: {report}" for report in reports)):
            self.print(line)

    def _show_training(self, row: dict[str, Any]) -> None:
        parts = (
            self._position(row),
            f"{row['tokens_per_second']:,.0f} {self._unit}/s",
            f"loss {row['loss']:.3f}",
            f"gradient {row['gradient_norm']:.2f}",
            self._best,
            self._time_left(row),
        )
        line = "  ".join(filter(None, parts))
        if self.live:
            self._replace(line)
        elif time.monotonic() - self._last_printed >= QUIET_SECONDS:
            self._print(line)

    def _position(self, row: dict[str, Any]) -> str:
        epochs = f"/{self._config.training.epochs}" if self._config else ""
        return f"epoch {row['epoch']:.1f}{epochs}  step {row['step']:,}"

    def _validation_line(self, row: dict[str, Any]) -> str:
        scores = "  ".join(format_score(name, row[name]) for name in self._metric_names)
        if row["best"] and self._config:
            self._best = f"best {format_score(self._config.training.metric, row[self._config.training.metric])}"
        duration, mark = format_duration(row["seconds"]), "  * best" if row["best"] else ""
        return f"{self._position(row)}  {duration}  validation loss {row['loss']:.3f}  {scores}{mark}"

    def _time_left(self, row: dict[str, Any]) -> str:
        if self._config is None:
            return ""
        done = self._config.training.completed(epoch=row["epoch"], step=row["step"], seconds=row["seconds"])
        return f"{format_duration(row['seconds'] * (1 - done) / done)} left" if done else ""

    def _replace(self, line: str) -> None:
        """Prints a line that the next one replaces."""
        self.stream.write(f"\r\x1b[2K{line[:99]}")
        self.stream.flush()
        self._replaceable_line = True

    def _print(self, line: str) -> None:
        self._clear()
        self.stream.write(f"{line}\n")
        self.stream.flush()
        self._last_printed = time.monotonic()

    def _clear(self) -> None:
        if self._block_height:
            self.stream.write(f"\x1b[{self._block_height}F\x1b[J")
        elif self._replaceable_line:
            self.stream.write("\r\x1b[2K")
        self._replaceable_line, self._block_height = False, 0


def format_score(name: str, value: float) -> str:
    """Returns a score as text: `exact match 99.8`."""
    return f"{name.replace('_', ' ')} {value:.{metric_info(name).digits}f}"


def format_duration(seconds: float) -> str:
    """Returns `45 s`, `12 min` or `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
