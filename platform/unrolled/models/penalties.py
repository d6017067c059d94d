"""What training may add to the cross-entropy of a decoder that sees pictures."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from unrolled.models.decoder import Decoder, Window
from unrolled.models.memory import Memory


@dataclass(frozen=True)
class Penalties:
    """Weights of penalties, in nats an example.

    Attributes:
        doubly_stochastic: of Σ_p (1 − Σ_t α_tp)², which asks attention to look everywhere in the course of a sentence
            (Xu et al. 2015, eq. 14).
        reconstruction: of how far a visual memory is from the picture, summed over the tokens (Chen & Zitnick 2015).
        reinforcement, entropy: λ_r and λ_e of hard attention, see `hard_attention`.
    """

    doubly_stochastic: float = 0.0
    reconstruction: float = 0.0
    reinforcement: float = 0.0
    entropy: float = 0.0

    def of(self, decoder: Decoder, memory: Memory, window: Window, mask: Tensor, shares: Tensor) -> Tensor:
        """The penalty of a window, summed over the examples.

        Args:
            mask: False where the window's tokens are padding, `(batch, time)`.
            shares: of each example's tokens, those in the window, `(batch,)`. In a window attention should give every
                position this much; over a sentence that is one window, 1.
        """
        total = window.outputs.new_zeros(())
        if self.doubly_stochastic and window.weights is not None:
            looked = (window.weights * mask[..., None]).sum(1)
            total = total + self.doubly_stochastic * (shares[:, None] - looked).square().sum()
        if self.reconstruction and decoder.visual is not None:
            assert window.remembered is not None
            errors = decoder.visual.errors(window.remembered, memory.summary)
            total = total + self.reconstruction * errors[mask].sum()
        return total
