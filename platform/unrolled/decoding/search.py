"""Decoding of a batch of inputs with any strategy, and its outputs as text.

The one way in: decode the sentences of a memory with a strategy.

What a search wrote for an input, as text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from unrolled.decoding.beam import HypothesisScorer, Required, beam_search
from unrolled.decoding.mbr import least_risk
from unrolled.decoding.protocols import M, Searchable, SupportsAttention, SupportsScorer
from unrolled.decoding.sampling import greedy, sample
from unrolled.decoding.step import Rules, SearchSpec, phrases, prefix_table
from unrolled.decoding.strategies import MBR, Beam, BestOfN, Greedy, Sample, Strategy
from unrolled.errors import UserError
from unrolled.recurrence import state as nest


class Hypothesis(NamedTuple):
    """An output: its tokens, without begin and end, and its score: the model's log-probability of them and of the end
    token; with `Beam` as its penalties have it."""

    tokens: list[int]
    score: float


@dataclass(frozen=True)
class DecodeResult:
    """What a search found, in the order of the memory's sentences.

    Attributes:
        hypotheses: of each sentence, one or more; the best first, except that `Sample` and `MBR` leave samples in the
            order of their numbers.
    """

    hypotheses: list[list[Hypothesis]]

    @property
    def tokens(self) -> list[list[int]]:
        """Returns the tokens of every sentence's first hypothesis."""
        return [each[0].tokens for each in self.hypotheses]

    @property
    def scores(self) -> list[float]:
        """Returns the score of every sentence's first hypothesis."""
        return [each[0].score for each in self.hypotheses]


@torch.no_grad()
def decode(
    model: Searchable[M],
    memory: M,
    strategy: Strategy,
    *,
    begin: int,
    end: int,
    max_length: int | Sequence[int] | None = None,
    input_lengths: Sequence[int] | None = None,
    sentence_ids: Sequence[int] | None = None,
    forbidden: Sequence[int] = (),
    banned: Sequence[Sequence[int]] = (),
    prefixes: Sequence[Sequence[int]] | None = None,
    required: Sequence[Sequence[Sequence[int]]] | None = None,
) -> DecodeResult:
    """Decodes every sentence of `memory`; how they are batched changes no result.

    Args:
        model: begins and steps; a module should be in evaluation mode.
        memory: of n sentences.
        begin: the token fed first.
        end: the token that ends a sentence; one below 0 never comes.
        max_length: tokens at most, the end token included: one number, or one for each sentence; the
            strategy's own if `None`.
        input_lengths: of the sentences' inputs in tokens, for `length_factor`.
        sentence_ids: with the seed these key the draws of `Sample`; 0 … n - 1 if `None`. Give ids of the
            whole data set, so that a sentence draws the same in whatever batch it is.
        forbidden: tokens never emitted: padding, begin, unknown.
        banned: sequences of tokens never emitted.
        prefixes: the tokens that each sentence begins with, whatever forbids them; scored like all others.
        required: the sequences of tokens that each sentence must have somewhere; only for `Beam`.

    Raises:
        UserError: a maximal length below 1, a negative sentence id, or not one of them for each sentence; a prefix or
            required phrases that do not fit; a coverage penalty for a model without attention.
        RunFailed: the model gave NaN or left no token possible.
    """
    n = len(memory)
    limits = length_limits(strategy, max_length, input_lengths, n)
    ids = _ids(sentence_ids, n)
    if isinstance(strategy, Beam) and strategy.coverage_penalty > 0:
        _check_attention(model)
    if required is not None and (not isinstance(strategy, Beam) or strategy.groups > 1):
        raise UserError("required phrases want a beam search with one group.")
    if n == 0:
        return DecodeResult([])
    state = model.start(memory)
    device = _device(state)
    single, longer = phrases(banned, device)
    never = torch.tensor(sorted({*forbidden, *single} - {-1}), dtype=torch.long, device=device)
    scorer = model.scorer(strategy.precision) if isinstance(model, SupportsScorer) else None
    rules = Rules(end, never, longer, strategy.min_length, strategy.no_repeat, prefix_table(prefixes, limits, device))
    problem = SearchSpec(model, memory, state, begin, end, ids, torch.tensor(limits, device=device), rules, scorer)
    match strategy:
        case Greedy():
            tokens, scores = greedy(problem)
        case Sample():
            tokens, scores = sample(problem, strategy, ids)
        case Beam():
            phrased = None if required is None else Required.begin(required, limits, device)
            tokens, scores = beam_search(problem, strategy, phrased)
        case _:
            raise TypeError(f"no search for {strategy!r}")
    return DecodeResult(_hypotheses(tokens, scores, end, sort=isinstance(strategy, BestOfN)))


