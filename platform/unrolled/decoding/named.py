"""Strategies by the names that the command line and results.json give them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from unrolled.config import Decoding
from unrolled.decoding.strategies import Beam, Greedy, Sample, Strategy
from unrolled.errors import UserError, listing, nearest

STRATEGIES: dict[str, Callable[[Decoding], Strategy]] = {
    "greedy": lambda config: Greedy(max_length=config.max_length),
    "sample": lambda config: Sample(**config.sample.model_dump(), max_length=config.max_length),
    "beam": lambda config: Beam(**config.beam.model_dump(), max_length=config.max_length),
}


def choose(names: Sequence[str], config: Decoding) -> dict[str, Strategy]:
    """Returns the strategies `names` with the settings of the config's `decoding` section.

    Raises:
        UserError: no such strategy, or a name given twice.
    """
    chosen: dict[str, Strategy] = {}
    for name in names:
        if name not in STRATEGIES:
            raise UserError(
                f"--decode: {name!r} is not a strategy; there is {listing(STRATEGIES)}.{nearest(name, STRATEGIES)}"
            )
        if name in chosen:
            raise UserError(f"--decode: {name!r} is given twice.")
        chosen[name] = STRATEGIES[name](config)
    return chosen
