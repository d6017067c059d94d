"""Captioning: a photograph in, a sentence out.

Captions are learned as the field compares them: lower case, without punctuation (`metrics.tokens`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from unrolled.config.captioning import CaptioningConfig
from unrolled.data.batching import CaptionBatch, padding_fraction, plan
from unrolled.data.caption_corpus import VOCABULARY, CaptionCorpus, CaptionSplit, prepare_captions
from unrolled.data.caption_readers import open_captions
from unrolled.data.tokenizer import BEGIN, END, PAD, UNKNOWN, Vocabulary
from unrolled.decoding import (
    Beam,
    Greedy,
    Output,
    Strategy,
    decode,
    length_limits,
    make_outputs,
    resolve_auto,
    resolve_precision,
)
from unrolled.errors import UserError
from unrolled.features import Backbone, build_backbone, load_pretrained, make_backbone
from unrolled.metrics import Perplexity, References, score
from unrolled.metrics.words import tokenize_caption
from unrolled.models import EncoderDecoder, Penalties, build_captioner
from unrolled.models.attention_feeding import cut_ragged_window, total_steps
from unrolled.recurrence.state import Nest
from unrolled.tasks.base import Attended, GlobalBatch, WindowLoss, interleaved
from unrolled.tasks.captioning_losses import Seen, SelfCritical, arranged, taught
from unrolled.tasks.image_inputs import Pictures, Shape, address, files

NAMED = 3
"""Unreadable photographs that are named before a training."""
Share = tuple[float, int, list[str], list[list[str]]]
"""What a worker validated: summed loss and its targets, outputs, and the references of each."""


def normal(caption: str) -> str:
    """A caption as the field compares it."""
    return " ".join(tokenize_caption(caption))


@dataclass(frozen=True)
class PreparedCaptions:
    """Captions and features, ready for training."""

    captions: CaptionCorpus
    pictures: Pictures

    @property
    def fingerprint(self) -> str:
        return self.captions.folder.name

    def save(self, folder: Path) -> None:
        """Writes the vocabulary, and the shape of features."""
        folder.mkdir(parents=True, exist_ok=True)
        self.captions.vocabulary.save(folder / VOCABULARY)
        self.pictures.shape().save(folder)

    def split(self, name: str) -> CaptionSplit:
        """Opens `train` or `validation`."""
        return self.captions.split(name)


@dataclass(frozen=True)
class Captions:
    """A global batch: the captions `indices` of a split, of which each worker takes those of its photographs.

    Attributes:
        epoch: in which they are learned from; `None`: they are not.
    """

    corpus: CaptionSplit
    pictures: Pictures
    split: str
    indices: np.ndarray
    epoch: int | None = None

    @property
    def tokens(self) -> int:
        return int(self.corpus.lengths[self.indices].sum())

    def part(self, rank: int, size: int) -> CaptionBatch | None:
        photos, owners = np.unique(self.corpus.photo_index[self.indices], return_inverse=True)
        chosen = owners % size == rank
        if not chosen.any():
            return None
        mine, owners = self.indices[chosen], owners[chosen] // size
        pictures = self.pictures.of(self.split, photos[rank::size].tolist(), self.epoch)
        return CaptionBatch(pictures, torch.from_numpy(owners), *self.corpus.decoder_tensors(mine))


class Captioning:
    """A decoder that sees a photograph by its features."""

    default_strategy = "beam"
    alike: tuple[str, ...] = ()

    def __init__(self, config: CaptioningConfig, folder: Path) -> None:
        self.config, self.vocabulary = config, Vocabulary.load(folder / VOCABULARY)
        self.shape, self.shown = Shape.load(folder), config.evaluation.metrics
        self.decoding = resolve_auto(config.decoding, config.training.precision)
        self.pictures = _pictures(config)
        self.critic = None if config.training.self_critical is None else SelfCritical(config, self.vocabulary)

    @property
    def reads(self) -> str:
        """What the encoder reads of a photograph."""
        return self.pictures.described()

    @property
    def counted(self) -> str:
        """What the loss is a mean over."""
        return "tokens" if self.critic is None else "captions"

    @classmethod
    def prepare(cls, config: CaptioningConfig, fingerprint: str | None = None) -> PreparedCaptions:
        """Learns the vocabulary and tokenises the training and validation split. Features are made when they are first
        read, if nobody has made them before."""
        captions, pictures = prepare_captions(config.data, normal, fingerprint), _pictures(config)
        if fingerprint is None:
            make_backbone(config.model.features)  # or why not, before anything else begins
        return PreparedCaptions(captions, pictures)

    def build_model(self) -> EncoderDecoder:
        """The model of the config's `model` section."""
        training = self.config.training
        hard = training.hard_attention
        penalties = Penalties(training.doubly_stochastic, training.reconstruction, hard.reinforcement, hard.entropy)
        penalties = penalties if self.critic is None else Penalties()  # of teaching alone
        model = self.config.model
        network = build_backbone(model.features) if model.features.fine_tune else None
        return build_captioner(
            model, self.shape.channels, self.shape.positions, len(self.vocabulary), penalties, network
        )

    def load_pretrained(self, model: EncoderDecoder) -> None:
        """Gives a network that is trained too the weights that it begins with."""
        network = model.encoder.network
        if isinstance(network, Backbone):
            load_pretrained(network, self.config.model.features)

    def introduce(self, data: PreparedCaptions) -> tuple[str, str]:
        """Network, cell, size and conditioning; captions, vocabulary and what of the first epoch is padding."""
        model, corpus = self.config.model, data.split("train")
        kind = "hard " * model.decoder.attention.hard + model.decoder.attention.score
        decoder, trained = model.decoder, ", trained too" if model.features.fine_tune else ""
        fine = f"{model.features.backbone}{trained}, {self.shape.channels} features"
        sees = {
            "first": "the picture as first input",
            "once": "the picture beside the first word",
            "every": "the picture beside every word",
            "output": "the picture after the recurrence",
            "reconstruct": "the picture beside every word and a memory that recalls it",
            "attention": f"{kind} attention over {self.shape.positions} positions",
        }[decoder.conditioning]
        learned, padded = self._learned(data)
        names = [name for name, _ in data.pictures.features("train").unreadable.values()]
        named = ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
        unread = f", {len(names):,} of them unreadable ({named})" if names else ""
        return (
            f"{fine} → {decoder.cell} {decoder.hidden} with {sees}",
            f"{self.config.data.source}: {len(corpus.names):,} photographs to learn from{unread}, with {learned}; "
            f"{len(data.split('validation').names):,} to validate; {self.config.data.vocabulary.kind} vocabulary of "
            f"{len(self.vocabulary):,}{padded}",
        )

    def _learned(self, data: PreparedCaptions) -> tuple[str, str]:
        """Describes the captions that an epoch learns from, and how much of them is padding."""
        if self.critic is not None:
            return f"{self.critic.settings.samples} captions drawn of each", ""
        lengths, batches = data.split("train").lengths, [batch.indices for batch in self._captions(data, epoch=0)]
        learned, long = sum(map(len, batches)), int((lengths > self.config.data.max_length).sum())
        left_out = f" ({long:,} too long)" if long else ""
        return f"{learned:,} captions{left_out}", f"; padding {100 * self._padding(lengths, batches):.1f} %"

    def _padding(self, lengths: np.ndarray, batches: Sequence[np.ndarray]) -> float:
        """The share of padding in the steps of batches that are taken."""
        decoder = self.config.model.decoder
        if decoder.conditioning != "attention" or not decoder.attention.fed or decoder.attention.hard:
            return padding_fraction(_both(lengths), batches)
        falling = [np.sort(lengths[batch])[::-1].tolist() for batch in batches]
        return 1 - sum(map(sum, falling)) / sum(total_steps(cut_ragged_window(each, each[0])) for each in falling)

    def plan(self, data: PreparedCaptions, epoch: int) -> Sequence[GlobalBatch]:
        """Batches of captions of like length within the token budget, every caption of every photograph once; in
        self-critical training batches of photographs, each once."""
        if self.critic is not None:
            return self.critic.plan(data.split("train"), data.pictures, epoch)
        return self._captions(data, epoch)

    def _captions(self, data: PreparedCaptions, epoch: int) -> list[Captions]:
        there = data.split("train").without(data.pictures.features("train").missing)
        most, seed = self.config.data.max_length, self.config.seed
        return self._batches(data, "train", there, most, seed=seed, epoch=epoch)

    def _batches(
        self, data: PreparedCaptions, split: str, chosen: np.ndarray, max_length: int, *, seed: int, epoch: int
    ) -> list[Captions]:
        """Captions of like length, or all captions of a photograph together."""
        corpus = data.split(split)
        usable = chosen[corpus.lengths[chosen] <= max_length]
        groups: list[np.ndarray] | np.ndarray = usable[:, None]
        lengths = corpus.lengths[usable]
        if self.config.training.together or self.config.model.features.fine_tune:
            groups, lengths = corpus.group_by_photo(usable)
        limits = {"batch_tokens": self.config.training.batch_tokens, "max_length": int(lengths.max(initial=0))}
        planned = plan(_both(lengths), **limits, seed=seed, epoch=epoch)
        learned = epoch if split == "train" else None
        return [
            Captions(corpus, data.pictures, split, np.concatenate([groups[place] for place in places]), learned)
            for places in planned
        ]

    def losses(self, model: EncoderDecoder, part: CaptionBatch | Seen, state: Nest) -> Iterator[WindowLoss]:
        """Cross-entropy of every word given those before it, summed; of photographs whose captions the model is to
        draw, minus their rewards."""
        if isinstance(part, Seen):
            assert self.critic is not None
            return self.critic.losses(model, part, state)
        truncate, smoothing = self.config.training.truncate, self.config.training.label_smoothing
        return taught(model, model.encode(part.photos), part, state, truncate, smoothing)

    def validate(self, model: EncoderDecoder, data: PreparedCaptions, rank: int, size: int) -> Share:
        """Loss under teacher forcing and its targets; what the model really writes, greedily, and the references."""
        model.eval()
        corpus, missing = data.split("validation"), data.pictures.features("validation").missing
        total, tokens = self._validation_loss(model, data, rank, size)
        rows = [row for row in range(len(corpus.names)) if row not in missing][rank::size]
        strategy = Greedy(max_length=self.decoding.max_length, precision=resolve_precision(self.decoding))
        addresses = [address("validation", row, corpus.names[row]) for row in rows]
        references = corpus.texts()
        return total, tokens, self.predict(model, addresses, strategy), [references[row] for row in rows]

    @torch.inference_mode()
    def _validation_loss(
        self, model: EncoderDecoder, data: PreparedCaptions, rank: int, size: int
    ) -> tuple[float, int]:
        device = next(model.parameters()).device
        corpus = data.split("validation")
        there = corpus.without(data.pictures.features("validation").missing)
        total, tokens = 0.0, 0
        for batch in self._batches(data, "validation", there, int(corpus.lengths.max()), seed=0, epoch=0):
            if part := batch.part(rank, size):
                part = part.to(device)
                memory, owners, part, _ = arranged(model, model.encode(part.photos), part)
                total += float(
                    model.loss(memory, part.decoder_inputs, part.targets, part.mask, source_index=owners).double()
                )
                tokens += int(part.mask.sum())
        return total, tokens

    def scores(self, shares: Sequence[Share]) -> dict[str, float]:
        """Loss, perplexity, and every metric of the evaluation on greedy outputs; in self-critical training the loss is
        minus their CIDEr-D, in the unit of rewards."""
        losses, tokens, outputs, references = zip(*shares, strict=True)
        loss = sum(losses) / sum(tokens)
        scores = self.score(interleaved(outputs), interleaved(references))
        aim = loss if self.critic is None else -scores["cider_d"] / 100
        return {"loss": aim, "perplexity": float(Perplexity.of_loss(loss))} | {
            name: scores[name] for name in self.shown
        }

    def texts(self, split: str) -> tuple[list[str], list[list[str]]]:
        """Opens a split: addresses of the photographs that can be read, and the captions of each as the field compares
        them."""
        captioned, missing = open_captions(self.config.data, split), self.pictures.features(split).missing
        rows = [row for row in range(len(captioned)) if row not in missing]
        if not rows:
            source = self.config.data.source
            raise UserError(f"data.source: {source}, split {split!r} has no photograph that can be read.")
        addresses = [address(split, row, captioned.names[row]) for row in rows]
        return addresses, [[normal(text) for text in captioned.captions[row]] for row in rows]

    def unreadable(self, split: str) -> dict[str, str]:
        """Why photographs of a split cannot be read, by name."""
        return dict(self.pictures.features(split).unreadable.values())

    def files(self, names: Sequence[str]) -> list[str]:
        """The photographs themselves, a folder by those in it."""
        return files(names)

    def photo(self, name: str, least: int = 0) -> Image.Image:
        """The photograph that an input names."""
        return self.pictures.photo(name, least)

    def check(self, strategy: Strategy) -> None:
        """Raises `UserError` if `decoding` or the model do not go with the strategy."""
        if strategy.length_factor is not None:
            raise UserError("decoding.length_factor wants inputs of so many tokens, and photographs have none; null.")
        attends = self.config.model.decoder.conditioning == "attention"
        if isinstance(strategy, Beam) and strategy.coverage_penalty > 0 and not attends:
            raise UserError(
                "beam.coverage_penalty wants attention, but model.decoder.conditioning is "
                f"{self.config.model.decoder.conditioning!r}; set it to 0."
            )

    def predict(
        self, model: EncoderDecoder, inputs: Sequence[str], strategy: Strategy, numbers: Sequence[int] | None = None
    ) -> list[str]:
        """Describes photographs, given by their address in the data or by their files."""
        return [answer.text for answer in self.answers(model, inputs, strategy, numbers)]

    @torch.inference_mode()
    def answers(
        self, model: EncoderDecoder, inputs: Sequence[str], strategy: Strategy, numbers: Sequence[int] | None = None
    ) -> list[Output]:
        """Describes photographs, `decoding.batch` at a time."""
        model.eval()
        device, size = next(model.parameters()).device, self.config.decoding.batch
        banned = self.vocabulary.encode(self.config.decoding.banned)
        ids = list(range(len(inputs)) if numbers is None else numbers)
        found: list[Output] = []
        for start in range(0, len(inputs), size):
            chosen = slice(start, start + size)
            memory = model.encode(self.pictures.named(inputs[chosen]).to(device))
            decoded = decode(
                model,
                memory,
                strategy,
                begin=BEGIN,
                end=END,
                forbidden=(PAD, BEGIN, UNKNOWN),
                sentence_ids=ids[chosen],
                banned=banned,
            )
            found += make_outputs(
                decoded, strategy, self.vocabulary.decode, length_limits(strategy, None, None, len(memory))
            )
        return found

    @torch.inference_mode()
    def attention(self, model: EncoderDecoder, text: str, output: str) -> Attended | None:
        """The weights over the positions, row by row of the grid, for the output's tokens and its end."""
        if not model.attends:
            return None
        model.eval()
        device = next(model.parameters()).device
        memory = model.encode(self.pictures.named([text]).to(device))
        (written,) = self.vocabulary.encode([output])
        state, weights = model.start(memory), []
        for token in (BEGIN, *written):
            _, state, seen = model.step_with_attention(torch.tensor([token], device=device), state, memory)
            weights.append([round(weight, 3) for weight in seen[0].tolist()])
        side = math.isqrt(self.shape.positions)
        places = [f"{row + 1},{column + 1}" for row in range(side) for column in range(side)]
        return Attended(places, self.vocabulary.tokens([*written, END]), weights)

    def score(self, predictions: Sequence[str], references: References) -> dict[str, Any]:
        """The metrics of `evaluation.metrics`."""
        return score(self.shown, predictions, references)


def _pictures(config: CaptioningConfig) -> Pictures:
    return Pictures(config, grid=config.model.decoder.conditioning == "attention")


def _both(lengths: np.ndarray) -> np.ndarray:
    """Lengths of captions as `plan` wants them: photographs are all of one size."""
    return np.stack([lengths, lengths], axis=1)
