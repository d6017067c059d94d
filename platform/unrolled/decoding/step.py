"""One step of any search: hypotheses, rules and scores.

What may be written next: rules that take tokens away before a search chooses among the rest.

What every strategy is given, the hypotheses it grows, and the step they share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, cast

import torch
from torch import Tensor

from unrolled.decoding.protocols import M, OutputScorer, Searchable
from unrolled.errors import RunFailed, UserError
from unrolled.models.encoders import Rows
from unrolled.models.heads import logsumexp, topk
from unrolled.recurrence import state as nest
from unrolled.recurrence.state import Nest

NEVER = -float("inf")


@dataclass(frozen=True)
class Rules:
    """Rules for the n sentences of a search.

    Attributes:
        end: the token that ends a sentence.
        forbidden: tokens never written, `(f,)`.
        phrases: sequences of two or more tokens never written.
        min_length: tokens at least, the end token included.
        no_repeat: no sequence of so many tokens occurs twice in a sentence (Paulus et al. 2018); 0: all may.
        prefixes: what sentences begin with, whatever else forbids it, `(n, longest)`; -1 where one is over.
    """

    end: int
    forbidden: Tensor
    phrases: Sequence[Tensor]
    min_length: int
    no_repeat: int
    prefixes: Tensor

    def never(self, length: int, vocabulary: int) -> Tensor | None:
        """Returns which tokens no sentence may write after `length` others, `(vocabulary,)`; `None` where sentences
        differ, so that it takes `apply`."""
        if self.phrases or 0 < self.no_repeat <= length or length < self.prefixes.shape[1]:
            return None
        never = torch.zeros(vocabulary, dtype=torch.bool, device=self.forbidden.device)
        never[self.forbidden] = True
        if length + 1 < self.min_length and self.end >= 0:
            never[self.end] = True
        return never

    def apply(self, logits: Tensor, written: Tensor, sentences: Tensor) -> None:
        """Sets the logits of what may not come next to -inf.

        Args:
            logits: `(rows, vocabulary)`.
            written: the tokens so far, `(rows, length)`.
            sentences: of each row, `(rows,)`.
        """
        length = written.shape[1]
        forced = self.prefixes[sentences, length] if length < self.prefixes.shape[1] else None
        kept = None if forced is None else logits.gather(1, forced.clamp(min=0)[:, None])
        if len(self.forbidden):
            logits.index_fill_(1, self.forbidden, NEVER)
        if length + 1 < self.min_length and self.end >= 0:
            logits[:, self.end] = NEVER
        for phrase in self.phrases:
            before = len(phrase) - 1
            if before <= length:
                logits[(written[:, length - before :] == phrase[:-1]).all(1), phrase[-1]] = NEVER
        if 0 < self.no_repeat <= length:
            _forbid_repeats(logits, written, self.no_repeat)
        if forced is not None and kept is not None:
            rows = (forced >= 0).nonzero()[:, 0]
            logits[rows] = NEVER
            logits[rows, forced[rows]] = kept[rows, 0]


def _forbid_repeats(logits: Tensor, written: Tensor, n: int) -> None:
    windows = written.unfold(1, n, 1)
    last = written[:, written.shape[1] - (n - 1) :]
    rows, places = (windows[:, :, :-1] == last[:, None]).all(2).nonzero(as_tuple=True)
    logits[rows, windows[rows, places, -1]] = NEVER


def phrases(banned: Sequence[Sequence[int]], device: torch.device) -> tuple[list[int], list[Tensor]]:
    """Splits banned sequences of tokens into single tokens and longer phrases; raises `UserError` for an empty one."""
    if any(len(phrase) == 0 for phrase in banned):
        raise UserError("banned has an empty sequence of tokens; accepted is one token or more.")
    single = [phrase[0] for phrase in banned if len(phrase) == 1]
    return single, [torch.tensor(list(phrase), device=device) for phrase in banned if len(phrase) > 1]


def prefix_table(prefixes: Sequence[Sequence[int]] | None, limits: Sequence[int], device: torch.device) -> Tensor:
    """Returns `Rules.prefixes`; raises `UserError` where a prefix does not fit its sentence."""
    if prefixes is None:
        return torch.empty(len(limits), 0, dtype=torch.long, device=device)
    if len(prefixes) != len(limits):
        raise UserError(f"there are {len(prefixes)} prefixes for {len(limits)} sentences; accepted is one for each.")
    for prefix, limit in zip(prefixes, limits, strict=True):
        if len(prefix) > limit:
            raise UserError(f"a prefix has {len(prefix)} tokens, but max_length leaves {limit} for its sentence.")
    longest = max(map(len, prefixes), default=0)
    rows = [[*prefix, *[-1] * (longest - len(prefix))] for prefix in prefixes]
    return torch.tensor(rows, dtype=torch.long, device=device).view(len(limits), longest)


@dataclass(frozen=True)
class ActiveHypotheses(Generic[M]):
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

    def follow(self, state: Nest, parents: Tensor, owners: Tensor, tokens: Tensor) -> ActiveHypotheses[M]:
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
        return ActiveHypotheses(memory, sentences, Rows.from_counts(owners, counts), state, tokens, written)


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
class SearchSpec(Generic[M]):
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

    def first(self) -> ActiveHypotheses[M]:
        """Returns one empty hypothesis a sentence."""
        n, device = len(self.limits), self.limits.device
        sentences = torch.arange(n, device=device)
        last = torch.full_like(sentences, self.begin)
        return ActiveHypotheses(
            self.memory, sentences, Rows.uniform(n, 1, device), self.state, last, last.new_empty(n, 0)
        )

    def step(self, live: ActiveHypotheses[M], count: int, *, look: bool = False, whole: bool = False) -> Scored:
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
            logits, state, *weights = model.step_with_attention(*given) if look else model.step(*given)
            return self._by_rules(live, logits, logsumexp(logits), count, state, weights[0] if look else None)
        scorer = self.scorer
        outputs, state, weights = model.step_outputs(*given)
        never = None if whole else self.rules.never(live.written.shape[1], scorer.vocabulary)
        if never is None:
            sums, logits = scorer.logits(outputs)
            return self._by_rules(live, logits, sums, count, state, weights)
        sums, values, tokens = scorer.topk(outputs, min(count, scorer.vocabulary), never)
        self._refuse(live, sums, lambda row: scorer.logits(outputs[row, None])[1])
        return Scored(values, tokens, _finite(sums), state, weights, None)

    def _by_rules(
        self, live: ActiveHypotheses[M], logits: Tensor, sums: Tensor, count: int, state: Nest, weights: Tensor | None
    ) -> Scored:
        self._refuse(live, sums, lambda row: logits[row])
        self.rules.apply(logits, live.written, live.sentences[live.rows.source_index])
        return Scored(*topk(logits, min(count, logits.shape[1])), _finite(sums), state, weights, logits)

    def _refuse(self, live: ActiveHypotheses[M], sums: Tensor, logits_of: Callable[[int], Tensor]) -> None:
        wrong = sums.isnan() | (sums == float("inf"))
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            what = "NaN" if bool(logits_of(row).isnan().any()) else "+inf"
            sentence = live.sentences[live.rows.source_index[row]]
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
