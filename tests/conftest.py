"""What several test files share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)
# Where the tests were started with Ctrl-C ignored (in the background, say), their child processes still hear it.
signal.signal(signal.SIGINT, signal.default_int_handler)
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Tokenised files of tests do not land in the user's cache."""
    os.environ["UNROLLED_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data sets, where they are at hand."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the real data sets in {SHARED_DATA}")
    return SHARED_DATA


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


@pytest.fixture
def tiny(tmp_path) -> Path:
    """A config that trains in a second or two; its runs land beside it."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY + f"storage: {tmp_path / 'runs'}\n", encoding="utf-8")
    return path
