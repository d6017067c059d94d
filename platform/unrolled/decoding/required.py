"""Words that an output must have: beam search that shares its places among hypotheses that are further and less far
with them (Hokamp & Liu 2017; Post & Vilar 2018, section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unrolled.decoding.candidates import Candidates
from unrolled.decoding.problem import Scored
from unrolled.errors import UserError
from unrolled.models.rows import Rows

NEVER = -float("inf")
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

        spread = (rows.spread(reached, NEVER), rows.spread(tokens), rows.spread(every))
        table = Candidates(*(each.flatten(1) for each in spread))
        order = table.sums.argsort(dim=1, descending=True)
        ranked = table.choose(order)
        whole, banks = (rows.spread(each).flatten(1).gather(1, order) for each in (whole, banks))
        total = rows.spread(self.lengths.sum(1))[:, 0]
        alike = banks[:, :, None] == torch.arange(int(total.max()) + 1, device=sums.device)
        rank = alike.cumsum(1).gather(2, banks[:, :, None])[:, :, 0] - 1
        own_place = rank < (size // (total + 1)).clamp(min=1)[:, None]
        key = ranked.sums + torch.where(own_place, FIRST * (1 + banks), 0).double()
        places = key.masked_fill(ranked.tokens == end, NEVER).topk(min(size, key.shape[1])).indices
        return ranked.only(whole & own_place), ranked.only(ranked.tokens != end).choose(places)