def _hypotheses(tokens: Tensor, scores: Tensor, end: int, *, sort: bool) -> list[list[Hypothesis]]:
    every = []
    for rows, values in zip(tokens.tolist(), scores.tolist(), strict=True):
        found = [
            Hypothesis(row[: row.index(end)] if end in row else row, value)
            for row, value in zip(rows, values, strict=True)
            if value > -float("inf")
        ]
        every.append(sorted(found, key=lambda one: -one.score) if sort else found)
    return every


def length_limits(
    strategy: Strategy, max_length: int | Sequence[int] | None, input_lengths: Sequence[int] | None, n: int
) -> list[int]:
    """Returns how many tokens each of n sentences has at most, the end token included; arguments and errors as in
    `decode`."""
    given = strategy.max_length if max_length is None else max_length
    limits = [given] * n if isinstance(given, int) else list(given)
    if len(limits) != n or any(limit < 1 for limit in limits):
        raise UserError(
            f"max_length is {given!r}; accepted is a whole number, 1 or more, or one such number for "
            f"each of {n} sentences."
        )
    if strategy.length_factor is None:
        return limits
    if input_lengths is None or len(input_lengths) != n:
        raise UserError(f"{strategy.name()}.length_factor wants the length of each input; here they are not given.")
    own = [int(strategy.length_factor * length) + strategy.length_offset for length in input_lengths]
    return [max(strategy.min_length, min(limit, most)) for limit, most in zip(limits, own, strict=True)]


def _ids(sentence_ids: Sequence[int] | None, n: int) -> list[int]:
    ids = list(range(n)) if sentence_ids is None else list(sentence_ids)
    if len(ids) != n or any(not 0 <= i < 2**64 for i in ids):
        raise UserError(f"sentence_ids are {ids}; accepted is one for each of {n} sentences, 0 or more.")
    return ids


def _check_attention(model: object) -> None:
    if not isinstance(model, SupportsAttention) or not model.attends:
        raise UserError(
            "beam.coverage_penalty wants to know where the model looks in its input, but this model has no attention; "
            "set it to 0."
        )


def _device(state: nest.Nest) -> torch.device:
    """Returns where the state's tensors are; the default device if it has none."""
    devices: list[torch.device] = []

    def note(tensor: Tensor) -> Tensor:
        devices.append(tensor.device)
        return tensor

    nest.map(note, state)
    return devices[0] if devices else torch.get_default_device()


class Candidate(NamedTuple):
    """A text, and its score as `Hypothesis` has it."""

    text: str
    score: float


@dataclass(frozen=True)
class Output:
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


def make_outputs(
    decoded: DecodeResult, strategy: Strategy, write: Callable[[list[list[int]]], list[str]], limits: Sequence[int]
) -> list[Output]:
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
        found.append(Output(_told(own, first, strategy), known))
    return found


def _told(candidates: list[Candidate], first: int, strategy: Strategy) -> list[Candidate]:
    if isinstance(strategy, MBR):
        return [candidates[first]]
    if isinstance(strategy, Beam | BestOfN):
        different = {one.text: one for one in reversed(candidates)}
        return [one for one in candidates if different[one.text] is one]
    return candidates


def _log_probability(hypothesis: Hypothesis, strategy: Strategy, limit: int) -> float | None:
    length = min(len(hypothesis.tokens) + 1, limit)
    if not isinstance(strategy, Beam):
        return hypothesis.score / length
    if strategy.coverage_penalty > 0:
        return None
    return hypothesis.score * float(HypothesisScorer(strategy.length_penalty, 0.0).divisor(length)) / length
