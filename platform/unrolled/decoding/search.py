"""Decoding of a batch of inputs with any strategy, and its outputs as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unrolled.decoding.beam import HypothesisScorer, RequiredPhrases, beam_search
from unrolled.decoding.protocols import M, Searchable, SupportsAttention, SupportsScorer
from unrolled.decoding.sampling import generate, sample
from unrolled.decoding.step import SearchSpec, TokenConstraints, prefix_table, split_banned
from unrolled.decoding.strategies import MBR, Beam, BestOfN, Greedy, Sample, Strategy, Utility
from unrolled.errors import UserError
from unrolled.recurrence import state as nest


class Hypothesis(NamedTuple):
    """Tokens without begin and end, and a score: the model's log-probability of them and of the end token; with `Beam`
    as modified by its penalties."""

    tokens: list[int]
    score: float


@dataclass(frozen=True)
class DecodeResult:
    """The result of a search, in the order of the sentences.

    Attributes:
        hypotheses: of each sentence, one or more; the best first, except that `Sample` and `MBR` keep samples in the
            order of their indices.
    """

    hypotheses: list[list[Hypothesis]]

    @property
    def tokens(self) -> list[list[int]]:
        """The tokens of every sentence's first hypothesis."""
        return [each[0].tokens for each in self.hypotheses]

    @property
    def scores(self) -> list[float]:
        """The score of every sentence's first hypothesis."""
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
    """Decodes every sentence of `memory`. Results do not depend on how sentences are batched.

    Args:
        model: a module should be in evaluation mode.
        memory: the encoded inputs of n sentences.
        begin: the token fed first.
        end: the token that ends a sentence; if negative, sentences end only at their maximum length.
        max_length: maximum number of tokens, the end token included: one number, or one per sentence; default: the
            strategy's own.
        input_lengths: number of tokens of each input, for `length_factor`.
        sentence_ids: together with the seed these key the draws of `Sample`; default: 0 … n - 1. Give ids that are
            unique in the data set, so that a sentence's draws do not depend on its batch.
        forbidden: tokens that are never written, such as padding, begin, unknown.
        banned: sequences of tokens that are never written.
        prefixes: the first tokens of each sentence, which override all constraints; scored like all others.
        required: sequences of tokens that each sentence must contain; only for `Beam` with one group.

    Raises:
        UserError: a maximum length below 1, a negative sentence id, or not one of them per sentence; a prefix or
            required phrases longer than the maximum length; a coverage penalty for a model without attention.
        RunFailed: the model returned NaN, or probability zero for every allowed token.
    """
    n = len(memory)
    limits = length_limits(strategy, max_length, input_lengths, n)
    ids = list(range(n)) if sentence_ids is None else list(sentence_ids)
    if len(ids) != n or any(not 0 <= i < 2**64 for i in ids):
        raise UserError(f"sentence_ids are {ids}; accepted is one for each of {n} sentences, 0 or more.")
    penalized = isinstance(strategy, Beam) and strategy.coverage_penalty > 0
    if penalized and not (isinstance(model, SupportsAttention) and model.attends):
        raise UserError(
            "beam.coverage_penalty wants to know where the model looks in its input, but this model has no attention; "
            "set it to 0."
        )
    if required is not None and (not isinstance(strategy, Beam) or strategy.groups > 1):
        raise UserError("required phrases want a beam search with one group.")
    if n == 0:
        return DecodeResult([])
    state = model.start(memory)
    device = _device(state)
    single, phrases = split_banned(banned, device)
    excluded = torch.tensor(sorted({*forbidden, *single} - {-1}), dtype=torch.long, device=device)
    prefix_tokens = prefix_table(prefixes, limits, device)
    constraints = TokenConstraints(end, excluded, phrases, strategy.min_length, strategy.no_repeat, prefix_tokens)
    scorer = model.scorer(strategy.precision) if isinstance(model, SupportsScorer) else None
    limit_tensor = torch.tensor(limits, device=device)
    spec = SearchSpec(model, memory, state, begin, end, ids, limit_tensor, constraints, scorer)
    match strategy:
        case Greedy():
            tokens, scores = generate(spec, None, 1)
        case Sample():
            tokens, scores = sample(spec, strategy, ids)
        case Beam():
            phrases_to_meet = None if required is None else RequiredPhrases.initial(required, limits, device)
            tokens, scores = beam_search(spec, strategy, phrases_to_meet)
        case _:
            raise TypeError(f"no search for {strategy!r}")
    return DecodeResult(_hypotheses(tokens, scores, end, sort=isinstance(strategy, BestOfN)))


