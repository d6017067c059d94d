"""A question and a picture in one vector, of which a head chooses the answer."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from unrolled.models.attention import Attention
from unrolled.models.memory import Memory
from unrolled.models.shared_look import shared_look
from unrolled.recurrence import Dropout, compiled


class Joined(NamedTuple):
    """What became of question and picture.

    Attributes:
        vector: `(batch, size)`.
        weights: of attention's last look, `(batch, positions)`, where there is one; at most 1 together.
    """

    vector: Tensor
    weights: Tensor | None = None


class Product(nn.Module):
    """tanh(W q) ∘ tanh(V p), of the question's summary q and the picture's p (Agrawal et al. 2015, "VQA").

    One that is not given, because the model is to do without it, counts as ones.

    Args:
        question_size, picture_size: features of q and p; `None`: not given.
        size: features of the product.
    """

    def __init__(self, question_size: int | None, picture_size: int | None, size: int, dropout: Dropout) -> None:
        super().__init__()
        self.question = None if question_size is None else nn.Linear(question_size, size)
        self.picture = None if picture_size is None else nn.Linear(picture_size, size)
        self.dropout = dropout

    def forward(self, question: Tensor | None, picture: Memory | None, owners: Tensor) -> Joined:
        """Joins `question` `(batch, question_size)` and the summary of `picture`, of which each question has the row
        `owners` `(batch,)`."""
        factors = []
        if self.question is not None and question is not None:
            factors.append(torch.tanh(self.question(question)))
        if self.picture is not None and picture is not None:
            factors.append(torch.tanh(self.picture(picture.summary))[owners])
        product = factors[0] if len(factors) == 1 else factors[0] * factors[1]
        return Joined(self.dropout(product))


class StackedAttention(nn.Module):
    """Looks at the positions again and again (Yang et al. 2016, "Stacked attention networks", eq. 15–18): from
    u_0 = tanh(W q), with positions s_p = tanh(V f_p) of the picture,

        α_k = softmax_p(w_kᵀ tanh(U_k u_{k−1} + K_k s_p)),  u_k = u_{k−1} + Σ_p α_kp s_p

    One more position, a learned vector, is no part of any picture: where nothing is to be found, a look goes there (as
    to the sentinel of Lu et al. 2017, "Knowing when to look"). A mean over positions that are alike cannot say how many
    they are; what is left for this one can.

    After the last look question and finding are multiplied too, u_K + tanh(A u_0) ∘ tanh(B u_K) (Kim et al. 2017,
    "Hadamard product for low-rank bilinear pooling"): that something is there is yes to one question, no to another.

    Args:
        question_size, picture_size: features of q and f.
        size: of u and s.
        hops: how often it looks.
    """

    def __init__(self, question_size: int, picture_size: int, size: int, hops: int, dropout: Dropout) -> None:
        super().__init__()
        self.question, self.picture = nn.Linear(question_size, size), nn.Linear(picture_size, size)
        self.asked, self.found = nn.Linear(size, size), nn.Linear(size, size)
        self.nothing = nn.Parameter(0.1 * torch.randn(size))
        self.looks = nn.ModuleList(Attention("additive", size, size) for _ in range(hops))
        self.dropout = dropout
        # Scores that hang on question and position together need a tanh that bends: with torch's smaller first weights
        # it hardly does, and looks learn nothing for a long time.
        for map in self.modules():
            if isinstance(map, nn.Linear):
                nn.init.xavier_uniform_(map.weight, nn.init.calculate_gain("tanh"))

    def forward(self, question: Tensor, picture: Memory, owners: Tensor) -> Joined:
        """Joins `question` `(batch, question_size)` and `picture`, of which each question has the row `owners`
        `(batch,)`. What depends on a picture alone is computed once, however many questions it has."""
        states = self._positions(picture.states)
        mask = torch.cat([picture.mask, picture.mask.new_ones(len(states), 1)], dim=1)
        first = joined = torch.tanh(self.question(question))
        weights = None
        for look in self._looks():
            seen, weights = shared_look(look, joined, Memory(states, mask, picture.summary), owners)
            joined = joined + seen
        assert weights is not None
        joined = joined + torch.tanh(self.asked(first)) * torch.tanh(self.found(joined))
        return Joined(self.dropout(joined), weights[:, :-1])

    def _positions(self, seen: Tensor) -> Tensor:
        """s, and behind them the vector that is no part of the picture, `(pictures, positions + 1, size)`."""
        mapped = self.picture(seen)
        states = compiled.squashed(mapped, self.nothing)
        if states is not None:
            return states
        return torch.cat([torch.tanh(mapped), self.nothing.to(mapped.dtype).expand(len(mapped), 1, -1)], dim=1)

    def _looks(self) -> list[Attention]:
        return [look for look in self.looks if isinstance(look, Attention)]
