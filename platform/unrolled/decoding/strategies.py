"""Decoding strategies: their settings, spellings and n-best forms.

How to search: the settings of greedy, sampling and beam search.

Strategies as the command line and results.json spell them: `beam`, or `beam:size=10,length_penalty=0.6`.

Strategies that give several candidates of an input.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, get_args

import torch

from unrolled.config import Decoding
from unrolled.errors import UserError, did_you_mean, listing
from unrolled.models.heads import Precision
from unrolled.recurrence.matmul import has_bfloat16_matmul

Utility = Literal["chrf", "bleu"]


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """What all strategies share.

    Args:
        min_length: tokens at least, the end token included.
        max_length: tokens at most, the end token included.
        length_factor: with it, at most ⌊length_factor · S⌋ + length_offset tokens too, S being the length of the input
            in tokens (never below `min_length`).
        length_offset: see there.
        no_repeat: no sequence of so many tokens occurs twice (Paulus et al. 2018, section 2.5); 0: any may.
        precision: of the product with the vocabulary, the largest of a step; see `Scorer`.
    """

    min_length: int = 1
    max_length: int = 100
    length_factor: float | None = None
    length_offset: int = 10
    no_repeat: int = 0
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        self._check("min_length", int, lambda x: x >= 1, "whole number, 1 or more")
        self._check("max_length", int, lambda x: x >= 1, "whole number, 1 or more")
        if self.length_factor is not None:
            self._check("length_factor", float, lambda x: 0 <= x < math.inf, "number, 0 or more, or null")
        self._check("length_offset", int, lambda x: x >= 0, "whole number, 0 or more")
        self._check("no_repeat", int, lambda x: x >= 0, "whole number, 0 or more")
        if self.precision not in get_args(Precision):
            accepted = listing(get_args(Precision))
            raise UserError(f"{self.name()}.precision is {self.precision!r}; accepted is {accepted}.")
        if self.min_length > self.max_length:
            raise UserError(
                f"{self.name()}.min_length is {self.min_length}, more than its max_length, {self.max_length}."
            )

    @classmethod
    def name(cls) -> str:
        """Returns what the command line calls it."""
        return cls.__name__.lower()

    def _check(self, field: str, kind: type, fits: Callable[[float], bool], accepted: str) -> None:
        value = getattr(self, field)
        right = isinstance(value, int | kind) and not isinstance(value, bool)
        if not right or not fits(value):
            raise UserError(f"{self.name()}.{field} is {value!r}; accepted is a {accepted}.")


@dataclass(frozen=True)
class Greedy(Strategy):
    """The most probable token at every step."""


@dataclass(frozen=True)
class Sample(Strategy):
    """Tokens drawn from the model's distribution p, made sharper or flatter and cut to its head.

    Args:
        temperature: draws from p^(1/temperature), normalised; below 1 sharper, above 1 flatter.
        top_k: only the k most probable tokens; 0 for all (Fan et al. 2018).
        top_p: only the nucleus, the fewest tokens that together have this probability after `temperature` and
            `top_k`; 1 for all (Holtzman et al. 2020).
        typical: of what these leave, only the fewest tokens that together have this probability, the most typical
            first; 1 for all (Meister et al. 2023).
        seed: with a sentence's id and the sample's number, decides its draws.
        samples: of every sentence.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    typical: float = 1.0
    seed: int = 1
    samples: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        # The least temperature is greedy in all but name, and far from where float32 would overflow.
        self._check("temperature", float, lambda x: 0.001 <= x < math.inf, "number, 0.001 or more")
        self._check("top_k", int, lambda x: x >= 0, "whole number, 0 or more")
        self._check("top_p", float, lambda x: 0 < x <= 1, "number above 0, up to 1")
        self._check("typical", float, lambda x: 0 < x <= 1, "number above 0, up to 1")
        self._check("seed", int, lambda x: 0 <= x < 2**64, "whole number from 0 to 2^64 - 1")
        self._check("samples", int, lambda x: x >= 1, "whole number, 1 or more")

    @property
    def cuts(self) -> bool:
        """Whether anything of the distribution is left out."""
        return self.top_k > 0 or self.top_p < 1 or self.typical < 1


@dataclass(frozen=True)
class BestOfN(Sample):
    """The most probable of several samples."""

    samples: int = 20

    @classmethod
    def name(cls) -> str:
        return "best"


@dataclass(frozen=True)
class MBR(Sample):
    """Of several samples the one that is most like all of them, the least risk (Eikema & Aziz 2020, section 5; 2022).

    The risk is estimated with every sample as a reference.

    Args:
        utility: how like a sample is to another: their sentence-level chrF or BLEU.
    """

    samples: int = 20
    utility: Utility = "chrf"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.utility not in get_args(Utility):
            accepted = listing(get_args(Utility))
            raise UserError(f"{self.name()}.utility is {self.utility!r}; accepted is {accepted}.")


