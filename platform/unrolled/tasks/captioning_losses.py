"""Losses of captioning: teacher forcing and self-critical training.

Teacher forcing of captions: the cross-entropy of every word given those before it, whole or in windows.

Self-critical sequence training: a captioner learns from captions that it draws itself (Rennie et al. 2017).

The expected reward of a caption w ~ p(· | photograph) is raised by the gradient

    ∇ −E[r(w)] = −E[(r(w) − b) ∇ log p(w)],

estimated with several captions of every photograph. The baseline b of each is the mean reward of the others, so that no
caption is judged by itself (Kool et al. 2019; Luo 2020, "A better variant of self-critical sequence training"), or the
reward of the greedy caption, as in the paper.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unrolled.config.captioning import CaptioningConfig
from unrolled.data.batching import CaptionBatch, pad
from unrolled.data.caption_corpus import CaptionSplit
from unrolled.data.tokenizer import BEGIN, END, Vocabulary
from unrolled.decoding import Greedy, Hypothesis, Sample, Strategy, decode, resolve_auto, resolve_precision
from unrolled.metrics import CiderReward
from unrolled.models import EncoderDecoder, EncoderOutput
from unrolled.recurrence.state import Nest
from unrolled.tasks.base import WindowLoss
from unrolled.tasks.image_inputs import Pictures


def taught(
    model: EncoderDecoder,
    photographs: EncoderOutput,
    captions: CaptionBatch,
    state: Nest,
    truncate: int | None,
    smoothing: float = 0.0,
    weights: Tensor | None = None,
) -> Iterator[WindowLoss]:
    """Yields the summed cross-entropy of all words, in pieces where back-propagation through time is truncated.

    Args:
        photographs: what the encoder made of `captions.photos`.
        truncate: words of a window; `None`: all.
        weights: of the captions in the sum, `(batch,)`; `None`: 1 each.
    """
    memory, owners, captions, weights = arranged(model, photographs, captions, weights)
    before, after, mask = captions.decoder_inputs, captions.targets, captions.mask
    steps = before.shape[1]
    if truncate is None or truncate >= steps:
        (loss,) = model.window_losses(memory, before, after, mask, smoothing, steps, weights, owners)
        yield WindowLoss(loss, state, last=True)
        return
    leaf = memory.detach_leaf()
    for loss in model.window_losses(leaf, before, after, mask, smoothing, truncate, weights, owners):
        yield WindowLoss(loss, state)
    yield WindowLoss(memory.backward_into_encoder(leaf), state, last=True)


def arranged(
    model: EncoderDecoder, photographs: EncoderOutput, captions: CaptionBatch, weights: Tensor | None = None
) -> tuple[EncoderOutput, Tensor | None, CaptionBatch, Tensor | None]:
    """What `window_losses` wants: of a decoder that shares memories these, their owners and the longest captions first,
    so that it can leave out the steps behind the ends of the others; else a memory a caption."""
    if not model.decoder.supports_shared_sources:
        return photographs.select(captions.photo_index), None, captions, weights
    order = captions.mask.sum(1).argsort(descending=True, stable=True)
    captions = captions.select(order)
    return photographs, captions.photo_index, captions, None if weights is None else weights[order]


@dataclass(frozen=True)
class Seen:
    """A worker's photographs of a batch.

    Attributes:
        photos: what the encoder reads, `(photographs, …)`.
        rows: the photographs' places in the training split.
        seed: with a photograph's place it decides what is drawn.
        reward: of captions of these photographs.
    """

    photos: Tensor
    rows: list[int]
    seed: int
    reward: CiderReward

    def to(self, device: torch.device) -> Seen:
        """Moves every tensor."""
        return replace(self, photos=self.photos.to(device, non_blocking=True))


@dataclass(frozen=True)
class Photographs:
    """A global batch: the photographs `rows` of the training split, of each of which `samples` captions are drawn."""

    pictures: Pictures
    rows: np.ndarray
    samples: int
    seed: int
    reward: CiderReward
    epoch: int

    @property
    def tokens(self) -> int:
        """The captions that are drawn: the loss is a mean over them."""
        return len(self.rows) * self.samples

    def part(self, rank: int, size: int) -> Seen | None:
        rows = self.rows[rank::size].tolist()
        return Seen(self.pictures.of("train", rows, self.epoch), rows, self.seed, self.reward) if rows else None


class Drawn(NamedTuple):
    """Captions that a model drew.

    Attributes:
        captions: of all photographs, those of one adjacent.
        rewards, advantages: of each, the latter less the baseline, `(captions,)`.
    """

    captions: CaptionBatch
    rewards: Tensor
    advantages: Tensor


class SelfCritical:
    """Draws captions of photographs and makes a loss of their rewards."""

    def __init__(self, config: CaptioningConfig, vocabulary: Vocabulary) -> None:
        settings, training = config.training.self_critical, config.training
        assert settings is not None
        self.settings, self.seed, self.truncate = settings, config.seed, training.truncate
        self._vocabulary, self._most = vocabulary, config.decoding.max_length
        self._precision = resolve_precision(resolve_auto(type(config.decoding)(), training.precision))
        self._reward: CiderReward | None = None

    def plan(self, corpus: CaptionSplit, pictures: Pictures, epoch: int) -> list[Photographs]:
        """Batches of photographs, each of them once, whatever is written about them."""
        if self._reward is None:
            self._reward = CiderReward(corpus.texts())
        missing = pictures.features("train").missing
        there = [row for row in range(len(corpus.names)) if row not in missing]
        order = np.random.default_rng([self.seed, epoch]).permutation(there)
        (seed,) = np.random.SeedSequence([self.seed, epoch]).generate_state(1, np.uint64).tolist()
        size, samples = self.settings.photographs, self.settings.samples
        return [
            Photographs(pictures, order[start : start + size], samples, seed, self._reward, epoch)
            for start in range(0, len(order), size)
        ]

    def losses(self, model: EncoderDecoder, part: Seen, state: Nest) -> Iterator[WindowLoss]:
        """Minus the rewards of the captions drawn, summed; their gradient is the estimate above.

        Captions are drawn from the model that writes in the end, without dropout. Their logarithms are differentiated
        with the dropout of the config: without any the estimate is exact, with some it overfits less.
        """
        model.eval()
        with torch.autocast(part.photos.device.type, enabled=False):  # a search has a precision of its own
            captions, rewards, advantages = self.draw(model, part)
        model.train()
        memory = model.encode(part.photos)
        for piece in taught(model, memory, captions, state, self.truncate, weights=advantages):
            # The sum of weighted logarithms means nothing as a number: what is reported is the reward.
            value = -rewards.sum() if piece.last else 0
            yield piece._replace(loss=piece.loss - piece.loss.detach() + value)

    @torch.no_grad()
    def draw(self, model: EncoderDecoder, part: Seen) -> Drawn:
        """Draws captions of the photographs and compares their rewards with the baseline."""
        samples, memory = self.settings.samples, model.encode(part.photos)
        found = self._written(model, memory, part, Sample(seed=part.seed, samples=samples, **self._limits()))
        rewards = self._rewards(part, found)
        if self.settings.baseline == "greedy":
            baseline = self._rewards(part, self._written(model, memory, part, Greedy(**self._limits())))
        else:
            baseline = (rewards.sum(1, keepdim=True) - rewards) / (samples - 1)
        captions = self._captions(part.photos, found).to(part.photos.device)
        values = (values.flatten().to(part.photos) for values in (rewards, rewards - baseline))
        return Drawn(captions, *values)

    def _limits(self) -> dict[str, Any]:
        return {"max_length": self._most, "precision": self._precision}

    def _written(
        self, model: EncoderDecoder, memory: EncoderOutput, part: Seen, strategy: Strategy
    ) -> list[list[Hypothesis]]:
        return decode(model, memory, strategy, begin=BEGIN, end=END, sentence_ids=part.rows).hypotheses

    def _rewards(self, part: Seen, found: Sequence[Sequence[Hypothesis]]) -> Tensor:
        """Returns the reward of every caption, float64 `(photographs, captions)`."""
        rewards = []
        for row, own in zip(part.rows, found, strict=True):
            tokens = [each.tokens for each in own]
            ended = [self._ended(each) for each in tokens]
            rewards.append(part.reward(row, self._vocabulary.decode(tokens), ended))
        return torch.tensor(rewards, dtype=torch.float64)

    def _ended(self, tokens: Sequence[int]) -> bool:
        """Whether the end symbol came before the caption was cut off."""
        return len(tokens) < self._most

    def _captions(self, pictures: Tensor, found: Sequence[Sequence[Hypothesis]]) -> CaptionBatch:
        """Returns captions as the decoder reads and writes them, the end symbol only where it was drawn."""
        tokens = [each.tokens for own in found for each in own]
        written = [np.array([*row, END] if self._ended(row) else row) for row in tokens]
        after, mask = pad(written)
        before, _ = pad([np.concatenate(([BEGIN], row[:-1])) for row in written])
        owners = torch.arange(len(found)).repeat_interleave(self.settings.samples)
        return CaptionBatch(pictures, owners, before, after, mask)
