"""Beam search over tensors of sentences by hypotheses, exact in when it stops."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from unrolled.decoding.interface import M
from unrolled.decoding.problem import Problem, check
from unrolled.decoding.strategies import Beam
from unrolled.recurrence import state as nest


@dataclass(frozen=True)
class Hypotheses:
    """k hypotheses of each of n sentences, the best first.

    Args:
        scores: `(n, k)`; -inf marks one that is impossible and only fills its place.
        tokens: `(n, k, length)`.
    """

    scores: Tensor
    tokens: Tensor

    def select(self, sentences: Tensor) -> Hypotheses:
        """Returns the hypotheses of the sentences `(m,)`."""
        return Hypotheses(self.scores[sentences], self.tokens[sentences])

    def choose(self, places: Tensor) -> Hypotheses:
        """Returns the hypotheses at `places` `(n, j)` of each sentence."""
        length = self.tokens.shape[2]
        tokens = self.tokens.gather(1, places[:, :, None].expand(-1, -1, length))
        return Hypotheses(self.scores.gather(1, places), tokens)


def beam_search(problem: Problem[M], strategy: Beam) -> tuple[Tensor, Tensor]:
    """Returns the best hypothesis of every sentence.

    Sums of log-probabilities only fall as a hypothesis grows, and the length penalty is largest at the
    sentence's limit, so nothing unfinished can end above its sum divided by that penalty. A sentence leaves
    the batch once its best finished hypothesis reaches this bound: searching on would not change the result.
    What is unfinished at the limit competes as it is.

    Returns:
        Tokens `(n, length)`, filled up with the end token, and scores `(n,)`, divided by the length penalty.
    """
    state, memory, limits = problem.state, problem.memory, problem.limits
    sentences = torch.arange(len(limits), device=limits.device)
    tokens = torch.full((len(limits), int(limits.max())), problem.end, device=limits.device)
    scores = torch.zeros(len(limits), dtype=torch.float64, device=limits.device)
    # One hypothesis a sentence to begin with, and none finished.
    alive = Hypotheses(scores.new_zeros((len(limits), 1), dtype=torch.float32), tokens[:, None, :0])
    finished = Hypotheses(alive.scores[:, :0], alive.tokens[:, :0])
    last = torch.full_like(sentences, problem.begin)
    for length in range(1, tokens.shape[1] + 1):
        log_probabilities, state = problem.step(last, state, memory)
        candidates, parents = extend(alive, log_probabilities, 2 * strategy.size)
        ended = candidates.tokens[:, :, -1] == problem.end
        at_limit = limits == length
        finished = collect(finished, candidates, ended | at_limit[:, None], strategy, problem.end)
        check(torch.maximum(candidates.scores[:, 0], finished.scores[:, 0]), sentences, length)

        # Each hypothesis has one ended continuation, so this many others are among the candidates.
        width = min(strategy.size, alive.scores.shape[1] * (log_probabilities.shape[1] - 1))
        unfinished = replace(candidates, scores=candidates.scores.masked_fill(ended, -float("inf")))
        places = unfinished.scores.topk(width).indices
        alive, rows = unfinished.choose(places), parents.gather(1, places)
        bound = alive.scores[:, 0] / length_penalty(limits.double(), strategy.length_penalty)
        done = at_limit | (finished.scores[:, 0] >= bound)
        if bool(done.any()):
            tokens[sentences[done], :length] = finished.tokens[done, 0]
            scores[sentences[done]] = finished.scores[done, 0].double()
            going = (~done).nonzero()[:, 0]
            if len(going) == 0:
                break
            alive, finished, memory = alive.select(going), finished.select(going), memory.select(going)
            rows, sentences, limits = rows[going], sentences[going], limits[going]
        state = nest.select(state, rows.flatten())
        last = alive.tokens[:, :, -1].flatten()
    return tokens, scores


def length_penalty(length: int | Tensor, alpha: float) -> float | Tensor:
    """Returns ((5 + length) / 6)^alpha (Wu et al. 2016, eq. 14)."""
    return ((5 + length) / 6) ** alpha


def extend(alive: Hypotheses, log_probabilities: Tensor, count: int) -> tuple[Hypotheses, Tensor]:
    """Returns the `count` best continuations by one token, fewer if there are not as many.

    With twice the beam's size, enough unfinished ones remain whichever of them have ended.

    Args:
        alive: `(n, k)` hypotheses, scored by their sums of log-probabilities.
        log_probabilities: of the next token, `(n · k, vocabulary)`.

    Returns:
        The continuations `(n, count)`, and the model's row `(n, count)` that each came from.
    """
    n, k = alive.scores.shape
    vocabulary = log_probabilities.shape[1]
    sums = alive.scores[:, :, None] + log_probabilities.reshape(n, k, vocabulary)
    scores, flat = sums.view(n, k * vocabulary).topk(min(count, k * vocabulary))
    parents = flat // vocabulary
    earlier = alive.choose(parents).tokens
    tokens = torch.cat([earlier, (flat % vocabulary)[:, :, None]], dim=2)
    return Hypotheses(scores, tokens), parents + k * torch.arange(n, device=flat.device)[:, None]


def collect(finished: Hypotheses, candidates: Hypotheses, ended: Tensor, strategy: Beam, end: int) -> Hypotheses:
    """Adds the candidates that `ended` `(n, count)` to the finished ones and keeps each sentence's best.

    Only a candidate within the beam's size may finish: one behind it has no place in the beam, ended or not.
    So a beam of one without length penalty is greedy search.
    """
    length = candidates.tokens.shape[2]
    normalised = candidates.scores / length_penalty(length, strategy.length_penalty)
    normalised = normalised.masked_fill(~ended, -float("inf"))[:, : strategy.size]
    scores = torch.cat([finished.scores, normalised], dim=1)
    longer = pad(finished.tokens, (0, 1), value=end)
    tokens = torch.cat([longer, candidates.tokens[:, : strategy.size]], dim=1)
    places = scores.topk(min(strategy.size, scores.shape[1])).indices
    return Hypotheses(scores, tokens).choose(places)
