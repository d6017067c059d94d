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
    memory, owners, captions, weights = arranged(model, photographs, captions, weights)
    before, after, mask = captions.before, captions.after, captions.mask
    steps = before.shape[1]
    if truncate is None or truncate >= steps:
        (loss,) = model.window_losses(memory, before, after, mask, smoothing, steps, weights, owners)
        yield Piece(loss, state, last=True)
        return
    leaf = memory.leaf()
    for loss in model.window_losses(leaf, before, after, mask, smoothing, truncate, weights, owners):
        yield Piece(loss, state)
    yield Piece(memory.behind(leaf), state, last=True)


def arranged(
    model: EncoderDecoder, photographs: Memory, captions: CaptionBatch, weights: Tensor | None = None
) -> tuple[Memory, Tensor | None, CaptionBatch, Tensor | None]:
    """What `window_losses` wants: of a decoder that shares memories these, their owners and the longest captions first,
    so that it can leave out the steps behind the ends of the others; else a memory a caption."""
    if not model.decoder.shares:
        return photographs.select(captions.owners), None, captions, weights
    order = captions.mask.sum(1).argsort(descending=True, stable=True)
    captions = captions.taken(order)
    return photographs, captions.owners, captions, None if weights is None else weights[order]
