"""Decoding strategies: their settings, spellings and n-best forms."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, get_args

import torch

from unrolled.config import Decoding
from unrolled.errors import UserError, did_you_mean, listing
from unrolled.models import Precision
from unrolled.recurrence import has_bfloat16_matmul

Utility = Literal["chrf", "bleu"]


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """Settings of all strategies.

    Args:
        min_length: minimum number of tokens, the end token included.
        max_length: maximum number of tokens, the end token included.
        length_factor: limits outputs to ⌊length_factor · S⌋ + length_offset tokens too (but not below `min_length`), S
            being the number of input tokens.
        length_offset: see there.
        no_repeat: no sequence of this many tokens occurs twice (Paulus et al. 2018, section 2.5); 0: no constraint.
        precision: of the output layer's matrix product, the largest of a step; see `unrolled.models.heads.Scorer`.
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
        """Returns the strategy's name in spellings."""
        return cls.__name__.lower()

    def _check(self, field: str, kind: type, is_valid: Callable[[float], bool], accepted: str) -> None:
        value = getattr(self, field)
        right_type = isinstance(value, int | kind) and not isinstance(value, bool)
        if not right_type or not is_valid(value):
            raise UserError(f"{self.name()}.{field} is {value!r}; accepted is a {accepted}.")


@dataclass(frozen=True)
class Greedy(Strategy):
    """The most probable token at every step."""


@dataclass(frozen=True)
class Sample(Strategy):
    """Tokens drawn from the model's distribution p, with temperature and truncation.

    Args:
        temperature: draws from p^(1/temperature), normalised; below 1 sharper, above 1 flatter.
        top_k: only the k most probable tokens; 0 for all (Fan et al. 2018).
        top_p: only the nucleus, the smallest set of most probable tokens with this probability after `temperature` and
            `top_k`; 1 for all (Holtzman et al. 2020).
        typical: of these, only the smallest set of most typical tokens with this probability; 1 for all (Meister et al.
            2023).
        seed: determines the draws, together with a sentence's id and the sample's index.
        samples: number of samples per sentence.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    typical: float = 1.0
    seed: int = 1
    samples: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        # The lowest temperature is practically greedy, and far from where float32 would overflow.
        self._check("temperature", float, lambda x: 0.001 <= x < math.inf, "number, 0.001 or more")
        self._check("top_k", int, lambda x: x >= 0, "whole number, 0 or more")
        self._check("top_p", float, lambda x: 0 < x <= 1, "number above 0, up to 1")
        self._check("typical", float, lambda x: 0 < x <= 1, "number above 0, up to 1")
        self._check("seed", int, lambda x: 0 <= x < 2**64, "whole number from 0 to 2^64 - 1")
        self._check("samples", int, lambda x: x >= 1, "whole number, 1 or more")

    @property
    def truncates(self) -> bool:
        """Whether any token of the distribution is left out."""
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
    """Minimum Bayes risk: of several samples the one most similar to all of them (Eikema & Aziz 2020, section 5; 2022).

    The risk is estimated with every sample as a reference.

    Args:
        utility: the similarity, sentence-level chrF or BLEU.
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
        size: number of unfinished hypotheses per sentence.
        length_penalty: α of GNMT (Wu et al. 2016, eq. 14): the score of a hypothesis Y is
            log p(Y) / ((5 + |Y|) / 6)^α, |Y| including the end token. 0 compares plain log-probabilities. "average"
            divides by |Y|.
        coverage_penalty: β there: adds β Σ_i log min(Σ_j p_ij, 1), p_ij being the attention weight of input position i
            when token j was written; requires a model with attention.
        best: number of hypotheses returned.
        groups: beams of equal size into which `size` is divided; each avoids tokens that earlier groups chose at the
            same step (Vijayakumar et al. 2018).
        diversity: λ there, subtracted from a token's log-probability for each time that earlier groups chose it.
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
DEFAULT_STRATEGIES = ("greedy", "sample", "beam")
"""Strategies of an evaluation by default."""


def split_spellings(text: str) -> list[str]:
    """Splits comma-separated spellings such as `greedy,beam:size=10,length_penalty=0.6`; options too have commas."""
    spellings: list[str] = []
    for piece in text.split(","):
        if spellings and ":" in spellings[-1] and "=" in piece and ":" not in piece:
            spellings[-1] += f",{piece}"
        else:
            spellings.append(piece)
    return spellings