@dataclass(frozen=True)
class Beam(Strategy):
    """The best finished hypotheses of a beam search.

    Args:
        size: unfinished hypotheses kept of every sentence.
        length_penalty: α of GNMT (Wu et al. 2016, eq. 14): a hypothesis Y is worth
            log p(Y) / ((5 + |Y|) / 6)^α, |Y| counting the end token. 0 compares plain log-probabilities. "average"
            divides by |Y|.
        coverage_penalty: β there: adds β Σ_i log min(Σ_j p_ij, 1), p_ij being the weight of input position i when token
            j was written; wants a model with attention.
        best: how many hypotheses are returned.
        groups: beams of equal size that share `size`; each avoids what those before it chose at the same step
            (Vijayakumar et al. 2018).
        diversity: λ there, taken off a token's log-probability for every time that they chose it.
    """

    size: int = 5
    length_penalty: float | Literal["average"] = 1.0
    coverage_penalty: float = 0.0
    best: int = 1
    groups: int = 1
    diversity: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("size", int, lambda x: x >= 1, "whole number, 1 or more")
        if self.length_penalty != "average":
            self._check("length_penalty", float, lambda x: 0 <= x < math.inf, "number, 0 or more, or 'average'")
        self._check("coverage_penalty", float, lambda x: 0 <= x < math.inf, "number, 0 or more")
        self._check("best", int, lambda x: 1 <= x <= self.size, f"whole number from 1 to the size, {self.size}")
        divides = "whole number, 1 or more, that divides the size"
        self._check("groups", int, lambda x: x >= 1 and self.size % x == 0, f"{divides}, {self.size}")
        self._check("diversity", float, lambda x: 0 <= x < math.inf, "number, 0 or more")
        if (self.groups > 1) != (self.diversity > 0):
            raise UserError(
                f"beam.groups is {self.groups} and beam.diversity {self.diversity}: several groups need a diversity "
                "above 0, and one group has none."
            )


STRATEGIES: dict[str, type[Strategy]] = {each.name(): each for each in (Greedy, Sample, Beam, BestOfN, MBR)}
C = TypeVar("C", bound=Decoding)
DEFAULT_STRATEGIES = ("greedy", "sample", "beam")
"""What an evaluation compares if nothing else is asked for."""


def split_spellings(text: str) -> list[str]:
    """Splits `greedy,beam:size=10,length_penalty=0.6` into strategies: options go on after a comma."""
    spellings: list[str] = []
    for piece in text.split(","):
        if spellings and ":" in spellings[-1] and "=" in piece and ":" not in piece:
            spellings[-1] += f",{piece}"
        else:
            spellings.append(piece)
    return spellings


def parse_strategies(spellings: Sequence[str], config: Decoding) -> dict[str, Strategy]:
    """Returns strategies by their spellings: the settings of the config's `decoding` section, but the options spelled.

    Raises:
        UserError: no such strategy or option, a value that is not accepted, or a spelling given twice.
    """
    chosen: dict[str, Strategy] = {}
    for spelling in spellings:
        if spelling in chosen:
            raise UserError(f"--decode: {spelling!r} is given twice.")
        chosen[spelling] = _strategy(spelling, config)
    return chosen


def resolve_auto(config: C, precision: str, length_factor: float | None = None) -> C:
    """Returns the settings of a trained model with what `auto` stands for.

    Args:
        precision: of the training; where that is `auto` itself, it stays, and the hardware decides.
        length_factor: what the training split says.
    """
    settled: dict[str, Any] = {}
    if config.precision == "auto" and precision != "auto":
        settled["precision"] = "bfloat16" if precision == "bfloat16" else "float32"
    if config.length_factor == "auto":
        settled["length_factor"] = length_factor
    return config.model_copy(update=settled)


def resolve_precision(config: Decoding) -> Precision:
    """Returns what a strategy's precision is; `auto`: bfloat16 where the hardware has units for it, as in training."""
    if config.precision != "auto":
        return config.precision
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return "bfloat16" if has_bfloat16_matmul(device) else "float32"


def _strategy(spelling: str, config: Decoding) -> Strategy:
    name, colon, options = spelling.partition(":")
    if name not in STRATEGIES:
        raise UserError(
            f"--decode: {name!r} is not a strategy; there is {listing(STRATEGIES)}.{did_you_mean(name, STRATEGIES)}"
        )
    kind = STRATEGIES[name]
    settings = _configured(kind, config)
    given = _options(spelling, options) if colon else {}
    for key in given:
        if key not in settings:
            takers = [other for other, each in STRATEGIES.items() if key in _configured(each, config)]
            hint = f" {listing(takers)} has it." if takers else did_you_mean(key, settings)
            raise UserError(f"--decode {spelling}: {name} has no option {key!r}; it has {listing(settings)}.{hint}")
    return kind(**settings | given)


def _configured(kind: type[Strategy], config: Decoding) -> dict[str, Any]:
    """Returns the settings that the config gives a strategy: what may be spelled, too."""
    settings = {field.name: getattr(config, field.name) for field in dataclasses.fields(Strategy)}
    settings["precision"] = resolve_precision(config)
    if issubclass(kind, Sample):
        settings |= config.sample.model_dump()
        settings["samples"] = config.samples if issubclass(kind, BestOfN | MBR) else 1
    if issubclass(kind, MBR):
        settings["utility"] = MBR.utility
    if issubclass(kind, Beam):
        settings |= config.beam.model_dump() | {"best": 1}
    return settings


def _options(spelling: str, options: str) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for option in options.split(","):
        key, equals, value = option.partition("=")
        if not equals:
            raise UserError(f"--decode {spelling}: {option!r} is no option; accepted is key=value, such as size=10.")
        if key in given:
            raise UserError(f"--decode {spelling}: {key} is given twice.")
        given[key] = _value(value)
    return given


def _value(text: str) -> Any:
    if text == "null":
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


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
    if isinstance(strategy, BestOfN):
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
