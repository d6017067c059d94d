"""What may be written next: rules that take tokens away before a search chooses among the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unrolled.errors import UserError

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
