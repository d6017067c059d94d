"""What a person sees of a training run: what will run, one live line, one line a validation, and what was made."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from unrolled.config import Config

QUIET_SECONDS = 90.0
"""Without a terminal a progress line appears only after this long without any other line."""


class Console:
    """Args: `json_lines` prints every row as JSON instead of sentences; `stream` defaults to standard output."""

    def __init__(self, *, json_lines: bool = False, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout
        self.json_lines = json_lines
        self.live = not json_lines and self.stream.isatty()
        self._config: Config | None = None
        self._shown = time.monotonic()
        self._best = ""
        self._fragile = False

    def say(self, line: str = "") -> None:
        """Prints a line that stays."""
        if not self.json_lines:
            self._print(line)

    def begin(self, config: Config, lines: Sequence[str]) -> None:
        """Says what will run."""
        self._config = config
        for line in lines:
            self.say(line)

    def show(self, row: dict[str, Any]) -> None:
        """Shows one row of metrics.jsonl."""
        if self.json_lines:
            self._print(json.dumps(row))
        elif row["kind"] == "train":
            self._progress(row)
        elif row["kind"] == "validation":
            self._print(self._validation(row))
        elif row["kind"] == "resume":
            self._print(f"continuing from step {row['step']:,}")

    def decoding(self, strategy: str, done: int, total: int) -> None:
        """Shows how far an evaluation has come."""
        if self.live:
            self._replace(f"{strategy}: {done:,} of {total:,} decoded")
        elif done == total:
            self.say(f"{strategy}: {total:,} decoded")

    def conclude(self, scores: dict[str, dict[str, Any]], report: Path) -> None:
        """Says what an evaluation found: a table of strategies, and where its report is."""
        if self.json_lines:
            self._print(json.dumps({"strategies": scores, "report": str(report)}))
            return
        metrics = list(next(iter(scores.values()))["intervals"])
        self.say("".join(f"{word:<14}" for word in ("", *(name.replace("_", " ") for name in metrics), "sentences/s")))
        for name, row in scores.items():
            numbers = [f"{row[metric]:.1f}" for metric in metrics] + [f"{row['sentences_per_second']:,.0f}"]
            self.say("".join(f"{word:<14}" for word in (name, *numbers)))
        for signature in next(iter(scores.values()))["signatures"].items():
            self.say("signature of {}: {}".format(*signature))
        self.say(f"report: {report}")

    def _progress(self, row: dict[str, Any]) -> None:
        line = "  ".join(
            part
            for part in (
                self._where(row),
                f"{row['tokens_per_second']:,.0f} tokens/s",
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
        metrics = self._config.evaluation.metrics if self._config else []
        scores = "  ".join(f"{name.replace('_', ' ')} {row[name]:.1f}" for name in metrics if name in row)
        if row["best"] and self._config:
            metric = self._config.training.metric
            self._best = f"best {metric.replace('_', ' ')} {row[metric]:.{3 if metric == 'loss' else 1}f}"
        mark = "  * best" if row["best"] else ""
        return f"{self._where(row)}  {duration(row['seconds'])}  validation loss {row['loss']:.3f}  {scores}{mark}"

    def _left(self, row: dict[str, Any]) -> str:
        if self._config is None:
            return ""
        training = self._config.training
        shares = [row["epoch"] / training.epochs]
        if training.max_steps:
            shares.append(row["step"] / training.max_steps)
        if training.max_minutes:
            shares.append(row["seconds"] / 60 / training.max_minutes)
        share = min(1.0, max(shares))
        return f"{duration(row['seconds'] * (1 - share) / share)} left" if share else ""

    def _replace(self, line: str) -> None:
        """Shows a line that the next one replaces."""
        self.stream.write(f"\r\x1b[2K{line[:99]}")
        self.stream.flush()
        self._fragile = True

    def _print(self, line: str) -> None:
        clear = "\r\x1b[2K" if self._fragile else ""
        self.stream.write(f"{clear}{line}\n")
        self.stream.flush()
        self._fragile, self._shown = False, time.monotonic()


def duration(seconds: float) -> str:
    """Returns `45 s`, `12 min` or `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
