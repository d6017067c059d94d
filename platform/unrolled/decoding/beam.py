"""Beam search, plain, diverse, and with required phrases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from unrolled.decoding.protocols import M
from unrolled.decoding.step import NEG_INF, SearchSpec, StepScores
from unrolled.decoding.strategies import Beam
from unrolled.errors import UserError
from unrolled.models import Rows


def beam_search(spec: SearchSpec[M], strategy: Beam, required: RequiredPhrases | None) -> tuple[Tensor, Tensor]:
    """Returns the best hypotheses of every sentence, the best first.

    A hypothesis is dropped, and a sentence without any leaves the batch, once it cannot reach a higher score than the
    worst of the sentence's `best` finished ones; `HypothesisScorer.upper_bound` proves that this changes no result.
    Unfinished hypotheses compete as they are at the length limit. With groups or required phrases no hypothesis is
    dropped before its sentence: it still affects later groups, or holds a place not determined by its score alone.

    Returns:
        Tokens `(n, best, length)`, padded with the end token, and scores `(n, best)`; -inf if there are fewer
        hypotheses.
    """
    scorer = HypothesisScorer(strategy.length_penalty, strategy.coverage_penalty)
    active, limits = spec.initial(), spec.limits
    n, longest = len(limits), int(limits.max())
    tokens = torch.full((n, strategy.best, longest), spec.end, device=limits.device)
    scores = torch.full((n, strategy.best), NEG_INF, dtype=torch.float64, device=limits.device)
    finished = FinishedHypotheses(scores, tokens)
    log_probs = scores.new_zeros(n)
    attended: Tensor | None = None
    for length in range(1, longest + 1):
        # `size + 1` tokens per row suffice: one may be the end token, and a group avoids only what others chose.
        attention, all_logits = strategy.coverage_penalty > 0, required is not None
        step = spec.step(active, strategy.size + 1, attention=attention, all_logits=all_logits)
        if attention and step.weights is not None:
            attended = step.weights if attended is None else attended + step.weights
        if required is None:
            ending, growing = expand(active.rows, log_probs, step, strategy, spec.end)
        else:
            ending, growing = required.expand(active.rows, log_probs, step, strategy.size, spec.end)
        at_limit = limits[active.sentences] == length
        ending = ending.keep((ending.tokens == spec.end) | at_limit[:, None])
        if bool((ending.log_probs > NEG_INF).any()):
            sequences = torch.cat([active.tokens[ending.parents], ending.tokens[:, :, None]], dim=2)
            if strategy.groups > 1:
                ending = ending.keep(~_repeated(sequences, ending.log_probs))
            coverage = None
            if attended is not None:
                memory: Any = active.memory
                coverage = coverage_score(attended, memory.mask[active.rows.source_index])[ending.parents]
            finished = finished.add(scorer.score(ending.log_probs, length, coverage), sequences, spec.end)
        reachable = growing.log_probs.amax(1).masked_fill(at_limit, NEG_INF)
        spec.check_reachable(active.sentences, length, torch.maximum(reachable, finished.scores[:, 0]))

        bound = scorer.upper_bound(growing.log_probs, limits[active.sentences])
        keep = (bound > finished.scores[:, -1:]) & ~at_limit[:, None]
        if strategy.groups > 1 or required is not None:
            keep = keep.any(1, keepdim=True).expand_as(keep)
        going_on = keep.any(1)
        if not bool(going_on.all()):
            done = active.sentences[~going_on]
            tokens[done], scores[done] = finished.tokens[~going_on], finished.scores[~going_on]
            finished = finished.select(going_on)
            if not bool(going_on.any()):
                break
        parents, log_probs = growing.parents[keep], growing.log_probs[keep]
        attended = None if attended is None else attended[parents]
        required = None if required is None else required.select(parents).advance(growing.tokens[keep])
        active = active.advance(step.state, parents, keep.nonzero()[:, 0], growing.tokens[keep])
    return tokens, scores


def _repeated(sequences: Tensor, log_probs: Tensor) -> Tensor:
    """Returns which of the sequences `(m, j, length)` also occur at a lower index, where groups found the same one."""
    same = (sequences[:, :, None] == sequences[:, None]).all(3) & (log_probs > NEG_INF)[:, None]
    return same.tril(-1).any(2)


@dataclass(frozen=True)
class HypothesisScorer:
    """The score of a hypothesis Y for an input X, log p(Y | X) / lp(|Y|) + β cp(X; Y) (Wu et al. 2016, eq. 14).

    Attributes:
        length_penalty: α of lp(l) = ((5 + l) / 6)^α; "average" stands for lp(l) = l.
        coverage_penalty: β.
    """

    length_penalty: float | Literal["average"]
    coverage_penalty: float

    def length_normalizer(self, length: Tensor | int) -> Tensor:
        """Returns lp(length), float64."""
        length = torch.as_tensor(length, dtype=torch.float64)
        return length if self.length_penalty == "average" else ((5 + length) / 6) ** self.length_penalty

    def score(self, log_probs: Tensor, length: int, coverage: Tensor | None) -> Tensor:
        """Returns the scores of hypotheses of one length.

        Args:
            log_probs: log p(Y | X) of each.
            length: number of tokens, the end token included.
            coverage: cp of each, or `None` if β is 0.
        """
        scores = log_probs / self.length_normalizer(length).to(log_probs.device)
        return scores if coverage is None else scores + self.coverage_penalty * coverage

    def upper_bound(self, log_probs: Tensor, limits: Tensor) -> Tensor:
        """Returns a score that no continuation of a hypothesis can exceed.

        A continuation of length l has a log-probability s' ≤ s ≤ 0. lp is positive and increases with l, so
        s' / lp(l) ≤ s / lp(l) ≤ s / lp(L) for every l up to the limit L. And cp ≤ 0, as the logarithm of at most 1.
        Hence s / lp(L) bounds the score at every allowed length.

        Among the hypotheses of a sentence the bound increases with s. So those that cannot win are the worst of the
        beam, and the hypotheses that take their places at a later step had an even lower s and cannot win either.
        Dropping them therefore changes no result.

        Args:
            log_probs: s, `(sentences, …)`.
            limits: L, `(sentences,)`.
        """
        return log_probs / self.length_normalizer(limits).view(-1, *[1] * (log_probs.dim() - 1))


def coverage_score(attended: Tensor, mask: Tensor) -> Tensor:
    """Returns cp, Σ_i log min(Σ_j p_ij, 1) (Wu et al. 2016, eq. 14), `(rows,)`.

    Args:
        attended: Σ_j p_ij `(rows, positions)`.
        mask: False on padding, `(rows, positions)`.
    """
    # The smallest float32 replaces what rounding has made 0, so that attention alone makes no hypothesis impossible.
    return attended.double().clamp(torch.finfo(torch.float32).tiny, 1).log().masked_fill(~mask, 0).sum(1)


class Continuations(NamedTuple):
    """Hypotheses extended by one token, j for each of m sentences.

    Attributes:
        log_probs: `(m, j)`, float64; -inf marks an impossible one that only fills its place.
        tokens: the last token of each, `(m, j)`.
        parents: the row that each continues, `(m, j)`.
    """

    log_probs: Tensor
    tokens: Tensor
    parents: Tensor

    def keep(self, mask: Tensor) -> Continuations:
        """Makes those impossible where `mask` `(m, j)` is False."""
        return Continuations(self.log_probs.masked_fill(~mask, NEG_INF), self.tokens, self.parents)

    def gather(self, indices: Tensor) -> Continuations:
        """Returns those at `indices` `(m, i)` of each sentence."""
        return Continuations(*(each.gather(1, indices) for each in self))


def expand(
    rows: Rows, log_probs: Tensor, step: StepScores, strategy: Beam, end: int
) -> tuple[Continuations, Continuations]:
    """Returns the best continuations of every sentence: those that may end, and those that grow on.

    A continuation may end only if it ranks within the beam size. So a beam of one without length penalty is greedy
    search.

    Args:
        log_probs: of the rows, `(rows,)`.
    """
    groups, group_size = strategy.groups, strategy.size // strategy.groups
    tokens = step.tokens
    extended = log_probs[:, None] + (step.values - step.normalizers).clamp(max=0).double()
    parents = torch.arange(len(rows), device=log_probs.device)[:, None].expand_as(tokens)
    table = Continuations(rows.pad(extended, NEG_INF), rows.pad(tokens), rows.pad(parents))
    ending: list[Continuations] = []
    growing: list[Continuations] = []
    for group in range(groups):
        # At the first step all groups grow from the one empty hypothesis.
        members = (
            slice(group * group_size, (group + 1) * group_size) if groups > 1 and rows.max_rows > 1 else slice(None)
        )
        own = Continuations(*(each[:, members].flatten(1) for each in table))
        order = own.log_probs
        if growing:  # Hamming diversity: how many times earlier groups have chosen each of the tokens
            chosen = torch.cat([each.tokens.masked_fill(each.log_probs == NEG_INF, -1) for each in growing], dim=1)
            order = order - strategy.diversity * (own.tokens[:, :, None] == chosen[:, None]).sum(2)
        # Each hypothesis has one continuation by the end token, so twice the size leaves enough unfinished ones.
        ranked = order.topk(min(2 * group_size, order.shape[1]))
        best = own.gather(ranked.indices)
        unfinished = ranked.values.masked_fill(best.tokens == end, NEG_INF)
        ending.append(Continuations(*(each[:, :group_size] for each in best)))
        indices = unfinished.topk(min(group_size, unfinished.shape[1])).indices
        growing.append(_fill(best.keep(best.tokens != end).gather(indices), group_size if groups > 1 else 0))
    return _concatenate(ending), _concatenate(growing)


def _fill(continuations: Continuations, count: int) -> Continuations:
    """Appends impossible continuations up to `count`, so that every group keeps its places."""
    missing = count - continuations.log_probs.shape[1]
    if missing <= 0:
        return continuations
    log_probs, tokens, parents = continuations
    return Continuations(
        pad(log_probs, (0, missing), value=NEG_INF), pad(tokens, (0, missing)), pad(parents, (0, missing))
    )


def _concatenate(groups: Sequence[Continuations]) -> Continuations:
    return groups[0] if len(groups) == 1 else Continuations(*(torch.cat(each, 1) for each in zip(*groups, strict=True)))


@dataclass(frozen=True)
class FinishedHypotheses:
    """The best finished hypotheses of m sentences, the best first.

    Attributes:
        scores: `(m, best)`; -inf if there are fewer.
        tokens: `(m, best, longest)`, padded with the end token.
    """

    scores: Tensor
    tokens: Tensor

    def select(self, sentences: Tensor) -> FinishedHypotheses:
        """Returns those of the sentences `(k,)`."""
        return FinishedHypotheses(self.scores[sentences], self.tokens[sentences])

    def add(self, scores: Tensor, tokens: Tensor, end: int) -> FinishedHypotheses:
        """Returns the best of these and of others with scores `(m, j)` and tokens `(m, j, length)`."""
        scores = torch.cat([self.scores, scores], dim=1)
        tokens = torch.cat([self.tokens, pad(tokens, (0, self.tokens.shape[2] - tokens.shape[2]), value=end)], dim=1)
        best, indices = scores.topk(self.scores.shape[1])
        return FinishedHypotheses(best, tokens.gather(1, indices[:, :, None].expand(-1, -1, tokens.shape[2])))


BANK_BONUS = 1e9
"""Ranks continuations with a place of their own above all others; no log-probability comes near it."""


@dataclass(frozen=True)
class RequiredPhrases:
    """Progress of hypotheses with the phrases that their sentences require, up to q per sentence.

    Beam search divides its places among banks, hypotheses with equally many required tokens (Hokamp & Liu 2017;
    Post & Vilar 2018, section 3).

    Attributes:
        phrases: `(rows, q, longest)`, padded with -1.
        lengths: tokens of each, `(rows, q)`; 0 if a sentence requires fewer phrases.
        progress: number of tokens of each that were just written, `(rows, q)`. A phrase that begins anew within itself
            may be overlooked, and is then written again.
        met: which phrases have been written completely, `(rows, q)`.
    """

    phrases: Tensor
    lengths: Tensor
    progress: Tensor
    met: Tensor

    @staticmethod
    def initial(
        required: Sequence[Sequence[Sequence[int]]], limits: Sequence[int], device: torch.device
    ) -> RequiredPhrases:
        """Returns the progress of one empty hypothesis per sentence.

        Raises:
            UserError: there is not one list per sentence, a phrase is empty, or phrases exceed the length limit.
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
        return RequiredPhrases(table, lengths, torch.zeros_like(lengths), lengths == 0)

    def select(self, rows: Tensor) -> RequiredPhrases:
        """Returns the progress of the hypotheses `rows`, of any shape."""
        return RequiredPhrases(self.phrases[rows], self.lengths[rows], self.progress[rows], self.met[rows])

    def advance(self, tokens: Tensor) -> RequiredPhrases:
        """Returns the progress after one more token per hypothesis, `(rows, …)`."""
        begun = self.phrases[..., 0] == tokens[..., None]
        continued = self._next() == tokens[..., None]
        progress = torch.where(continued, self.progress + 1, begun.long())
        met = self.met | (progress >= self.lengths)
        return RequiredPhrases(self.phrases, self.lengths, progress.masked_fill(met, 0), met)

    def _next(self) -> Tensor:
        following = self.phrases.gather(-1, self.progress[..., None])[..., 0]
        return following.masked_fill(self.met, -1)

    def banks(self) -> Tensor:
        """Returns the number of required tokens that each hypothesis has, `(rows, …)`."""
        return (self.lengths * self.met).sum(-1) + self.progress.amax(-1)

    def expand(
        self, rows: Rows, log_probs: Tensor, step: StepScores, size: int, end: int
    ) -> tuple[Continuations, Continuations]:
        """As the function `expand`, but every bank of a sentence has places of its own, and the remaining places go to
        the best of all; required tokens are always among the continuations; and no hypothesis ends without all of
        them."""
        assert step.logits is not None
        offered = self._next()
        known = (offered[:, :, None] == torch.cat([step.tokens, offered], 1)[:, None]).long()
        redundant = known.tril(step.tokens.shape[1] - 1).any(2) | (offered < 0)
        offered = offered.clamp(min=0)
        tokens = torch.cat([step.tokens, offered], 1)
        values = torch.cat([step.values, step.logits.gather(1, offered).masked_fill(redundant, NEG_INF)], 1)
        parents = torch.arange(len(rows), device=log_probs.device)[:, None].expand_as(tokens)
        after = self.select(parents).advance(tokens)
        complete, banks = after.met.all(2), after.banks()
        extended = log_probs[:, None] + (values - step.normalizers).clamp(max=0).double()
        extended = extended.masked_fill((tokens == end) & ~complete, NEG_INF)

        padded = (rows.pad(extended, NEG_INF), rows.pad(tokens), rows.pad(parents))
        table = Continuations(*(each.flatten(1) for each in padded))
        order = table.log_probs.argsort(dim=1, descending=True)
        ranked = table.gather(order)
        complete, banks = (rows.pad(each).flatten(1).gather(1, order) for each in (complete, banks))
        total = rows.pad(self.lengths.sum(1))[:, 0]
        in_bank = banks[:, :, None] == torch.arange(int(total.max()) + 1, device=log_probs.device)
        rank_in_bank = in_bank.cumsum(1).gather(2, banks[:, :, None])[:, :, 0] - 1
        own_place = rank_in_bank < (size // (total + 1)).clamp(min=1)[:, None]
        key = ranked.log_probs + torch.where(own_place, BANK_BONUS * (1 + banks), 0).double()
        indices = key.masked_fill(ranked.tokens == end, NEG_INF).topk(min(size, key.shape[1])).indices
        return ranked.keep(complete & own_place), ranked.keep(ranked.tokens != end).gather(indices)
