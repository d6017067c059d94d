"""What every strategy is given, the hypotheses it grows, and the step they share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, NamedTuple

import torch
from torch import Tensor

from unrolled.decoding.interface import M, Searchable
from unrolled.decoding.logits import log_sums
from unrolled.decoding.rules import Rules
from unrolled.errors import RunFailed
from unrolled.models.rows import Rows
from unrolled.recurrence import state as nest
from unrolled.recurrence.state import Nest


@dataclass(frozen=True)
class Live(Generic[M]):
    """Hypotheses that are still grown: the rows of the next step.

    Attributes:
        memory: of the m sentences that have any.
        sentences: their places in the batch, `(m,)`.
        rows: which of the m sentences each hypothesis belongs to.
        state: tensors `(rows, …)`.
        last: the tokens to feed, `(rows,)`.
        written: the tokens so far, `(rows, length)`.
    """

    memory: M
    sentences: Tensor
    rows: Rows
    state: Nest
    last: Tensor
    written: Tensor

    def follow(self, state: Nest, parents: Tensor, owners: Tensor, tokens: Tensor) -> Live[M]:
        """Returns the hypotheses of the next step; sentences without any leave the batch.

        Args:
            state: after the step, tensors `(rows, …)`.
            parents: the row of this step that each hypothesis continues, `(new rows,)`.
            owners: which of the m sentences each belongs to, rising.
            tokens: what each adds.
        """
        counts = torch.bincount(owners, minlength=len(self.sentences))
        memory, sentences = self.memory, self.sentences
        if not bool(counts.all()):
            going = counts.nonzero()[:, 0]
            memory, sentences = memory.select(going), sentences[going]
            owners, counts = torch.repeat_interleave(counts[going]), counts[going]
        written = torch.cat([self.written[parents], tokens[:, None]], dim=1)
        in_place = len(parents) == len(self.rows) and torch.equal(parents, torch.arange(len(parents)).to(parents))
        state = state if in_place else nest.select(state, parents)
        return Live(memory, sentences, Rows.of(owners, counts), state, tokens, written)


class Scored(NamedTuple):
    """What a step gave: `logits` `(rows, vocabulary)` by the rules; `sums` `(rows, 1)`, to subtract from them for
    log-probabilities; the `state` after it; and attention's `weights` `(rows, positions)` if they were asked for."""

    logits: Tensor
    sums: Tensor
    state: Nest
    weights: Tensor | None


@dataclass(frozen=True)
class Problem(Generic[M]):
    """A model, n sentences to decode with it, and what may be written.

    Attributes:
        memory: of n sentences.
        state: what the model starts from, tensors `(n, …)`.
        begin: the token fed first.
        end: the token that ends a hypothesis.
        ids: numbers by which errors name the sentences.
        limits: tokens at most for each sentence `(n,)`, the end token included.
        rules: what may be written.
    """

    model: Searchable[M]
    memory: M
    state: Nest
    begin: int
    end: int
    ids: list[int]
    limits: Tensor
    rules: Rules

    def first(self) -> Live[M]:
        """Returns one empty hypothesis a sentence."""
        n, device = len(self.limits), self.limits.device
        sentences = torch.arange(n, device=device)
        last = torch.full_like(sentences, self.begin)
        return Live(self.memory, sentences, Rows.even(n, 1, device), self.state, last, last.new_empty(n, 0))

    def step(self, live: Live[M], *, look: bool = False) -> Scored:
        """Feeds every hypothesis its last token; with `look`, the model says where it looked.

        Raises:
            RunFailed: a logit is NaN or +inf.
        """
        model: Any = self.model
        weights = None
        if look:
            logits, state, weights = model.look(live.last, live.state, live.memory, live.rows)
        else:
            logits, state = model.step(live.last, live.state, live.memory, live.rows)
        sums = log_sums(logits)
        wrong = sums.isnan() | (sums == float("inf"))
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            what = "NaN" if bool(logits[row].isnan().any()) else "+inf"
            sentence = live.sentences[live.rows.owners[row]]
            raise RunFailed(f"the model gave {what} as a logit {self._place(sentence, live.written.shape[1] + 1)}")
        self.rules.apply(logits, live.written, live.sentences[live.rows.owners])
        # Where all is impossible, -inf - 0 says so; -inf - -inf would not.
        return Scored(logits, sums.masked_fill_(sums == -float("inf"), 0)[:, None], state, weights)

    def check(self, sentences: Tensor, step: int, best: Tensor) -> None:
        """Refuses dead ends.

        Args:
            sentences: their places in the batch, `(k,)`.
            step: from 1.
            best: the best score that each can come to, `(k,)`.

        Raises:
            RunFailed: one is -inf: no allowed token is possible.
        """
        stuck = best == -float("inf")
        if bool(stuck.any()):
            place = self._place(sentences[stuck][0], step)
            raise RunFailed(f"the model gave every allowed token probability zero {place}")

    def _place(self, sentence: Tensor, step: int) -> str:
        return f"at step {step} of sentence {self.ids[int(sentence)]}"