def parse_strategies(spellings: Sequence[str], config: Decoding) -> dict[str, Strategy]:
    """Returns strategies by spelling, such as `beam:size=10`; settings that are not spelled come from the config.

    Raises:
        UserError: no such strategy or option, a value that is not accepted, or a spelling given twice.
    """
    strategies: dict[str, Strategy] = {}
    for spelling in spellings:
        if spelling in strategies:
            raise UserError(f"--decode: {spelling!r} is given twice.")
        strategies[spelling] = _parse_strategy(spelling, config)
    return strategies


def _parse_strategy(spelling: str, config: Decoding) -> Strategy:
    name, colon, options = spelling.partition(":")
    if name not in STRATEGIES:
        raise UserError(
            f"--decode: {name!r} is not a strategy; there is {listing(STRATEGIES)}.{did_you_mean(name, STRATEGIES)}"
        )
    kind = STRATEGIES[name]
    settings = _configured(kind, config)
    given = _parse_options(spelling, options) if colon else {}
    for key in given:
        if key not in settings:
            others = [other for other, each in STRATEGIES.items() if key in _configured(each, config)]
            hint = f" {listing(others)} has it." if others else did_you_mean(key, settings)
            raise UserError(f"--decode {spelling}: {name} has no option {key!r}; it has {listing(settings)}.{hint}")
    return kind(**settings | given)


def _configured(kind: type[Strategy], config: Decoding) -> dict[str, Any]:
    """Returns the settings of a strategy in the config; these are also its options in spellings."""
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


def _parse_options(spelling: str, options: str) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for option in options.split(","):
        key, equals, value = option.partition("=")
        if not equals:
            raise UserError(f"--decode {spelling}: {option!r} is no option; accepted is key=value, such as size=10.")
        if key in given:
            raise UserError(f"--decode {spelling}: {key} is given twice.")
        given[key] = _parse_value(value)
    return given


def _parse_value(text: str) -> Any:
    if text == "null":
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


C = TypeVar("C", bound=Decoding)


def resolve_auto(config: C, precision: str, length_factor: float | None = None) -> C:
    """Returns the decoding settings of a trained model with `auto` resolved.

    Args:
        precision: of the training; if that is `auto` itself, it stays and the hardware decides.
        length_factor: determined from the training split.
    """
    update: dict[str, Any] = {}
    if config.precision == "auto" and precision != "auto":
        update["precision"] = "bfloat16" if precision == "bfloat16" else "float32"
    if config.length_factor == "auto":
        update["length_factor"] = length_factor
    return config.model_copy(update=update)


def resolve_precision(config: Decoding) -> Precision:
    """Returns the precision of strategies; `auto`: bfloat16 if the hardware has units for it, as in training."""
    if config.precision != "auto":
        return config.precision
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return "bfloat16" if has_bfloat16_matmul(device) else "float32"


def n_best(strategy: Strategy, count: int) -> Strategy:
    """Returns the strategy with settings that find `count` or more candidates per input, fewer if candidates coincide.

    Raises:
        UserError: it cannot find as many.
    """
    name = strategy.name()
    if count < 1:
        raise UserError(f"--n-best is {count}; accepted is a whole number, 1 or more.")
    if isinstance(strategy, Beam):
        _check_count(
            count, strategy.size, f"{name} keeps {strategy.size} hypotheses", f"size, as in {name}:size={count}"
        )
        # All hypotheses, as several of them may be the same text.
        return replace(strategy, best=strategy.size)
    if isinstance(strategy, BestOfN):
        draws = f"{name} draws {strategy.samples} samples"
        _check_count(count, strategy.samples, draws, f"number of samples, as in {name}:samples={count}")
        return strategy
    # Not a subclass: MBR finds one output.
    if type(strategy) is Sample:
        return replace(strategy, samples=max(count, strategy.samples))
    if count > 1:
        raise UserError(f"--n-best {count}: {name} finds one output of an input; beam, best and sample find several.")
    return strategy


def _check_count(count: int, most: int, why: str, larger: str) -> None:
    if count > most:
        raise UserError(f"--n-best {count}: {why}; accepted is 1 to {most}, or a larger {larger}.")
