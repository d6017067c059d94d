"""How fast the package is, next to the plainest PyTorch that does the same.

    python jobs/benchmark.py recurrence training            some of them
    python jobs/benchmark.py all --quick --check            in a few minutes; exit code 1 if a goal is missed
    python jobs/benchmark.py all --json FILE --markdown FILE

A benchmark is a function from `quick` to figures and a line in `BENCHMARKS`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

JOBS = Path(__file__).resolve().parent
# This folder comes last: its evaluate.py must not hide the library of that name.
sys.path[:] = [str(JOBS.parent / "platform"), *(path for path in sys.path if Path(path) != JOBS), str(JOBS)]

from measure import Benchmark, Figure, main, ratio, take_turns
from ray_path import ray_path
from recurrence import recurrence
from training import configured, training, translator
from truncation import truncation
from unrolled.data.vocabulary import BEGIN, END, PAD, SPECIAL, UNKNOWN
from unrolled.decoding import Beam, Greedy, Sample, Strategy, decode

# Decoding: beam search and sampling against greedy --------------------------------------------------------


def decoding(quick: bool) -> Iterator[Figure]:
    """Seconds a sentence of an untrained translator; nothing may end early, so all take as many steps."""
    config = configured()
    model = translator(config).eval()
    inputs = torch.randint(len(SPECIAL), config.data.vocabulary.size, (16 if quick else config.decoding.batch, 14))
    strategies: dict[str, Strategy] = {"greedy": Greedy(), "beam-5": Beam(size=5), "sampling": Sample()}

    def search(strategy: Strategy) -> Callable[[], object]:
        return lambda: decode(
            model,
            memory,
            strategy,
            begin=BEGIN,
            end=END,
            max_length=15,
            forbidden=(PAD, BEGIN, END, UNKNOWN),
        )

    with torch.inference_mode():
        memory = model.encode(inputs, torch.ones_like(inputs, dtype=torch.bool))
        seconds = take_turns({name: search(strategy) for name, strategy in strategies.items()}, 5 if quick else 21)
    for name, goal in (("beam-5", 5.0), ("sampling", 1.5)):
        yield ratio(
            f"decoding/{name}", seconds[name], seconds["greedy"], goal=goal, better="lower", baseline="greedy search"
        )


BENCHMARKS: dict[str, Benchmark] = {
    "recurrence": recurrence,
    "training": training,
    "decoding": decoding,
    "ray": ray_path,
    "truncation": truncation,
}

if __name__ == "__main__":
    sys.exit(main(BENCHMARKS, sys.argv[1:]))
