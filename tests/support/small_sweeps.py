"""Sweeps that take seconds."""

from __future__ import annotations

import json

from unrolled.training import checkpoint

MEMORY = """\
task: memory
data: {problem: adding, length: 10, validation: 50, test: 50}
model: {cell: lstm, hidden: 8}
training:
  epochs: 1
  epoch_steps: 60
  validate_every: 6
  log_every: 5
  metric: mse
"""


def write_config(folder, text, name="sweep.yaml"):
    """Writes a config whose runs land beside it."""
    path = folder / name
    path.write_text(text + f"storage: {folder / 'runs'}\n", encoding="utf-8")
    return path


def sweep_config(folder, text, tuning):
    """Writes the config of a sweep."""
    return write_config(folder, text + f"tuning: {json.dumps(tuning)}\n")


def trained_steps(run):
    """Steps of the newest checkpoint of a run."""
    return checkpoint.step_of(checkpoint.last(run / "checkpoints"))
