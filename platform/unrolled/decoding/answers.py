"""What a search wrote for an input, as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from unrolled.decoding.risk import least_risk
from unrolled.decoding.search import Decoded, Hypothesis
from unrolled.decoding.strategies import MBR, Beam, Best, Strategy
from unrolled.decoding.worth import Worth


class Candidate(NamedTuple):
    """A text, and its score as `Hypothesis` has it."""

    text: str
    score: float


@dataclass(frozen=True)
class Answer:
    """What was written for one input.

    Attributes:
        candidates: the output first. With `Beam` and `Best` different texts follow, the best first; with `Sample` all
            other samples, in the order of their numbers.
        log_probability: of the output by the model, in nats a token, the end token included; `None` where a coverage
            penalty hides it.
    """

    candidates: list[Candidate]
    log_probability: float | None

    @property
    def text(self) -> str:
        """Returns the output."""
        return self.candidates[0].text


def answers(
    decoded: Decoded, strategy: Strategy, write: Callable[[list[list[int]]], list[str]], limits: Sequence[int]
) -> list[Answer]:
    """Returns an answer for every sentence.

    Args:
        write: turns tokens into texts.
        limits: tokens at most that each sentence could have, the end token included.
    """
    every = iter(write([one.tokens for hypotheses in decoded.hypotheses for one in hypotheses]))
    found = []
    for hypotheses, limit in zip(decoded.hypotheses, limits, strict=True):
        own = [Candidate(next(every), one.score) for one in hypotheses]
        first = least_risk([one.text for one in own], strategy.utility) if isinstance(strategy, MBR) else 0
        known = _log_probability(hypotheses[first], strategy, limit)
        found.append(Answer(_told(own, first, strategy), known))
    return found


def _told(candidates: list[Candidate], first: int, strategy: Strategy) -> list[Candidate]:
    if isinstance(strategy, MBR):
        return [candidates[first]]
    if isinstance(strategy, Beam | Best):
        different = {one.text: one for one in reversed(candidates)}
        return [one for one in candidates if different[one.text] is one]
    return candidates


def _log_probability(hypothesis: Hypothesis, strategy: Strategy, limit: int) -> float | None:
    length = min(len(hypothesis.tokens) + 1, limit)
    if not isinstance(strategy, Beam):
        return hypothesis.score / length
    if strategy.coverage_penalty > 0:
        return None
    return hypothesis.score * float(Worth(strategy.length_penalty, 0.0).divisor(length)) / length
