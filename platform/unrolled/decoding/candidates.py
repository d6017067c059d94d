"""The continuations by one token among which a beam chooses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from unrolled.decoding.problem import Scored
from unrolled.decoding.strategies import Beam
from unrolled.models.rows import Rows

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
    table = Candidates(rows.spread(reached, NEVER), rows.spread(tokens), rows.spread(every))
    ending: list[Candidates] = []
    growing: list[Candidates] = []
    for group in range(groups):
        # All groups grow from the one empty hypothesis.
        own = slice(group * share, (group + 1) * share) if groups > 1 and rows.width > 1 else slice(None)
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
