"""Translation: text in, text out.

Unknown words of outputs, replaced by the word of the input that attention looked at most when they were written
(Luong et al. 2015, "Addressing the rare word problem in neural machine translation"; with attention in the place of
their alignments Jean et al. 2015, section 3.3).

Translation: text in, text out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unrolled.config.translation import TranslationConfig
from unrolled.data.batching import Batch, collate, collate_inputs, padding_fraction, plan
from unrolled.data.parallel_corpus import ParallelCorpus, ParallelSplit, TargetLengths, Vocabularies, prepare_pairs
from unrolled.data.sources import read_pairs
from unrolled.data.tokenizer import BEGIN, END, PAD, UNKNOWN
from unrolled.decoding import (
    Beam,
    DecodeResult,
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
from unrolled.metrics import Perplexity, References, score
from unrolled.models import EncoderDecoder, EncoderOutput, build_translator
from unrolled.recurrence.state import Nest
from unrolled.tasks.base import Attended, WindowLoss, interleaved


def copying(
    model: EncoderDecoder,
    memory: EncoderOutput,
    inputs: Sequence[str],
    decoded: DecodeResult,
    vocabularies: Vocabularies,
) -> Callable[[Sequence[Sequence[int]]], list[str]]:
    """Returns what turns the tokens of all that was decoded, in order, into texts without unknown words.

    Args:
        memory: of the inputs.
    """
    owners = [number for number, found in enumerate(decoded.hypotheses) for _ in found]
    target, units = vocabularies.target, vocabularies.input.surface_tokens(inputs)

    def write(rows: Sequence[Sequence[int]]) -> list[str]:
        texts = target.decode(rows)
        places = [place for place, row in enumerate(rows) if UNKNOWN in row and units[owners[place]]]
        if not places:
            return texts
        sentences = [owners[place] for place in places]
        lengths = [len(units[sentence]) for sentence in sentences]
        looked = _looked(model, memory, sentences, lengths, [rows[place] for place in places])
        for place, sentence, positions in zip(places, sentences, looked.tolist(), strict=True):
            names = target.tokens(rows[place])
            copied = [units[sentence][position] for position in positions[: len(names)]]
            pairs = zip(rows[place], names, copied, strict=True)
            texts[place] = target.detokenize([unit if token == UNKNOWN else name for token, name, unit in pairs])
        return texts

    return write


def _looked(
    model: EncoderDecoder,
    memory: EncoderOutput,
    sentences: Sequence[int],
    lengths: Sequence[int],
    rows: Sequence[Sequence[int]],
) -> Tensor:
    """Returns where in the input, its end left out, attention has most weight when each token of the rows is written,
    `(rows, longest)`."""
    device = memory.mask.device
    own = memory.select(torch.tensor(sentences, device=device))
    longest = max(map(len, rows))
    before = torch.tensor([[BEGIN, *row, *[END] * (longest - len(row))] for row in rows], device=device)
    outside = torch.arange(own.mask.shape[1], device=device) >= torch.tensor(lengths, device=device)[:, None]
    state, found = model.start(own), []
    for step in range(longest):
        _, state, weights = model.step_outputs(before[:, step], state, own)
        assert weights is not None
        found.append(weights.masked_fill(outside, -1).argmax(1))
    return torch.stack(found, dim=1)


@dataclass(frozen=True)
class Pairs:
    """A global batch: the examples `indices` of a tokenised split."""

    corpus: ParallelSplit
    indices: np.ndarray

    @property
    def tokens(self) -> int:
        return int(self.corpus.lengths[self.indices, 1].sum())

    def part(self, rank: int, size: int) -> Batch | None:
        mine = self.indices[rank::size]
        return collate(*self.corpus.tokens(mine)) if len(mine) else None


class Translation:
    """An encoder–decoder between the two columns of the data."""

    default_strategy = "beam"

    def __init__(self, config: TranslationConfig, folder: Path) -> None:
        self.config, self.vocabularies = config, Vocabularies.load(folder)
        self.shown = config.evaluation.metrics
        longest = TargetLengths.load(folder)
        factor = None if longest is None else longest.factor(config.decoding.length_offset)
        self.decoding = resolve_auto(config.decoding, config.training.precision, factor)

    @classmethod
    def prepare(cls, config: TranslationConfig, fingerprint: str | None = None) -> ParallelCorpus:
        """Learns vocabularies and tokenises the training and validation split."""
        return prepare_pairs(config.data, fingerprint)

    def build_model(self) -> EncoderDecoder:
        """The model of the config's `model` section."""
        return build_translator(self.config.model, len(self.vocabularies.input), len(self.vocabularies.target))

    def introduce(self, data: ParallelCorpus) -> tuple[str, str]:
        """Cells, sizes and conditioning; pairs, vocabulary and what of the first epoch's batches is padding."""
        encoder, decoder, words = self.config.model.encoder, self.config.model.decoder, self.vocabularies
        sees = f"{decoder.attention.score} attention" if decoder.conditioning == "attention" else "the summary alone"
        both = "bidirectional " if encoder.bidirectional else ""
        shared = self.config.data.vocabulary.shared
        size = f"{len(words.input):,} shared" if shared else f"{len(words.input):,} + {len(words.target):,}"
        lengths, batches = data.split("train").lengths, [batch.indices for batch in self.plan(data, epoch=0)]
        learned = sum(map(len, batches))
        long = f" ({len(lengths) - learned:,} too long)" if learned < len(lengths) else ""
        return (
            f"{both}{encoder.cell} {encoder.hidden} → {decoder.cell} {decoder.hidden} with {sees}",
            f"{self.config.data.source}: {learned:,} pairs to learn from{long}, "
            f"{len(data.split('validation')):,} to validate; {self.config.data.vocabulary.kind} vocabulary of {size}; "
            f"padding {100 * padding_fraction(lengths, batches):.1f} %",
        )

    def plan(self, data: ParallelCorpus, epoch: int) -> list[Pairs]:
        """Batches of similar length within the token budget."""
        training, corpus = self.config.training, data.split("train")
        limits = {"batch_tokens": training.batch_tokens, "max_length": self.config.data.max_length}
        return [
            Pairs(corpus, indices) for indices in plan(corpus.lengths, **limits, seed=self.config.seed, epoch=epoch)
        ]

    def losses(self, model: EncoderDecoder, part: Batch, state: Nest) -> Iterator[WindowLoss]:
        """Cross-entropy of every target token given those before it (teacher forcing), summed."""
        truncate, smoothing = self.config.training.truncate, self.config.training.label_smoothing
        if truncate is None or truncate >= max(part.inputs.shape[1], part.decoder_inputs.shape[1]):
            yield WindowLoss(self._loss(model, part, smoothing), state, last=True)
            return
        memory = model.encode(part.inputs, part.input_mask, truncate)
        leaf = memory.detach_leaf()
        for loss in model.window_losses(leaf, part.decoder_inputs, part.targets, part.target_mask, smoothing, truncate):
            yield WindowLoss(loss, state)
        yield WindowLoss(memory.backward_into_encoder(leaf), state, last=True)

    def _loss(self, model: EncoderDecoder, part: Batch, smoothing: float = 0.0) -> Tensor:
        memory = model.encode(part.inputs, part.input_mask)
        return model.loss(memory, part.decoder_inputs, part.targets, part.target_mask, smoothing)

    def validate(
        self, model: EncoderDecoder, data: ParallelCorpus, rank: int, size: int
    ) -> tuple[float, int, list[str], list[str]]:
        """Loss under teacher forcing and its targets; what the model really writes, greedily, and the references."""
        model.eval()
        corpus = data.split("validation")
        total, tokens = self._validation_loss(model, corpus, rank, size)
        inputs, references = (texts[rank::size] for texts in corpus.texts())
        strategy = Greedy(max_length=self.decoding.max_length, precision=resolve_precision(self.decoding))
        outputs = self.predict(model, inputs, strategy)
        return total, tokens, outputs, references

    @torch.inference_mode()
    def _validation_loss(self, model: EncoderDecoder, corpus: ParallelSplit, rank: int, size: int) -> tuple[float, int]:
        device = next(model.parameters()).device
        total, tokens, longest = 0.0, 0, int(corpus.lengths.max())
        limits = {"batch_tokens": self.config.training.batch_tokens, "max_length": longest}
        for indices in plan(corpus.lengths, **limits, seed=0, epoch=0):
            mine = Pairs(corpus, indices[rank::size])
            if part := mine.part(0, 1):
                total += float(self._loss(model, part.to(device)).double())
                tokens += mine.tokens
        return total, tokens

    def scores(self, shares: Sequence[tuple[float, int, list[str], list[str]]]) -> dict[str, float]:
        """Loss, perplexity, and every metric of the evaluation on greedy outputs."""
        losses, tokens, outputs, references = zip(*shares, strict=True)
        loss = sum(losses) / sum(tokens)
        scores = self.score(interleaved(outputs), interleaved(references))
        perplexity = float(Perplexity.of_loss(loss))
        return {"loss": loss, "perplexity": perplexity} | {name: scores[name] for name in self.shown}

    def texts(self, split: str) -> tuple[list[str], list[str]]:
        """Opens both columns of a split, `train`, `validation` and `test` by their names in `data.splits`."""
        names = self.config.data.splits.model_dump()
        return read_pairs(self.config.data, names.get(split, split))

    def check(self, strategy: Strategy) -> None:
        """Raises `UserError` if `decoding` or the model do not go with the strategy."""
        settings, name = self.config.decoding, strategy.name()
        (prefix,) = self._known([settings.prefix], "prefix")
        beam = strategy if isinstance(strategy, Beam) else None
        if self._known(settings.required, "required") and (beam is None or beam.groups > 1):
            what = name if beam is None else "several"
            raise UserError(f"decoding.required wants a beam search with one group, not {what}: leave one of them out.")
        if beam is not None and beam.coverage_penalty > 0 and self.config.model.decoder.conditioning == "state":
            raise UserError(
                "beam.coverage_penalty wants attention, but model.decoder.conditioning is 'state'; set it to 0."
            )
        if settings.replace_unknown and self.config.model.decoder.conditioning == "state":
            raise UserError(
                "decoding.replace_unknown wants attention, but model.decoder.conditioning is 'state'; set it to false."
            )
        if len(prefix) > strategy.max_length:
            raise UserError(
                f"decoding.prefix has {len(prefix)} tokens, more than {name}'s max_length, {strategy.max_length}."
            )

    def predict(
        self, model: EncoderDecoder, inputs: Sequence[str], strategy: Strategy, numbers: Sequence[int] | None = None
    ) -> list[str]:
        """Translates texts."""
        return [answer.text for answer in self.answers(model, inputs, strategy, numbers)]

    @torch.inference_mode()
    def answers(
        self, model: EncoderDecoder, inputs: Sequence[str], strategy: Strategy, numbers: Sequence[int] | None = None
    ) -> list[Output]:
        """Translates texts. Those of like length are decoded together, `decoding.batch` at a time."""
        model.eval()
        device = next(model.parameters()).device
        tokens = self.vocabularies.input.encode(inputs)
        order = sorted(range(len(inputs)), key=lambda i: len(tokens[i]))
        outputs: dict[int, Output] = {}
        target = self.vocabularies.target
        settings, banned = self.config.decoding, target.encode(self.config.decoding.banned)
        (prefix,) = self._known([settings.prefix], "prefix")
        # The greedy outputs of a validation do without.
        required = self._known(settings.required, "required") if isinstance(strategy, Beam) else []
        for start in range(0, len(order), self.config.decoding.batch):
            chosen = order[start : start + self.config.decoding.batch]
            padded, mask = collate_inputs([tokens[i] for i in chosen])
            lengths = [len(tokens[i]) for i in chosen]
            memory = model.encode(padded.to(device), mask.to(device))
            decoded = decode(
                model,
                memory,
                strategy,
                begin=BEGIN,
                end=END,
                forbidden=(PAD, BEGIN) if settings.replace_unknown else (PAD, BEGIN, UNKNOWN),
                input_lengths=lengths,
                sentence_ids=[i if numbers is None else numbers[i] for i in chosen],
                banned=banned,
                prefixes=[prefix] * len(chosen),
                required=[required] * len(chosen) if required else None,
            )
            limits = length_limits(strategy, None, lengths, len(chosen))
            copies = settings.replace_unknown
            texts = [inputs[i] for i in chosen]
            write = copying(model, memory, texts, decoded, self.vocabularies) if copies else target.decode
            outputs |= zip(chosen, make_outputs(decoded, strategy, write, limits), strict=True)
        return [outputs[i] for i in range(len(inputs))]

    @torch.inference_mode()
    def attention(self, model: EncoderDecoder, text: str, output: str) -> Attended | None:
        """The weights over the text's tokens and its end, for the output's tokens and its end."""
        if not model.attends:
            return None
        model.eval()
        device = next(model.parameters()).device
        (given,), (written,) = self.vocabularies.input.encode([text]), self.vocabularies.target.encode([output])
        padded, mask = collate_inputs([given])
        memory = model.encode(padded.to(device), mask.to(device))
        state, weights = model.start(memory), []
        for token in (BEGIN, *written):
            _, state, seen = model.step_with_attention(torch.tensor([token], device=device), state, memory)
            weights.append([round(weight, 3) for weight in seen[0].tolist()])
        names = self.vocabularies.input.tokens(padded[0].tolist()), self.vocabularies.target.tokens([*written, END])
        return Attended(*names, weights)

    def _known(self, texts: Sequence[str], key: str) -> list[list[int]]:
        """Tokens of what `decoding` wants written; raises `UserError` for what the vocabulary cannot write."""
        rows = self.vocabularies.target.encode(texts)
        for text, tokens in zip(texts, rows, strict=True):
            if UNKNOWN in tokens:
                raise UserError(f"decoding.{key}: the target vocabulary cannot write all of {text!r}.")
        return rows

    def score(self, predictions: Sequence[str], references: References) -> dict[str, Any]:
        """The metrics of `evaluation.metrics`, on detokenised text."""
        return score(self.shown, predictions, references)
