"""How fast the package is, next to the plainest PyTorch that does the same.

    python jobs/benchmark.py recurrence training            some of them
    python jobs/benchmark.py all --quick --check            in a few minutes; exit code 1 if a goal is missed
    python jobs/benchmark.py all --json FILE --markdown FILE

A benchmark is a function from `quick` to figures and a line in `BENCHMARKS`.
"""

from __future__ import annotations

import sys
from pathlib import Path

JOBS = Path(__file__).resolve().parent
# Without this folder: its evaluate.py must not hide the library of that name.
sys.path[:] = [
    str(JOBS.parent / "platform"),
    *(path for path in sys.path if Path(path) != JOBS),
    str(JOBS / "benchmarks"),
]

from absolute import absolute
from asha import asha
from captioning import captioning
from decoding import decoding
from kernels import kernels
from measure import Benchmark, main
from ray_path import ray_path
from recurrence import recurrence
from training import training
from truncation import truncation
from tuning import tuning
from vqa import vqa

BENCHMARKS: dict[str, Benchmark] = {
    "absolute": absolute,
    "recurrence": recurrence,
    "training": training,
    "decoding": decoding,
    "captioning": captioning,
    "questions": vqa,
    "ray": ray_path,
    "truncation": truncation,
    "tuning": tuning,
    "asha": asha,
    "kernels": kernels,
}

if __name__ == "__main__":
    sys.exit(main(BENCHMARKS, sys.argv[1:]))
