"""Losses of captioning: teacher forcing and self-critical training.

Self-critical sequence training (Rennie et al. 2017) raises the expected reward of a caption w ~ p(· | photograph) by
the gradient

    ∇ −E[r(w)] = −E[(r(w) − b) ∇ log p(w)],

estimated from several captions of every photograph. The baseline b of each is the mean reward of the others, so that
no caption is compared with itself (Kool et al. 2019; Luo 2020, "A better variant of self-critical sequence training"),
or the reward of the greedy caption, as in the paper.
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
from unrolled.data.photo_corpus import CaptionSplit
from unrolled.data.tokenizer import BEGIN, END, Vocabulary
from unrolled.decoding import Greedy, Hypothesis, Sample, Strategy, decode, resolve_auto, resolve_precision
from unrolled.metrics import CiderReward
from unrolled.models import EncoderDecoder, EncoderOutput
from unrolled.recurrence import Nest
from unrolled.tasks.base import WindowLoss, decoder_losses
from unrolled.tasks.image_inputs import ImageInputs


def caption_losses(
    model: EncoderDecoder,
    memory: EncoderOutput,
    captions: CaptionBatch,
    state: Nest,
    truncate: int | None,
    smoothing: float = 0.0,
    weights: Tensor | None = None,
) -> Iterator[WindowLoss]:
    """Yields the summed cross-entropy of all words, in windows where back-propagation through time is truncated.

    Args:
        memory: encoder output of `captions.photos`.
        truncate: words per window; `None`: all.
        weights: of the captions in the sum, `(batch,)`; `None`: 1 each.
    """
    memory, source_index, captions, weights = decoder_inputs(model, memory, captions, weights)
    before, after, mask = captions.decoder_inputs, captions.targets, captions.mask
    if truncate is not None and truncate >= before.shape[1]:
        truncate = None
    return decoder_losses(model, memory, before, after, mask, state, truncate, smoothing, weights, source_index)


def decoder_inputs(
    model: EncoderDecoder, memory: EncoderOutput, captions: CaptionBatch, weights: Tensor | None = None
) -> tuple[EncoderOutput, Tensor | None, CaptionBatch, Tensor | None]:
    """Returns the arguments of `window_losses`: encoder output, its rows per caption, captions, weights. A decoder
    that shares encoder outputs takes the longest captions first and so skips the steps after the ends of the others;
    for any other decoder the encoder output is repeated per caption."""
    if not model.decoder.supports_shared_sources:
        return memory.select(captions.photo_index), None, captions, weights
    order = captions.mask.sum(1).argsort(descending=True, stable=True)
    captions = captions.select(order)
    return memory, captions.photo_index, captions, None if weights is None else weights[order]


@dataclass(frozen=True)
class PhotoShard:
    """One worker's photographs of a batch.

    Attributes:
        photos: encoder inputs, `(photographs, …)`.
        rows: of the photographs in the training split.
        seed: of sampling, with a photograph's row.
        reward: of captions of these photographs.
    """

    photos: Tensor
    rows: list[int]
    seed: int
    reward: CiderReward

    def to(self, device: torch.device) -> PhotoShard:
        return replace(self, photos=self.photos.to(device, non_blocking=True))


@dataclass(frozen=True)
class PhotoBatch:
    """A global batch: the photographs `rows` of the training split, with `samples` captions to be drawn of each."""

    images: ImageInputs
    rows: np.ndarray
    samples: int
    seed: int
    reward: CiderReward
    epoch: int

    @property
    def tokens(self) -> int:
        """Number of captions that are drawn: the loss is a mean over them."""
        return len(self.rows) * self.samples

    def shard(self, rank: int, size: int) -> PhotoShard | None:
        rows = self.rows[rank::size].tolist()
        return PhotoShard(self.images.read("train", rows, self.epoch), rows, self.seed, self.reward) if rows else None


class SampledCaptions(NamedTuple):
    """Captions drawn from the model.

    Attributes:
        captions: of all photographs, those of one adjacent.
        rewards: `(captions,)`.
        advantages: rewards minus baseline, `(captions,)`.
    """

    captions: CaptionBatch
    rewards: Tensor
    advantages: Tensor


class SelfCritical:
    """Self-critical training: batches of photographs, and the loss of captions drawn of them."""

    def __init__(self, config: CaptioningConfig, vocabulary: Vocabulary) -> None:
        settings, training = config.training.self_critical, config.training
        assert settings is not None
        self.settings, self.seed, self.truncate = settings, config.seed, training.truncate
        self._vocabulary, self._max_length = vocabulary, config.decoding.max_length
        precision = resolve_precision(resolve_auto(type(config.decoding)(), training.precision))
        self._limits: dict[str, Any] = {"max_length": self._max_length, "precision": precision}
        self._reward: CiderReward | None = None

    def plan(self, corpus: CaptionSplit, images: ImageInputs, epoch: int) -> list[PhotoBatch]:
        """Returns batches of photographs, each of them once per epoch."""
        if self._reward is None:
            self._reward = CiderReward(corpus.texts())
        unreadable = images.unreadable("train")
        readable = [row for row in range(len(corpus.names)) if row not in unreadable]
        order = np.random.default_rng([self.seed, epoch]).permutation(readable)
        (seed,) = np.random.SeedSequence([self.seed, epoch]).generate_state(1, np.uint64).tolist()
        size, samples = self.settings.photographs, self.settings.samples
        return [
            PhotoBatch(images, order[start : start + size], samples, seed, self._reward, epoch)
            for start in range(0, len(order), size)
        ]

    def losses(self, model: EncoderDecoder, shard: PhotoShard, state: Nest) -> Iterator[WindowLoss]:
        """Yields minus the rewards of the captions drawn, summed; their gradient is the estimate above.

        Captions are drawn in evaluation mode, as in decoding. The dropout of the config applies to the log-likelihoods
        that are differentiated: without it the estimate is exact, with it training overfits less.
        """
        model.eval()
        with torch.autocast(shard.photos.device.type, enabled=False):  # a search has a precision of its own
            captions, rewards, advantages = self.sample(model, shard)
        model.train()
        memory = model.encode(shard.photos)
        for window in caption_losses(model, memory, captions, state, self.truncate, weights=advantages):
            # The value of the weighted log-likelihoods has no meaning; reported is the reward.
            value = -rewards.sum() if window.last else 0
            yield window._replace(loss=window.loss - window.loss.detach() + value)

    @torch.no_grad()
    def sample(self, model: EncoderDecoder, shard: PhotoShard) -> SampledCaptions:
        """Draws captions of the photographs and compares their rewards with the baseline."""
        samples, memory = self.settings.samples, model.encode(shard.photos)
        found = self._search(model, memory, shard, Sample(seed=shard.seed, samples=samples, **self._limits))
        rewards = self._rewards(shard, found)
        if self.settings.baseline == "greedy":
            baseline = self._rewards(shard, self._search(model, memory, shard, Greedy(**self._limits)))
        else:
            baseline = (rewards.sum(1, keepdim=True) - rewards) / (samples - 1)
        captions = self._captions(shard.photos, found).to(shard.photos.device)
        values = (values.flatten().to(shard.photos) for values in (rewards, rewards - baseline))
        return SampledCaptions(captions, *values)

    def _search(
        self, model: EncoderDecoder, memory: EncoderOutput, shard: PhotoShard, strategy: Strategy
    ) -> list[list[Hypothesis]]:
        return decode(model, memory, strategy, begin=BEGIN, end=END, sentence_ids=shard.rows).hypotheses

    def _rewards(self, shard: PhotoShard, found: Sequence[Sequence[Hypothesis]]) -> Tensor:
        """Returns the reward of every caption, float64 `(photographs, captions)`."""
        rewards = []
        for row, hypotheses in zip(shard.rows, found, strict=True):
            tokens = [hypothesis.tokens for hypothesis in hypotheses]
            ended = [self._ended(each) for each in tokens]
            rewards.append(shard.reward(row, self._vocabulary.decode(tokens), ended))
        return torch.tensor(rewards, dtype=torch.float64)

    def _ended(self, tokens: Sequence[int]) -> bool:
        """Whether the end symbol was drawn before the maximal length."""
        return len(tokens) < self._max_length

    def _captions(self, photos: Tensor, found: Sequence[Sequence[Hypothesis]]) -> CaptionBatch:
        """Returns the captions as decoder inputs and targets, with an end symbol only where it was drawn."""
        tokens = [hypothesis.tokens for hypotheses in found for hypothesis in hypotheses]
        targets = [np.array([*row, END] if self._ended(row) else row) for row in tokens]
        after, mask = pad(targets)
        before, _ = pad([np.concatenate(([BEGIN], row[:-1])) for row in targets])
        source_index = torch.arange(len(found)).repeat_interleave(self.settings.samples)
        return CaptionBatch(photos, source_index, before, after, mask)
