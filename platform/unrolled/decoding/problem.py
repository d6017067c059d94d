"""What every strategy is given, the hypotheses it grows, and the step they share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, cast

import torch
from torch import Tensor

from unrolled.decoding.interface import M, OutputScorer, Searchable
from unrolled.decoding.rules import Rules
from unrolled.errors import RunFailed
from unrolled.models.rows import Rows
from unrolled.models.scorer import best, log_sums
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
    """What a step gave.

    Attributes:
        values: the largest logits of each row by the rules, falling, `(rows, count)`.
        tokens: of these, `(rows, count)`.
        sums: to subtract from logits for log-probabilities, `(rows, 1)`.
        state: after the step.
        weights: of attention `(rows, positions)`, if they were asked for.
        logits: all by the rules, `(rows, vocabulary)`, if they were asked for.
    """

    values: Tensor
    tokens: Tensor
    sums: Tensor
    state: Nest
    weights: Tensor | None
    logits: Tensor | None


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
        scorer: of a model that is `Scoring`; `None` takes the logits of any other as they come.
    """

    model: Searchable[M]
    memory: M
    state: Nest
    begin: int
    end: int
    ids: list[int]
    limits: Tensor
    rules: Rules
    scorer: OutputScorer | None = None

    def first(self) -> Live[M]:
        """Returns one empty hypothesis a sentence."""
        n, device = len(self.limits), self.limits.device
        sentences = torch.arange(n, device=device)
        last = torch.full_like(sentences, self.begin)
        return Live(self.memory, sentences, Rows.even(n, 1, device), self.state, last, last.new_empty(n, 0))

    def step(self, live: Live[M], count: int, *, look: bool = False, whole: bool = False) -> Scored:
        """Feeds every hypothesis its last token.

        Args:
            count: of the best tokens.
            look: the model says where it looked.
            whole: give all logits.

        Raises:
            RunFailed: a logit is NaN or +inf.
        """
        model = cast(Any, self.model)
        given = live.last, live.state, live.memory, live.rows
        if self.scorer is None:
            logits, state, *weights = model.look(*given) if look else model.step(*given)
            return self._by_rules(live, logits, log_sums(logits), count, state, weights[0] if look else None)
        scorer = self.scorer
        outputs, state, weights = model.outputs(*given)
        never = None if whole else self.rules.never(live.written.shape[1], scorer.vocabulary)
        if never is None:
            sums, logits = scorer.logits(outputs)
            return self._by_rules(live, logits, sums, count, state, weights)
        sums, values, tokens = scorer.best(outputs, min(count, scorer.vocabulary), never)
        self._refuse(live, sums, lambda row: scorer.logits(outputs[row, None])[1])
        return Scored(values, tokens, _finite(sums), state, weights, None)

    def _by_rules(
        self, live: Live[M], logits: Tensor, sums: Tensor, count: int, state: Nest, weights: Tensor | None
    ) -> Scored:
        self._refuse(live, sums, lambda row: logits[row])
        self.rules.apply(logits, live.written, live.sentences[live.rows.owners])
        return Scored(*best(logits, min(count, logits.shape[1])), _finite(sums), state, weights, logits)

    def _refuse(self, live: Live[M], sums: Tensor, logits_of: Callable[[int], Tensor]) -> None:
        wrong = sums.isnan() | (sums == float("inf"))
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            what = "NaN" if bool(logits_of(row).isnan().any()) else "+inf"
            sentence = live.sentences[live.rows.owners[row]]
            raise RunFailed(f"the model gave {what} as a logit {self._place(sentence, live.written.shape[1] + 1)}")

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


def _finite(sums: Tensor) -> Tensor:
    """Where all is impossible, -inf - 0 says so; -inf - -inf would not."""
    return sums.masked_fill_(sums == -float("inf"), 0)[:, None]
