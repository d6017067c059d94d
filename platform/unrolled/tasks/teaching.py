"""Teacher forcing of captions: the cross-entropy of every word given those before it, whole or in windows."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from unrolled.data.caption_corpus import CaptionBatch
from unrolled.models import EncoderDecoder, Memory
from unrolled.recurrence.state import Nest
from unrolled.tasks.task import Piece


def taught(
    model: EncoderDecoder,
    photographs: Memory,
    captions: CaptionBatch,
    state: Nest,
    truncate: int | None,
    smoothing: float = 0.0,
    weights: Tensor | None = None,
) -> Iterator[Piece]:
    """Yields the summed cross-entropy of all words, in pieces where back-propagation through time is truncated.

    Args:
        photographs: what the encoder made of `captions.pictures`.
        truncate: words of a window; `None`: all.
        weights: of the captions in the sum, `(batch,)`; `None`: 1 each.
    """
    before, after, mask = captions.before, captions.after, captions.mask
    steps, shares = before.shape[1], model.decoder.shares
    memory, owners = (photographs, captions.owners) if shares else (photographs.select(captions.owners), None)
    if truncate is None or truncate >= steps:
        (loss,) = model.window_losses(memory, before, after, mask, smoothing, steps, weights, owners)
        yield Piece(loss, state, last=True)
        return
    leaf = memory.leaf()
    for loss in model.window_losses(leaf, before, after, mask, smoothing, truncate, weights, owners):
        yield Piece(loss, state)
    yield Piece(memory.behind(leaf), state, last=True)
