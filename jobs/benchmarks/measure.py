"""Measured ratios: how they are taken, judged and written down, and the command line of a script that measures."""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import math
import os
import platform
import re
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from unrolled.errors import UserError, did_you_mean, listing

Better = Literal["higher", "lower"]
TURN_SECONDS = 0.01
"""Least time of a turn; one much shorter measures the clock and what the turn before left in the caches."""


@dataclass(frozen=True)
class Figure:
    """One ratio, or one absolute figure.

    Attributes:
        name: parts joined by slashes, the benchmark's name first.
        value: the median of the ratios of all rounds; of an absolute figure, the rate over all rounds.
        goal: the worst value that is accepted; `None` where the figure is only shown.
        better: which way is better.
        baseline: what the ratio is taken against; the unit of an absolute figure.
        runs: how many rounds were timed.
        spread: first and third quartile of the rounds.
        absolute: whether the figure is no ratio.
    """

    name: str
    value: float
    goal: float | None
    better: Better
    baseline: str
    runs: int
    spread: tuple[float, float]
    absolute: bool = False

    @property
    def missed(self) -> bool:
        """Whether the value is worse than the goal, or is no number."""
        if self.goal is None:
            return False
        return not (self.value >= self.goal if self.better == "higher" else self.value <= self.goal)


def take_turns(work: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Times every piece of work `rounds` times, one after the other in each round: A B C A B C …

    So a disturbance of the machine that lasts longer than a round meets all of them. Short pieces are called
    several times a turn, all equally often. The garbage collector waits.

    Returns:
        Seconds of a call of each piece, one number a round.
    """
    with _no_garbage_collection():
        for function in work.values():
            function()  # warms caches and allocators
        shortest = min(_seconds(function, 1) for function in work.values())
        calls = math.ceil(TURN_SECONDS / shortest)
        turns = [{name: _seconds(function, calls) for name, function in work.items()} for _ in range(rounds)]
    return {name: [turn[name] for turn in turns] for name in work}


def _seconds(function: Callable[[], object], calls: int) -> float:
    began = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - began) / calls


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def ratio(
    name: str,
    over: Sequence[float],
    under: Sequence[float],
    *,
    goal: float | None,
    better: Better,
    baseline: str,
) -> Figure:
    """Compares two pieces of work round by round: the median of `over[i] / under[i]`."""
    ratios = [a / b for a, b in zip(over, under, strict=True)]
    return figure(name, ratios, goal=goal, better=better, baseline=baseline)


def figure(name: str, ratios: Sequence[float], *, goal: float | None, better: Better, baseline: str) -> Figure:
    """Returns the median of one ratio or more, with their quartiles."""
    several = ratios if len(ratios) > 1 else [*ratios, *ratios]
    first, median, third = statistics.quantiles(several, n=4, method="inclusive")
    spread = (round(first, 3), round(third, 3))
    return Figure(name, round(median, 3), goal, better, baseline, len(ratios), spread)


def amount(name: str, values: Sequence[float], unit: str, *, value: float | None = None) -> Figure:
    """Returns an absolute figure: `value`, or the median of `values`, with their quartiles."""
    made = figure(name, values, goal=None, better="higher", baseline=unit)
    return replace(made, absolute=True, value=made.value if value is None else round(value, 3))


ABSOLUTE_HEADER = ["figure", "value", "quartiles", "runs", "unit"]
HEADER = ["figure", "ratio", "quartiles", "goal", "", "runs", "against"]


def cells(figure: Figure) -> list[str]:
    """Returns a figure as the texts under `HEADER`."""
    goal = "" if figure.goal is None else f"{'≥' if figure.better == 'higher' else '≤'} {figure.goal:.2f}"
    verdict = "" if figure.goal is None else "missed" if figure.missed else "met"
    quartiles = "–".join(map(_digits, figure.spread))
    return [figure.name, _digits(figure.value), quartiles, goal, verdict, str(figure.runs), figure.baseline]


def absolute_cells(figure: Figure) -> list[str]:
    """Returns an absolute figure as the texts under `ABSOLUTE_HEADER`."""
    quartiles = "–".join(map(_digits, figure.spread))
    return [figure.name, _digits(figure.value), quartiles, str(figure.runs), figure.baseline]


def _digits(value: float) -> str:
    """At most four digits, so that tables of any figures fit a terminal."""
    rounded = float(f"{value:.4g}")  # 9.9996 is 10.00
    return f"{rounded:.{sum(rounded < limit for limit in (10, 100, 1000))}f}"


def table(figures: Sequence[Figure]) -> str:
    """Returns aligned columns for a terminal: absolute figures first, ratios after."""
    return "\n\n".join(_aligned(header, rows) for header, rows in _tables(figures))


def _tables(figures: Sequence[Figure]) -> list[tuple[list[str], list[list[str]]]]:
    """Header and rows of the absolute figures and of the ratios, where there are any."""
    absolute = [absolute_cells(figure) for figure in figures if figure.absolute]
    ratios = [cells(figure) for figure in figures if not figure.absolute]
    return [(header, rows) for header, rows in ((ABSOLUTE_HEADER, absolute), (HEADER, ratios)) if rows]


def _aligned(header: list[str], rows: list[list[str]]) -> str:
    table = [header, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    right = {"ratio", "value", "quartiles", "runs"}
    lines = (
        "  ".join(
            cell.rjust(width) if title in right else cell.ljust(width)
            for cell, width, title in zip(row, widths, header, strict=True)
        )
        for row in table
    )
    return "\n".join(line.rstrip() for line in lines)


def page(figures: Sequence[Figure], command: str) -> str:
    """Returns the Markdown page of a run."""
    tables = "\n\n".join(
        "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows])
        for header, rows in _tables(figures)
    )
    return f"""\
# Benchmarks

- Machine: {machine()}
- Command: `{command}`

Absolute figures, where there are any, come first: every batch is new and nothing that is timed was run before. All
others are ratios of two pieces of work that were timed in turn in the same run (A B A B …): the median over all rounds,
with the quartiles beside it. ≤: lower is better; ≥: higher is better; no goal: for information. The figures of `asha`
compare updates and losses, which no other work on the machine changes; a `rate` is questions per second.

{tables}
"""


def machine() -> str:
    """Returns the processor, its cores and vector units, torch and its threads in one line."""
    known = _cpu_info()
    flags = set(known.get("flags", "").split())
    units = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    units = [name for name in units if name != "avx2" or "avx512f" not in units]  # which goes without saying
    name = known.get("model name") or platform.processor() or platform.machine()
    name = re.sub(r"\((R|TM)\)| (CPU|Processor)\b", "", name)
    return (
        f"{name}, {cores()} cores "
        f"({', '.join(units) or torch.backends.cpu.get_cpu_capability()}), torch {torch.__version__} "
        f"on {torch.get_num_threads()} of them"
    )


def cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_info() -> dict[str, str]:
    """What Linux says of the first core; nothing elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}


