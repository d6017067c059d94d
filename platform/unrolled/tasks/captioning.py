"""Captioning: a photograph in, a sentence out.

Captions are learned as the field compares them: lower case, without punctuation (`unrolled.metrics.tokenize_caption`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unrolled.config.captioning import CaptioningConfig
from unrolled.data.batching import CaptionBatch, decoder_tensors, padding_fraction, plan_texts
from unrolled.data.caption_readers import open_captions
from unrolled.data.images import examples
from unrolled.data.photo_corpus import CaptionCorpus, CaptionSplit, prepare_captions
from unrolled.data.tokenizer import END
from unrolled.decoding import Beam, Output, Strategy, decode, length_limits, make_outputs, resolve_auto
from unrolled.errors import UserError
from unrolled.metrics import pairwise_scores, tokenize_caption
from unrolled.models import EncoderDecoder, Penalties, build_captioner, cut_ragged_window, total_steps
from unrolled.recurrence import Nest
from unrolled.tasks.base import (
    SYMBOLS,
    AttentionMap,
    GlobalBatch,
    Seq2SeqTask,
    ValidationShard,
    WindowLoss,
    attention_weights,
    greedy_strategy,
)
from unrolled.tasks.captioning_losses import PhotoShard, SelfCritical, caption_losses, decoder_inputs
from unrolled.tasks.image_inputs import ImageInputs, ImageInputTask, ImageTextBatch, PreparedImageText, photo_address


def normalize_caption(caption: str) -> str:
    """Returns a caption as it is learned and compared."""
    return " ".join(tokenize_caption(caption))


class Captioning(ImageInputTask, Seq2SeqTask):
    """A decoder conditioned on the features of a photograph."""

    default_strategy = "beam"

    def __init__(self, config: CaptioningConfig, folder: Path) -> None:
        super().__init__(config, folder)
        self.decoding = resolve_auto(config.decoding, config.training.precision)
        self.critic = None if config.training.self_critical is None else SelfCritical(config, self.vocabulary)
        self.unit = "tokens" if self.critic is None else "captions"

    @classmethod
    def image_inputs(cls, config: CaptioningConfig) -> ImageInputs:
        return ImageInputs(config, grid=config.model.decoder.conditioning == "attention")

    @classmethod
    def prepare_corpus(cls, config: CaptioningConfig, fingerprint: str | None) -> CaptionCorpus:
        return prepare_captions(config.data, normalize_caption, fingerprint)

    def build_model(self) -> EncoderDecoder:
        training = self.config.training
        hard = training.hard_attention
        penalties = Penalties(training.doubly_stochastic, training.reconstruction, hard.reinforcement, hard.entropy)
        penalties = penalties if self.critic is None else Penalties()  # of teacher forcing alone
        sizes = self.shape.channels, self.shape.positions, len(self.vocabulary)
        return build_captioner(self.config.model, *sizes, penalties, self.images.build_backbone())

    def describe(self, data: PreparedImageText) -> tuple[str, str]:
        model, corpus = self.config.model, data.split("train")
        decoder, trained = model.decoder, ", trained too" if model.features.fine_tune else ""
        kind = "hard " * decoder.attention.hard + decoder.attention.score
        sees = {
            "first": "the picture as first input",
            "once": "the picture beside the first word",
            "every": "the picture beside every word",
            "output": "the picture after the recurrence",
            "reconstruct": "the picture beside every word and a memory that recalls it",
            "attention": f"{kind} attention over {self.shape.positions} positions",
        }[decoder.conditioning]
        learned, padded = self._describe_captions(data)
        names = [name for name, _ in data.images.unreadable("train").values()]
        unreadable = f", {len(names):,} of them unreadable ({examples(names)})" if names else ""
        return (
            f"{model.features.backbone}{trained}, {self.shape.channels} features → {decoder.cell} {decoder.hidden} "
            f"with {sees}",
            f"{self.config.data.source}: {len(corpus.names):,} photographs to learn from{unreadable}, with {learned}; "
            f"{len(data.split('validation').names):,} to validate; {self.config.data.vocabulary.kind} vocabulary of "
            f"{len(self.vocabulary):,}{padded}",
        )

    def _describe_captions(self, data: PreparedImageText) -> tuple[str, str]:
        """Describes the captions of an epoch, and their padding."""
        if self.critic is not None:
            return f"{self.critic.settings.samples} captions drawn of each", ""
        lengths, batches = data.split("train").lengths, [batch.rows for batch in self._plan_captions(data, epoch=0)]
        learned, long = sum(map(len, batches)), int((lengths > self.config.data.max_length).sum())
        left_out = f" ({long:,} too long)" if long else ""
        return f"{learned:,} captions{left_out}", f"; padding {100 * self._padding(lengths, batches):.1f} %"

    def _padding(self, lengths: np.ndarray, batches: Sequence[np.ndarray]) -> float:
        """Returns the fraction of padding in the decoder's steps."""
        decoder = self.config.model.decoder
        if decoder.conditioning != "attention" or not decoder.attention.fed or decoder.attention.hard:
            return padding_fraction(lengths, batches)
        descending = [np.sort(lengths[batch])[::-1].tolist() for batch in batches]
        steps = sum(total_steps(cut_ragged_window(each, each[0])) for each in descending)
        return 1 - sum(map(sum, descending)) / steps

    def plan(self, data: PreparedImageText, epoch: int) -> Sequence[GlobalBatch]:
        """Returns batches of captions of similar length within the token budget, every caption once; in self-critical
        training batches of photographs, each once."""
        if self.critic is not None:
            return self.critic.plan(data.split("train"), data.images, epoch)
        return self._plan_captions(data, epoch)

    def _plan_captions(self, data: PreparedImageText, epoch: int) -> list[ImageTextBatch]:
        return self._plan(data, "train", self.config.data.max_length, seed=self.config.seed, epoch=epoch)

    def _plan(
        self, data: PreparedImageText, split: str, max_length: int, *, seed: int, epoch: int
    ) -> list[ImageTextBatch]:
        corpus, rows = data.split(split), data.readable_rows(split)
        rows = rows[corpus.lengths[rows] <= max_length]
        groups: list[np.ndarray] | np.ndarray = rows[:, None]
        lengths = corpus.lengths[rows]
        if self.config.training.together or self.config.model.features.fine_tune:
            groups, lengths = corpus.group_by_photo(rows)
        planned = plan_texts(lengths, batch_tokens=self.config.training.batch_tokens, seed=seed, epoch=epoch)
        view_epoch = epoch if split == "train" else None
        return [
            ImageTextBatch(self, corpus, split, np.concatenate([groups[i] for i in batch]), view_epoch)
            for batch in planned
        ]

    def num_targets(self, corpus: CaptionSplit, rows: np.ndarray) -> int:
        return int(corpus.lengths[rows].sum())

    def collate(self, batch: ImageTextBatch, rows: np.ndarray, photos: list[int], photo_index: Tensor) -> CaptionBatch:
        return CaptionBatch(
            self.images.read(batch.split, photos, batch.epoch),
            photo_index,
            *decoder_tensors(batch.corpus.tokens("caption_tokens", rows)),
        )

    def losses(self, model: EncoderDecoder, shard: CaptionBatch | PhotoShard, state: Nest) -> Iterator[WindowLoss]:
        """Yields the summed cross-entropy of every word given those before it; in self-critical training minus the
        rewards of the captions drawn."""
        if isinstance(shard, PhotoShard):
            assert self.critic is not None
            return self.critic.losses(model, shard, state)
        truncate, smoothing = self.config.training.truncate, self.config.training.label_smoothing
        return caption_losses(model, model.encode(shard.photos), shard, state, truncate, smoothing)

    def validate(self, model: EncoderDecoder, data: PreparedImageText, rank: int, size: int) -> ValidationShard:
        model.eval()
        corpus, unreadable = data.split("validation"), data.images.unreadable("validation")
        total, targets = self._validation_loss(model, data, rank, size)
        rows = [row for row in range(len(corpus.names)) if row not in unreadable][rank::size]
        addresses = [photo_address("validation", row, corpus.names[row]) for row in rows]
        outputs, references = self.predict(model, addresses, greedy_strategy(self.decoding)), corpus.texts()
        return total, targets, outputs, [references[row] for row in rows]

    @torch.inference_mode()
    def _validation_loss(
        self, model: EncoderDecoder, data: PreparedImageText, rank: int, size: int
    ) -> tuple[float, int]:
        device, total, targets = next(model.parameters()).device, 0.0, 0
        longest = int(data.split("validation").lengths.max())
        for batch in self._plan(data, "validation", longest, seed=0, epoch=0):
            if shard := batch.shard(rank, size):
                shard = shard.to(device)
                memory, source_index, shard, _ = decoder_inputs(model, model.encode(shard.photos), shard)
                captions = shard.decoder_inputs, shard.targets, shard.mask
                total += float(model.loss(memory, *captions, source_index=source_index).double())
                targets += int(shard.mask.sum())
        return total, targets

    def validation_scores(self, shards: Sequence[ValidationShard]) -> dict[str, float]:
        """As in the base class; in self-critical training `loss` is minus CIDEr-D, in the unit of rewards."""
        scores = super().validation_scores(shards)
        return scores if self.critic is None else scores | {"loss": -scores["cider_d"] / 100}

    def examples(self, split: str) -> tuple[list[str], list[list[str]]]:
        """Returns the addresses of the photographs that can be read, and the normalised captions of each."""
        captioned, unreadable = open_captions(self.config.data, split), self.images.unreadable(split)
        rows = [row for row in range(len(captioned)) if row not in unreadable]
        if not rows:
            source = self.config.data.source
            raise UserError(f"data.source: {source}, split {split!r} has no photograph that can be read.")
        addresses = [photo_address(split, row, captioned.names[row]) for row in rows]
        return addresses, [[normalize_caption(text) for text in captioned.captions[row]] for row in rows]

    def check_strategy(self, strategy: Strategy) -> None:
        if strategy.length_factor is not None:
            raise UserError("decoding.length_factor wants inputs of so many tokens, and photographs have none; null.")
        attends = self.config.model.decoder.conditioning == "attention"
        if isinstance(strategy, Beam) and strategy.coverage_penalty > 0 and not attends:
            raise UserError(
                "beam.coverage_penalty wants attention, but model.decoder.conditioning is "
                f"{self.config.model.decoder.conditioning!r}; set it to 0."
            )

    @torch.inference_mode()
    def decode(
        self, model: EncoderDecoder, inputs: Sequence[str], strategy: Strategy, example_ids: Sequence[int] | None = None
    ) -> list[Output]:
        """Captions photographs, given by addresses in the data or files, `decoding.batch` at a time."""
        model.eval()
        device, size = next(model.parameters()).device, self.config.decoding.batch
        banned = self.vocabulary.encode(self.config.decoding.banned)
        ids = list(range(len(inputs)) if example_ids is None else example_ids)
        outputs: list[Output] = []
        for start in range(0, len(inputs), size):
            rows = slice(start, start + size)
            memory = model.encode(self.images.read_named(inputs[rows]).to(device))
            decoded = decode(model, memory, strategy, **SYMBOLS, sentence_ids=ids[rows], banned=banned)
            limits = length_limits(strategy, None, None, len(memory))
            outputs += make_outputs(decoded, strategy, self.vocabulary.decode, limits, pairwise_scores)
        return outputs

    @torch.inference_mode()
    def attention(self, model: EncoderDecoder, text: str, output: str) -> AttentionMap | None:
        """Returns the weights of the grid's positions, row by row, for the output's tokens and its end."""
        if not model.attends:
            return None
        model.eval()
        memory = model.encode(self.images.read_named([text]).to(next(model.parameters()).device))
        (tokens,) = self.vocabulary.encode([output])
        side = math.isqrt(self.shape.positions)
        positions = [f"{row + 1},{column + 1}" for row in range(side) for column in range(side)]
        return AttentionMap(positions, self.vocabulary.tokens([*tokens, END]), attention_weights(model, memory, tokens))
