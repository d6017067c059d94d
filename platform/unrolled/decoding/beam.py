"""Beam search, plain and with required words.

What a hypothesis is worth, and the most that it can come to.

The continuations by one token among which a beam chooses.

Words that an output must have: beam search that shares its places among hypotheses that are further and less far
with them (Hokamp & Liu 2017; Post & Vilar 2018, section 3).

Beam search over rows of hypotheses, exact in when it stops and in what it drops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from unrolled.decoding.protocols import M
from unrolled.decoding.step import ActiveHypotheses, Scored, SearchSpec
from unrolled.decoding.strategies import Beam
from unrolled.errors import UserError
from unrolled.models.encoders import Rows


@dataclass(frozen=True)
class HypothesisScorer:
    """The score of a hypothesis Y for an input X, log p(Y | X) / lp(|Y|) + β cp(X; Y) (Wu et al. 2016, eq. 14).

    Attributes:
        length_penalty: α of lp(l) = ((5 + l) / 6)^α; "average" stands for lp(l) = l.
        coverage_penalty: β.
    """

    length_penalty: float | Literal["average"]
    coverage_penalty: float

    def divisor(self, length: Tensor | int) -> Tensor:
        """Returns lp of lengths."""
        long = torch.as_tensor(length, dtype=torch.float64)
        return long if self.length_penalty == "average" else ((5 + long) / 6) ** self.length_penalty

    def score(self, sums: Tensor, length: int, coverage: Tensor | None) -> Tensor:
        """Scores hypotheses of one length.

        Args:
            sums: of log-probabilities.
            length: of all, the end token included.
            coverage: cp of each, or `None` if β is 0.
        """
        scores = sums / self.divisor(length).to(sums.device)
        return scores if coverage is None else scores + self.coverage_penalty * coverage

    def bound(self, sums: Tensor, limits: Tensor) -> Tensor:
        """Returns what no continuation of a hypothesis can exceed.

        A continuation of length l has a sum s' ≤ s, as log-probabilities are at most 0, and so is s. lp is positive and
        rises with l, so s' / lp(l) ≤ s / lp(l) ≤ s / lp(L) for every l up to the limit L. And cp ≤ 0, as the logarithm
        of at most 1. Hence s / lp(L) bounds the score at every allowed length.

        It rises with s alone among the hypotheses of a sentence. So those that cannot win are the worst of its beam,
        and what moves into their places at a later step had an even lower sum: it cannot win either. Dropping them
        therefore changes nothing of what the search finds.

        Args:
            sums: `(sentences, …)`.
            limits: `(sentences,)`.
        """
        return sums / self.divisor(limits).view(-1, *[1] * (sums.dim() - 1))


def coverage(attended: Tensor, mask: Tensor) -> Tensor:
    """Returns cp, Σ_i log min(Σ_j p_ij, 1) (Wu et al. 2016, eq. 14), `(rows,)`.

    Args:
        attended: Σ_j p_ij `(rows, positions)`.
        mask: False on padding, `(rows, positions)`.
    """
    # The least float32 stands for what rounding has made 0: no hypothesis is impossible for where it looked.
    return attended.double().clamp(torch.finfo(torch.float32).tiny, 1).log().masked_fill(~mask, 0).sum(1)


NEVER = -float("inf")


class Candidates(NamedTuple):
    """Hypotheses longer by one token, j of each of m sentences.

    Attributes:
        sums: of log-probabilities `(m, j)`, float64; -inf marks one that is impossible and only fills its place.
        tokens: the last token of each, `(m, j)`.
        parents: the row that each continues, `(m, j)`.
    """

    sums: Tensor
    tokens: Tensor
    parents: Tensor

    def only(self, these: Tensor) -> Candidates:
        """Makes all but `these` `(m, j)` impossible."""
        return Candidates(self.sums.masked_fill(~these, NEVER), self.tokens, self.parents)

    def choose(self, places: Tensor) -> Candidates:
        """Returns those at `places` `(m, i)` of each sentence."""
        return Candidates(*(each.gather(1, places) for each in self))


def expand(rows: Rows, sums: Tensor, scored: Scored, strategy: Beam, end: int) -> tuple[Candidates, Candidates]:
    """Returns the best continuations of every sentence, those that may end and those that grow on.

    Only a candidate within the beam's size may end: one behind it has no place in the beam, ended or not. So a beam of
    one without length penalty is greedy search.

    Args:
        sums: of the rows, `(rows,)`.
    """
    groups, share = strategy.groups, strategy.size // strategy.groups
    tokens = scored.tokens
    reached = sums[:, None] + (scored.values - scored.sums).clamp(max=0).double()
    every = torch.arange(len(rows), device=sums.device)[:, None].expand_as(tokens)
    table = Candidates(rows.pad(reached, NEVER), rows.pad(tokens), rows.pad(every))
    ending: list[Candidates] = []
    growing: list[Candidates] = []
    for group in range(groups):
        # All groups grow from the one empty hypothesis.
        own = slice(group * share, (group + 1) * share) if groups > 1 and rows.max_rows > 1 else slice(None)
        mine = Candidates(*(each[:, own].flatten(1) for each in table))
        order = mine.sums - strategy.diversity * _chosen(mine.tokens, growing)
        # Each hypothesis has one ended continuation, so with twice the share enough unfinished ones are left.
        ranked = order.topk(min(2 * share, order.shape[1]))
        best = mine.choose(ranked.indices)
        unfinished = ranked.values.masked_fill(best.tokens == end, NEVER)
        ending.append(Candidates(*(each[:, :share] for each in best)))
        places = unfinished.topk(min(share, unfinished.shape[1])).indices
        growing.append(_filled(best.only(best.tokens != end).choose(places), share if groups > 1 else 0))
    return _joined(ending), _joined(growing)


def _chosen(tokens: Tensor, growing: Sequence[Candidates]) -> Tensor | float:
    """Returns how often the groups before have chosen each of the tokens `(m, j)`: Hamming diversity."""
    if not growing:
        return 0.0
    chosen = torch.cat([each.tokens.masked_fill(each.sums == NEVER, -1) for each in growing], dim=1)
    return (tokens[:, :, None] == chosen[:, None]).sum(2)


def _filled(candidates: Candidates, count: int) -> Candidates:
    """Fills up to `count` candidates with impossible ones, so that every group keeps its places."""
    missing = count - candidates.sums.shape[1]
    if missing <= 0:
        return candidates
    sums = pad(candidates.sums, (0, missing), value=NEVER)
    return Candidates(sums, pad(candidates.tokens, (0, missing)), pad(candidates.parents, (0, missing)))


def _joined(groups: Sequence[Candidates]) -> Candidates:
    return groups[0] if len(groups) == 1 else Candidates(*(torch.cat(each, 1) for each in zip(*groups, strict=True)))


FIRST = 1e9
"""Lifts what has a place of its own above all others; no sum of log-probabilities comes near it."""


@dataclass(frozen=True)
class Required:
    """How far hypotheses are with the phrases that their sentences require, q at most.

    Attributes:
        phrases: `(rows, q, longest)`, filled up with -1.
        lengths: tokens of each, `(rows, q)`; 0 where a sentence requires fewer.
        at: how many tokens of each were just written, `(rows, q)`. A phrase that begins anew within itself may be
            overseen, and is then written once more.
        met: which have been written whole, `(rows, q)`.
    """

    phrases: Tensor
    lengths: Tensor
    at: Tensor
    met: Tensor

    @staticmethod
    def begin(required: Sequence[Sequence[Sequence[int]]], limits: Sequence[int], device: torch.device) -> Required:
        """Returns what one empty hypothesis a sentence is required.

        Raises:
            UserError: there is not a list for each sentence, a phrase is empty, or the phrases do not fit.
        """
        if len(required) != len(limits):
            raise UserError(f"required has {len(required)} lists of phrases for {len(limits)} sentences.")
        for phrases, limit in zip(required, limits, strict=True):
            if any(len(phrase) == 0 for phrase in phrases):
                raise UserError("required has an empty sequence of tokens; accepted is one token or more.")
            if (total := sum(map(len, phrases))) > limit:
                raise UserError(f"required phrases have {total} tokens, but max_length leaves {limit}.")
        q = max([1, *map(len, required)])
        longest = max([1, *(len(phrase) for phrases in required for phrase in phrases)])
        table = torch.full((len(limits), q, longest), -1, device=device)
        for row, phrases in zip(table, required, strict=True):
            for place, phrase in zip(row, phrases, strict=False):
                place[: len(phrase)] = torch.tensor(list(phrase))
        lengths = (table >= 0).sum(2)
        return Required(table, lengths, torch.zeros_like(lengths), lengths == 0)

    def select(self, rows: Tensor) -> Required:
        """Takes the hypotheses `rows`, of any shape."""
        return Required(self.phrases[rows], self.lengths[rows], self.at[rows], self.met[rows])

    def write(self, tokens: Tensor) -> Required:
        """Returns how far each hypothesis is with one more token, `(rows, …)`."""
        begun = self.phrases[..., 0] == tokens[..., None]
        goes_on = self._next() == tokens[..., None]
        at = torch.where(goes_on, self.at + 1, begun.long())
        met = self.met | (at >= self.lengths)
        return Required(self.phrases, self.lengths, at.masked_fill(met, 0), met)

    def _next(self) -> Tensor:
        following = self.phrases.gather(-1, self.at[..., None])[..., 0]
        return following.masked_fill(self.met, -1)

    def done(self) -> Tensor:
        """Returns how many required tokens each hypothesis has, `(rows, …)`: its bank."""
        return (self.lengths * self.met).sum(-1) + self.at.amax(-1)

    def expand(self, rows: Rows, sums: Tensor, scored: Scored, size: int, end: int) -> tuple[Candidates, Candidates]:
        """As `candidates.expand`, but every bank of a sentence has places of its own, the others go to the best of all;
        required tokens are always among the candidates; and nothing ends before it has them all."""
        values, tokens = scored.values, scored.tokens
        assert scored.logits is not None
        offered = self._next()
        known = (offered[:, :, None] == torch.cat([tokens, offered], 1)[:, None]).long()
        again = known.tril(tokens.shape[1] - 1).any(2) | (offered < 0)
        required = scored.logits.gather(1, offered.clamp(min=0)).masked_fill(again, NEVER)
        tokens, values = torch.cat([tokens, offered.clamp(min=0)], 1), torch.cat([values, required], 1)
        every = torch.arange(len(rows), device=sums.device)[:, None].expand_as(tokens)
        after = self.select(every).write(tokens)
        whole, banks = after.met.all(2), after.done()
        reached = sums[:, None] + (values - scored.sums).clamp(max=0).double()
        reached = reached.masked_fill((tokens == end) & ~whole, NEVER)

        spread = (rows.pad(reached, NEVER), rows.pad(tokens), rows.pad(every))
        table = Candidates(*(each.flatten(1) for each in spread))
        order = table.sums.argsort(dim=1, descending=True)
        ranked = table.choose(order)
        whole, banks = (rows.pad(each).flatten(1).gather(1, order) for each in (whole, banks))
        total = rows.pad(self.lengths.sum(1))[:, 0]
        alike = banks[:, :, None] == torch.arange(int(total.max()) + 1, device=sums.device)
        rank = alike.cumsum(1).gather(2, banks[:, :, None])[:, :, 0] - 1
        own_place = rank < (size // (total + 1)).clamp(min=1)[:, None]
        key = ranked.sums + torch.where(own_place, FIRST * (1 + banks), 0).double()
        places = key.masked_fill(ranked.tokens == end, NEVER).topk(min(size, key.shape[1])).indices
        return ranked.only(whole & own_place), ranked.only(ranked.tokens != end).choose(places)


@dataclass(frozen=True)
class Finished:
    """The best finished hypotheses of m sentences, the best first.

    Attributes:
        scores: `(m, best)`; -inf where there are not as many.
        tokens: `(m, best, longest)`, filled up with the end token.
    """

    scores: Tensor
    tokens: Tensor

    def select(self, sentences: Tensor) -> Finished:
        """Returns those of the sentences `(k,)`."""
        return Finished(self.scores[sentences], self.tokens[sentences])

    def add(self, scores: Tensor, tokens: Tensor, end: int) -> Finished:
        """Keeps the best of these and of others, scores `(m, j)` and tokens `(m, j, length)`."""
        scores = torch.cat([self.scores, scores], dim=1)
        tokens = torch.cat([self.tokens, pad(tokens, (0, self.tokens.shape[2] - tokens.shape[2]), value=end)], dim=1)
        best, places = scores.topk(self.scores.shape[1])
        return Finished(best, tokens.gather(1, places[:, :, None].expand(-1, -1, tokens.shape[2])))


def beam_search(problem: SearchSpec[M], strategy: Beam, required: Required | None) -> tuple[Tensor, Tensor]:
    """Returns the best hypotheses of every sentence, the best first.

    A hypothesis is dropped, and a sentence without any leaves the batch, once it cannot come to a higher score than the
    worst of the sentence's `best` finished ones; `Worth.bound` says why that changes nothing. What is unfinished at
    the limit competes as it is. With groups or required phrases no hypothesis is dropped before its sentence: it still
    tells later groups what to avoid, or holds a place that is not given by its sum alone.

    Returns:
        Tokens `(n, best, length)`, filled up with the end token, and scores `(n, best)`; -inf where there are not as
        many hypotheses.
    """
    worth = HypothesisScorer(strategy.length_penalty, strategy.coverage_penalty)
    live, limits = problem.first(), problem.limits
    n, longest = len(limits), int(limits.max())
    tokens = torch.full((n, strategy.best, longest), problem.end, device=limits.device)
    scores = torch.full((n, strategy.best), NEVER, dtype=torch.float64, device=limits.device)
    finished = Finished(scores, tokens)
    sums = scores.new_zeros(n)
    attended: Tensor | None = None
    for length in range(1, longest + 1):
        # A row's own best suffice: one of them may be the end, and as many may be put back as other groups can choose.
        look, whole = strategy.coverage_penalty > 0, required is not None
        scored = problem.step(live, strategy.size + 1, look=look, whole=whole)
        if look and scored.weights is not None:
            attended = scored.weights if attended is None else attended + scored.weights
        if required is None:
            ending, growing = expand(live.rows, sums, scored, strategy, problem.end)
        else:
            ending, growing = required.expand(live.rows, sums, scored, strategy.size, problem.end)
        at_limit = limits[live.sentences] == length
        ending = ending.only((ending.tokens == problem.end) | at_limit[:, None])
        if bool((ending.sums > NEVER).any()):
            sequences = torch.cat([live.written[ending.parents], ending.tokens[:, :, None]], dim=2)
            if strategy.groups > 1:
                ending = ending.only(~_repeated(sequences, ending.sums))
            covered = None if attended is None else _coverage(live, attended)[ending.parents]
            finished = finished.add(worth.score(ending.sums, length, covered), sequences, problem.end)
        reachable = growing.sums.amax(1).masked_fill(at_limit, NEVER)
        problem.check(live.sentences, length, torch.maximum(reachable, finished.scores[:, 0]))

        bound = worth.bound(growing.sums, limits[live.sentences])
        keep = (bound > finished.scores[:, -1:]) & ~at_limit[:, None]
        if strategy.groups > 1 or required is not None:
            keep = keep.any(1, keepdim=True).expand_as(keep)
        going = keep.any(1)
        if not bool(going.all()):
            done = live.sentences[~going]
            tokens[done], scores[done] = finished.tokens[~going], finished.scores[~going]
            finished = finished.select(going)
            if not bool(going.any()):
                break
        parents, sums = growing.parents[keep], growing.sums[keep]
        attended = None if attended is None else attended[parents]
        required = None if required is None else required.select(parents).write(growing.tokens[keep])
        live = live.follow(scored.state, parents, keep.nonzero()[:, 0], growing.tokens[keep])
    return tokens, scores


def _coverage(live: ActiveHypotheses[M], attended: Tensor) -> Tensor:
    memory: Any = live.memory
    return coverage(attended, memory.mask[live.rows.source_index])


def _repeated(sequences: Tensor, sums: Tensor) -> Tensor:
    """Returns which of the sequences `(m, j, length)` stand further left too, where groups came to the same one."""
    same = (sequences[:, :, None] == sequences[:, None]).all(3) & (sums > NEVER)[:, None]
    return same.tril(-1).any(2)