def _hypotheses(tokens: Tensor, scores: Tensor, end: int, *, sort: bool) -> list[list[Hypothesis]]:
    """Returns the hypotheses with a finite score, given tokens `(n, hypotheses, length)` and scores
    `(n, hypotheses)`."""
    results = []
    for rows, values in zip(tokens.tolist(), scores.tolist(), strict=True):
        hypotheses = [
            Hypothesis(row[: row.index(end)] if end in row else row, value)
            for row, value in zip(rows, values, strict=True)
            if value > -float("inf")
        ]
        results.append(sorted(hypotheses, key=lambda one: -one.score) if sort else hypotheses)
    return results


def length_limits(
    strategy: Strategy, max_length: int | Sequence[int] | None, input_lengths: Sequence[int] | None, n: int
) -> list[int]:
    """Returns the maximum number of tokens of each of n sentences, the end token included; arguments and errors as in
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
    by_input = [int(strategy.length_factor * length) + strategy.length_offset for length in input_lengths]
    return [max(strategy.min_length, min(pair)) for pair in zip(limits, by_input, strict=True)]


def _device(state: nest.Nest) -> torch.device:
    """Returns the device of the state's tensors; the default device if it has none."""
    devices: list[torch.device] = []

    def note(tensor: Tensor) -> Tensor:
        devices.append(tensor.device)
        return tensor

    nest.map(note, state)
    return devices[0] if devices else torch.get_default_device()


class Candidate(NamedTuple):
    """A text with the score of its `Hypothesis`."""

    text: str
    score: float


@dataclass(frozen=True)
class Output:
    """The output for one input.

    Attributes:
        candidates: the output first. With `Beam` and `BestOfN` different texts follow, the best first; with `Sample`
            all other samples, in the order of their indices.
        log_probability: of the output by the model, in nats per token, the end token included; `None` with a coverage
            penalty, whose share of the score is unknown.
    """

    candidates: list[Candidate]
    log_probability: float | None

    @property
    def text(self) -> str:
        return self.candidates[0].text


PairwiseScores = Callable[[Utility, Sequence[str]], NDArray[np.float64]]
"""Scores every text against every text, `(hypotheses, references)`, by the metric of that name."""


def make_outputs(
    result: DecodeResult,
    strategy: Strategy,
    detokenize: Callable[[list[list[int]]], list[str]],
    limits: Sequence[int],
    pairwise_scores: PairwiseScores,
) -> list[Output]:
    """Returns one output per sentence.

    Args:
        detokenize: turns tokens into texts.
        limits: maximum number of tokens of each sentence, the end token included.
        pairwise_scores: for `MBR`, such as `unrolled.metrics.pairwise_scores`.
    """
    texts = iter(detokenize([one.tokens for hypotheses in result.hypotheses for one in hypotheses]))
    outputs = []
    for hypotheses, limit in zip(result.hypotheses, limits, strict=True):
        candidates = [Candidate(next(texts), one.score) for one in hypotheses]
        first = 0
        if isinstance(strategy, MBR):
            first = min_risk([one.text for one in candidates], strategy.utility, pairwise_scores)
            candidates = [candidates[first]]
        elif isinstance(strategy, Beam | BestOfN):
            distinct: dict[str, Candidate] = {}
            for candidate in candidates:
                distinct.setdefault(candidate.text, candidate)
            candidates = list(distinct.values())
        outputs.append(Output(candidates, _log_probability(hypotheses[first], strategy, limit)))
    return outputs


def min_risk(samples: Sequence[str], utility: Utility, pairwise_scores: PairwiseScores) -> int:
    """Returns the index of the text with the highest mean utility against all samples, the first of equals.

    Minimum Bayes risk decoding with a sentence-level metric as the utility (Eikema & Aziz 2020).
    """
    distinct = list(dict.fromkeys(samples))
    counts = np.array([samples.count(text) for text in distinct], dtype=np.float64)
    return samples.index(distinct[int((pairwise_scores(utility, distinct) @ counts).argmax())])


def _log_probability(hypothesis: Hypothesis, strategy: Strategy, limit: int) -> float | None:
    length = min(len(hypothesis.tokens) + 1, limit)
    if not isinstance(strategy, Beam):
        return hypothesis.score / length
    if strategy.coverage_penalty > 0:
        return None
    return hypothesis.score * float(HypothesisScorer(strategy.length_penalty, 0.0).length_normalizer(length)) / length
