"""One step of any search: active hypotheses, constraints on their tokens, and scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, cast

import torch
from torch import Tensor

from unrolled.decoding.protocols import M, OutputScorer, Searchable
from unrolled.errors import RunFailed, UserError
from unrolled.models import Rows, topk
from unrolled.recurrence import Nest
from unrolled.recurrence import state as nest

NEG_INF = -float("inf")


@dataclass(frozen=True)
class SearchSpec(Generic[M]):
    """A model, n sentences to decode with it, and constraints.

    Attributes:
        memory: of n sentences.
        state: the model's initial state, tensors `(n, …)`.
        begin: the token fed first.
        end: the token that ends a hypothesis.
        sentence_ids: name the sentences in errors.
        limits: maximum number of tokens of each sentence `(n,)`, the end token included.
        constraints: on the tokens.
        scorer: of a model that `SupportsScorer`; `None` takes the logits of the model's `step`.
    """

    model: Searchable[M]
    memory: M
    state: Nest
    begin: int
    end: int
    sentence_ids: list[int]
    limits: Tensor
    constraints: TokenConstraints
    scorer: OutputScorer | None = None

    def initial(self) -> ActiveHypotheses[M]:
        """Returns one empty hypothesis per sentence."""
        n, device = len(self.limits), self.limits.device
        sentences = torch.arange(n, device=device)
        last = torch.full_like(sentences, self.begin)
        rows = Rows.uniform(n, 1, device)
        return ActiveHypotheses(self.memory, sentences, rows, self.state, last, last.new_empty(n, 0))

    def step(
        self, active: ActiveHypotheses[M], count: int, *, attention: bool = False, all_logits: bool = False
    ) -> StepScores:
        """Feeds every hypothesis its last token.

        Args:
            count: number of best tokens to return.
            attention: whether to return attention weights.
            all_logits: whether to return the logits of the whole vocabulary.

        Raises:
            RunFailed: a logit is NaN or +inf.
        """
        model = cast(Any, self.model)
        inputs = active.last, active.state, active.memory, active.rows
        if self.scorer is None:
            logits, state, *rest = model.step_with_attention(*inputs) if attention else model.step(*inputs)
            return self._constrained(active, logits, logits.logsumexp(1), count, state, rest[0] if attention else None)
        scorer = self.scorer
        outputs, state, weights = model.step_outputs(*inputs)
        excluded = None if all_logits else self.constraints.excluded(active.tokens.shape[1], scorer.vocabulary)
        if excluded is None:
            normalizers, logits = scorer.logits(outputs)
            return self._constrained(active, logits, normalizers, count, state, weights)
        normalizers, values, tokens = scorer.topk(outputs, min(count, scorer.vocabulary), excluded)
        self._check_finite(active, normalizers, lambda row: scorer.logits(outputs[row, None])[1])
        return StepScores(values, tokens, _finite(normalizers), state, weights, None)

    def _constrained(
        self,
        active: ActiveHypotheses[M],
        logits: Tensor,
        normalizers: Tensor,
        count: int,
        state: Nest,
        weights: Tensor | None,
    ) -> StepScores:
        self._check_finite(active, normalizers, lambda row: logits[row])
        self.constraints.apply(logits, active.tokens, active.sentences[active.rows.source_index])
        best = topk(logits, min(count, logits.shape[1]))
        return StepScores(*best, _finite(normalizers), state, weights, logits)

    def _check_finite(
        self, active: ActiveHypotheses[M], normalizers: Tensor, logits_of: Callable[[int], Tensor]
    ) -> None:
        invalid = normalizers.isnan() | (normalizers == float("inf"))
        if bool(invalid.any()):
            row = int(invalid.nonzero()[0])
            value = "NaN" if bool(logits_of(row).isnan().any()) else "+inf"
            sentence = active.sentences[active.rows.source_index[row]]
            place = self._place(sentence, active.tokens.shape[1] + 1)
            raise RunFailed(f"the model gave {value} as a logit {place}")

    def check_reachable(self, sentences: Tensor, step: int, best: Tensor) -> None:
        """Raises `RunFailed` if a sentence has no hypothesis with a probability above zero.

        Args:
            sentences: indices in the batch, `(k,)`.
            step: from 1.
            best: the best score that each sentence can reach, `(k,)`; -inf: no allowed token is possible.
        """
        stuck = best == NEG_INF
        if bool(stuck.any()):
            place = self._place(sentences[stuck][0], step)
            raise RunFailed(f"the model gave every allowed token probability zero {place}")

    def _place(self, sentence: Tensor, step: int) -> str:
        return f"at step {step} of sentence {self.sentence_ids[int(sentence)]}"


def _finite(normalizers: Tensor) -> Tensor:
    """Replaces -inf, where all tokens are impossible, by 0: -inf - 0 is a log-probability, -inf - -inf is not."""
    return normalizers.masked_fill_(normalizers == NEG_INF, 0)[:, None]


class StepScores(NamedTuple):
    """The result of one step.

    Attributes:
        values: the largest constrained logits of each row, descending, `(rows, count)`.
        tokens: their tokens, `(rows, count)`.
        normalizers: log Σ exp of the logits, `(rows, 1)`: logits minus normalizers are log-probabilities.
        state: after the step.
        weights: attention weights `(rows, positions)`, if requested.
        logits: all constrained logits `(rows, vocabulary)`, if requested.
    """

    values: Tensor
    tokens: Tensor
    normalizers: Tensor
    state: Nest
    weights: Tensor | None
    logits: Tensor | None


@dataclass(frozen=True)
class ActiveHypotheses(Generic[M]):
    """Unfinished hypotheses: the rows of the next step.

    Attributes:
        memory: of the m sentences that have active hypotheses.
        sentences: indices of these sentences in the batch, `(m,)`.
        rows: assignment of the hypotheses to the m sentences.
        state: tensors `(rows, …)`.
        last: the tokens to feed, `(rows,)`.
        tokens: all tokens so far, `(rows, length)`.
    """

    memory: M
    sentences: Tensor
    rows: Rows
    state: Nest
    last: Tensor
    tokens: Tensor

    def advance(self, state: Nest, parents: Tensor, source_index: Tensor, next_tokens: Tensor) -> ActiveHypotheses[M]:
        """Returns the hypotheses of the next step; sentences without any leave the batch.

        Args:
            state: after the step, tensors `(rows, …)`.
            parents: the row of this step that each hypothesis continues, `(new rows,)`.
            source_index: which of the m sentences each belongs to, ascending.
            next_tokens: the token appended to each.
        """
        counts = torch.bincount(source_index, minlength=len(self.sentences))
        memory, sentences = self.memory, self.sentences
        if not bool(counts.all()):
            remaining = counts.nonzero()[:, 0]
            memory, sentences = memory.select(remaining), sentences[remaining]
            source_index, counts = torch.repeat_interleave(counts[remaining]), counts[remaining]
        tokens = torch.cat([self.tokens[parents], next_tokens[:, None]], dim=1)
        in_place = len(parents) == len(self.rows) and torch.equal(parents, torch.arange(len(parents)).to(parents))
        state = state if in_place else nest.select(state, parents)
        return ActiveHypotheses(memory, sentences, Rows.from_counts(source_index, counts), state, next_tokens, tokens)


@dataclass(frozen=True)
class TokenConstraints:
    """Constraints on the tokens of n sentences.

    Attributes:
        end: the token that ends a sentence.
        forbidden: tokens that are never written, `(f,)`.
        phrases: sequences of two or more tokens that are never written.
        min_length: minimum number of tokens, the end token included.
        no_repeat: no sequence of this many tokens occurs twice in a sentence (Paulus et al. 2018); 0: no constraint.
        prefixes: first tokens of each sentence, which override all other constraints, `(n, longest)`; -1 after the end
            of a prefix.
    """

    end: int
    forbidden: Tensor
    phrases: Sequence[Tensor]
    min_length: int
    no_repeat: int
    prefixes: Tensor

    def excluded(self, length: int, vocabulary: int) -> Tensor | None:
        """Returns which tokens no sentence may write after `length` others, `(vocabulary,)`; `None` if this differs
        between sentences, so that `apply` is needed."""
        if self.phrases or 0 < self.no_repeat <= length or length < self.prefixes.shape[1]:
            return None
        excluded = torch.zeros(vocabulary, dtype=torch.bool, device=self.forbidden.device)
        excluded[self.forbidden] = True
        if length + 1 < self.min_length and self.end >= 0:
            excluded[self.end] = True
        return excluded

    def apply(self, logits: Tensor, tokens: Tensor, sentences: Tensor) -> None:
        """Sets the logits of tokens that may not come next to -inf, in place.

        Args:
            logits: `(rows, vocabulary)`.
            tokens: so far, `(rows, length)`.
            sentences: of each row, `(rows,)`.
        """
        length = tokens.shape[1]
        forced = self.prefixes[sentences, length] if length < self.prefixes.shape[1] else None
        forced_logits = None if forced is None else logits.gather(1, forced.clamp(min=0)[:, None])
        if len(self.forbidden):
            logits.index_fill_(1, self.forbidden, NEG_INF)
        if length + 1 < self.min_length and self.end >= 0:
            logits[:, self.end] = NEG_INF
        for phrase in self.phrases:
            before = len(phrase) - 1
            if before <= length:
                logits[(tokens[:, length - before :] == phrase[:-1]).all(1), phrase[-1]] = NEG_INF
        if 0 < self.no_repeat <= length:
            windows, last = tokens.unfold(1, self.no_repeat, 1), tokens[:, length - (self.no_repeat - 1) :]
            rows, starts = (windows[:, :, :-1] == last[:, None]).all(2).nonzero(as_tuple=True)
            logits[rows, windows[rows, starts, -1]] = NEG_INF
        if forced is not None and forced_logits is not None:
            rows = (forced >= 0).nonzero()[:, 0]
            logits[rows] = NEG_INF
            logits[rows, forced[rows]] = forced_logits[rows, 0]


def split_banned(banned: Sequence[Sequence[int]], device: torch.device) -> tuple[list[int], list[Tensor]]:
    """Splits banned sequences into single tokens and phrases of several; raises `UserError` for an empty one."""
    if any(len(phrase) == 0 for phrase in banned):
        raise UserError("banned has an empty sequence of tokens; accepted is one token or more.")
    single = [phrase[0] for phrase in banned if len(phrase) == 1]
    return single, [torch.tensor(list(phrase), device=device) for phrase in banned if len(phrase) > 1]


def prefix_table(prefixes: Sequence[Sequence[int]] | None, limits: Sequence[int], device: torch.device) -> Tensor:
    """Returns `TokenConstraints.prefixes`; raises `UserError` if a prefix is longer than its sentence's limit."""
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