# Command line ---------------------------------------------------------------------------------------------

Benchmark = Callable[[bool], Iterable[Figure]]
"""Makes figures; True asks for fewer repetitions and smaller shapes."""


def main(benchmarks: Mapping[str, Benchmark], argv: Sequence[str]) -> int:
    """Measures, prints and writes; returns the exit code."""
    arguments = _parse(benchmarks, argv)
    try:
        names = choose(benchmarks, arguments.names)
        for path in (arguments.json, arguments.markdown):
            if path is not None and not path.parent.is_dir():
                raise UserError(f"{path}: there is no folder {path.parent} to write it in.")
    except UserError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 2
    torch.set_num_threads(arguments.threads)
    print(machine())
    figures: list[Figure] = []
    for name in names:
        began = time.perf_counter()
        torch.manual_seed(1)
        figures += benchmarks[name](arguments.quick)
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    print(table(figures))
    command = f"python jobs/benchmark.py {shlex.join(argv)}"
    if arguments.json is not None:
        record = {"machine": machine(), "command": command, "figures": [asdict(figure) for figure in figures]}
        arguments.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if arguments.markdown is not None:
        arguments.markdown.write_text(page(figures, command), encoding="utf-8")
    return verdict(figures) if arguments.check else 0


def choose(known: Iterable[str], names: Sequence[str]) -> list[str]:
    """Returns the benchmarks to run, each once; `all` stands for every one.

    Raises:
        UserError: there is no such benchmark.
    """
    known = list(known)
    accepted = [*known, "all"]
    for name in names:
        if name not in accepted:
            raise UserError(f"{name!r} is not a benchmark; there is {listing(accepted)}.{did_you_mean(name, accepted)}")
    return known if "all" in names else list(dict.fromkeys(names))


def verdict(figures: Sequence[Figure]) -> int:
    """Says which goals were missed; returns the exit code of `--check`."""
    missed = [figure.name for figure in figures if figure.missed]
    if missed:
        print(f"missed: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


def _parse(benchmarks: Iterable[str], argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmark", description="Measures how fast the package is.")
    parser.add_argument("names", nargs="+", metavar="NAME", help=listing([*benchmarks, "all"]))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write a page with their table here")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a figure misses its goal")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, smaller shapes")
    parser.add_argument("--threads", type=_threads, default=cores(), metavar="N", help="of torch (default: all cores)")
    return parser.parse_args(argv)


def _threads(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of threads, 1 or more")
    return int(text)
