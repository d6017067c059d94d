"""A config that trains in a second or two."""

from __future__ import annotations

from pathlib import Path

TINY = """\
task: translation
name: tiny
data:
  source: dates
  limit: 96
  vocabulary: {kind: character, size: 200}
model:
  encoder: {hidden: 12, embedding: 8, dropout: 0.0}
  decoder: {hidden: 12, embedding: 8, dropout: 0.0}
training:
  epochs: 2
  batch_tokens: 400
  validate_every: 10
  log_every: 5
decoding: {max_length: 14}
evaluation: {metrics: [exact_match, bleu, chrf]}
"""


def write_tiny(folder: Path) -> Path:
    """Writes the config `TINY`; its runs land beside it."""
    path = folder / "tiny.yaml"
    path.write_text(TINY + f"storage: {folder / 'runs'}\n", encoding="utf-8")
    return path
