"""What an examination of a language model found, for results.json and the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from unrolled.decoding import Sample, precision_of
from unrolled.models import LanguageModel
from unrolled.tasks.findings import Findings, Table

if TYPE_CHECKING:
    from unrolled.tasks.language_modeling import LanguageModeling

WINDOW = 200
"""Units that a bootstrap draws together: longer than what one unit says about the next ones."""
SAMPLES = 1000
"""Texts that the bootstrap draws."""
EXTREMES = 10
"""Rows of the tables of hard and easy units."""
OFTEN = 20
"""A unit is ranked if it occurs so often, and less in a short text."""
PRIME_UNITS = 16


def find(task: LanguageModeling, model: LanguageModel, data: np.ndarray, losses: np.ndarray) -> Findings:
    """Sums up an examination.

    Args:
        data: the numbers of the split's units.
        losses: of every unit but the first, in nats, in the order of the text.
    """
    scores = task.in_all_units(float(losses.mean()))
    names = [task.symbols.decode([number]) for number in range(len(task.symbols))]
    return Findings(
        scores,
        len(losses),
        _intervals(task, losses) if len(losses) > WINDOW else {},
        [*_rows(data[1:], losses, names)],
        _tables(data[1:], losses, names),
        _samples(task, model, data),
    )


def _intervals(task: LanguageModeling, losses: np.ndarray) -> dict[str, tuple[float, float]]:
    """Returns the 95 % intervals of the scores by a bootstrap over windows (Künsch 1989, blocks that do not
    overlap): neighbouring units are not independent, windows nearly are."""
    cuts = np.arange(0, len(losses), WINDOW)
    sums, sizes = np.add.reduceat(losses, cuts), np.diff([*cuts, len(losses)])
    generator = np.random.default_rng(1)
    drawn = generator.integers(len(cuts), size=(SAMPLES, len(cuts)))
    ends = np.percentile(sums[drawn].sum(1) / sizes[drawn].sum(1), [2.5, 97.5]).tolist()
    low, high = (task.in_all_units(end) for end in ends)
    return {name: (low[name], high[name]) for name in low}


def _rows(units: np.ndarray, losses: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the rows of outputs.jsonl: the text in windows, each with its mean loss."""
    return [
        {
            "index": number,
            "text": "".join(names[unit] for unit in units[start : start + WINDOW]),
            "loss": round(float(losses[start : start + WINDOW].mean()), 4),
        }
        for number, start in enumerate(range(0, len(units), WINDOW))
    ]


def _tables(units: np.ndarray, losses: np.ndarray, names: Sequence[str]) -> list[Table]:
    counts = np.bincount(units, minlength=len(names))
    sums = np.bincount(units, weights=losses, minlength=len(names))
    often = min(OFTEN, int(counts.max()))
    ranked = sorted(np.flatnonzero(counts >= often).tolist(), key=lambda unit: sums[unit] / counts[unit])
    ranked = [unit for unit in ranked if counts[unit]]
    half = min(EXTREMES, -(-len(ranked) // 2))

    def row(unit: int) -> list[str]:
        return [shown(names[unit]), f"{counts[unit]:,}", f"{sums[unit] / counts[unit]:.3f}"]

    columns, note = ["Unit", "Occurrences", "Mean loss (nats)"], f"Of the units that occur {often} times or more."
    return [
        Table("Hardest to foresee", note, columns, [row(unit) for unit in ranked[::-1][:half]]),
        Table("Easiest to foresee", note, columns, [row(unit) for unit in ranked[: len(ranked) - half][:half]]),
    ]


def shown(unit: str) -> str:
    """Returns a unit so that it can be seen: spaces as ␣, newlines as ↵."""
    return unit.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥").replace("\r", "␍")


def _samples(task: LanguageModeling, model: LanguageModel, data: np.ndarray) -> list[tuple[str, str]]:
    settings = task.config.evaluation
    prime = settings.prime or task.symbols.decode(data[:PRIME_UNITS].tolist())
    decoding = task.decoding
    chosen = decoding.sample.model_dump()
    chosen |= {"max_length": decoding.max_length, "precision": precision_of(decoding)}
    return [
        (f"Temperature {t:g}", task.predict(model, [prime], Sample(**chosen | {"temperature": t}))[0])
        for t in settings.temperatures
    ]
