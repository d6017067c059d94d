"""Places in this repository, and the real data sets beside it."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFIGS, JOBS = ROOT / "configs", ROOT / "jobs"
GOLDEN = Path(__file__).parent / "golden"
SHARED_DATA = ROOT.parent / "shared" / "data"
