"""Strategies that give several candidates of an input."""

from __future__ import annotations

from dataclasses import replace

from unrolled.decoding.strategies import Beam, Best, Sample, Strategy
from unrolled.errors import UserError


def n_best(strategy: Strategy, count: int) -> Strategy:
    """Returns the strategy, made to find `count` candidates of every input or more, as far as they differ.

    Raises:
        UserError: it cannot find so many.
    """
    name = strategy.name()
    if count < 1:
        raise UserError(f"--n-best is {count}; accepted is a whole number, 1 or more.")
    if isinstance(strategy, Beam):
        _check(count, strategy.size, f"{name} keeps {strategy.size} hypotheses", f"size, as in {name}:size={count}")
        # All that it keeps, for several of them may be one text.
        return replace(strategy, best=strategy.size)
    if isinstance(strategy, Best):
        draws = f"{name} draws {strategy.samples} samples"
        _check(count, strategy.samples, draws, f"number of samples, as in {name}:samples={count}")
        return strategy
    # Exactly `Sample`: of its subclasses, MBR finds one output.
    if type(strategy) is Sample:
        return replace(strategy, samples=max(count, strategy.samples))
    if count > 1:
        raise UserError(f"--n-best {count}: {name} finds one output of an input; beam, best and sample find several.")
    return strategy


def _check(count: int, most: int, why: str, larger: str) -> None:
    if count > most:
        raise UserError(f"--n-best {count}: {why}; accepted is 1 to {most}, or a larger {larger}.")
