"""Translation: text in, text out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unrolled.config.translation import TranslationConfig
from unrolled.data.batching import Batch, collate, collate_inputs, padding_fraction, plan
from unrolled.data.parallel_corpus import ParallelCorpus, ParallelSplit, TargetLengths, Vocabularies, prepare_pairs
from unrolled.data.sources import read_pairs
from unrolled.data.tokenizer import BEGIN, END, PAD, UNKNOWN
from unrolled.decoding import Beam, DecodeResult, Output, Strategy, decode, length_limits, make_outputs, resolve_auto
from unrolled.errors import UserError
from unrolled.metrics import pairwise_scores
from unrolled.models import EncoderDecoder, EncoderOutput, build_translator
from unrolled.recurrence import Nest
from unrolled.tasks.base import (
    AttentionMap,
    Seq2SeqTask,
    ValidationShard,
    WindowLoss,
    attention_weights,
    decoder_losses,
    greedy_strategy,
)


@dataclass(frozen=True)
class PairBatch:
    """A global batch: the examples `indices` of a tokenised split."""

    corpus: ParallelSplit
    indices: np.ndarray

    @property
    def tokens(self) -> int:
        return int(self.corpus.lengths[self.indices, 1].sum())

    def shard(self, rank: int, size: int) -> Batch | None:
        mine = self.indices[rank::size]
        return collate(self.corpus.tokens("input", mine), self.corpus.tokens("target", mine)) if len(mine) else None


class Translation(Seq2SeqTask):
    """An encoder–decoder between the two columns of the data."""

    default_strategy = "beam"

    def __init__(self, config: TranslationConfig, folder: Path) -> None:
        self.config, self.vocabularies = config, Vocabularies.load(folder)
        self.metric_names = config.evaluation.metrics
        longest = TargetLengths.load(folder)
        factor = None if longest is None else longest.factor(config.decoding.length_offset)
        self.decoding = resolve_auto(config.decoding, config.training.precision, factor)

    @classmethod
    def prepare(cls, config: TranslationConfig, fingerprint: str | None = None) -> ParallelCorpus:
        return prepare_pairs(config.data, fingerprint)

    def build_model(self) -> EncoderDecoder:
        return build_translator(self.config.model, len(self.vocabularies.input), len(self.vocabularies.target))

    def describe(self, data: ParallelCorpus) -> tuple[str, str]:
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

    def plan(self, data: ParallelCorpus, epoch: int) -> list[PairBatch]:
        """Returns batches of similar lengths within the token budget."""
        corpus = data.split("train")
        return self._plan(corpus, self.config.data.max_length, seed=self.config.seed, epoch=epoch)

    def _plan(self, corpus: ParallelSplit, max_length: int, *, seed: int, epoch: int) -> list[PairBatch]:
        batch_tokens = self.config.training.batch_tokens
        planned = plan(corpus.lengths, batch_tokens=batch_tokens, max_length=max_length, seed=seed, epoch=epoch)
        return [PairBatch(corpus, indices) for indices in planned]

    def losses(self, model: EncoderDecoder, shard: Batch, state: Nest) -> Iterator[WindowLoss]:
        """Yields the summed cross-entropy of every target token given those before it (teacher forcing)."""
        truncate, smoothing = self.config.training.truncate, self.config.training.label_smoothing
        if truncate is not None and truncate >= max(shard.inputs.shape[1], shard.decoder_inputs.shape[1]):
            truncate = None
        memory = model.encode(shard.inputs, shard.input_mask, truncate)
        decoder_batch = shard.decoder_inputs, shard.targets, shard.target_mask
        return decoder_losses(model, memory, *decoder_batch, state, truncate, smoothing)

    def validate(self, model: EncoderDecoder, data: ParallelCorpus, rank: int, size: int) -> ValidationShard:
        model.eval()
        corpus = data.split("validation")
        total, targets = self._validation_loss(model, corpus, rank, size)
        inputs, references = (texts[rank::size] for texts in corpus.texts())
        return total, targets, self.predict(model, inputs, greedy_strategy(self.decoding)), references

    @torch.inference_mode()
    def _validation_loss(self, model: EncoderDecoder, corpus: ParallelSplit, rank: int, size: int) -> tuple[float, int]:
        device, total, targets = next(model.parameters()).device, 0.0, 0
        for batch in self._plan(corpus, int(corpus.lengths.max()), seed=0, epoch=0):
            if shard := batch.shard(rank, size):
                shard = shard.to(device)
                memory = model.encode(shard.inputs, shard.input_mask)
                total += float(model.loss(memory, shard.decoder_inputs, shard.targets, shard.target_mask).double())
                targets += int(shard.target_mask.sum())
        return total, targets

    def examples(self, split: str) -> tuple[list[str], list[str]]:
        """Returns both columns of a split; `train`, `validation` and `test` are looked up in `data.splits`."""
        names = self.config.data.splits.model_dump()
        return read_pairs(self.config.data, names.get(split, split))

    def check_strategy(self, strategy: Strategy) -> None:
        settings, name = self.config.decoding, strategy.name()
        (prefix,) = self._encode_known([settings.prefix], "prefix")
        beam = strategy if isinstance(strategy, Beam) else None
        if self._encode_known(settings.required, "required") and (beam is None or beam.groups > 1):
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

    @torch.inference_mode()
    def decode(
        self, model: EncoderDecoder, inputs: Sequence[str], strategy: Strategy, example_ids: Sequence[int] | None = None
    ) -> list[Output]:
        """Translates texts, those of similar length together, `decoding.batch` at a time."""
        model.eval()
        device = next(model.parameters()).device
        settings, target = self.config.decoding, self.vocabularies.target
        tokens = self.vocabularies.input.encode(inputs)
        order = sorted(range(len(inputs)), key=lambda i: len(tokens[i]))
        banned = target.encode(settings.banned)
        (prefix,) = self._encode_known([settings.prefix], "prefix")
        # The greedy decoding of a validation takes no required words.
        required = self._encode_known(settings.required, "required") if isinstance(strategy, Beam) else []
        outputs: dict[int, Output] = {}
        for start in range(0, len(order), settings.batch):
            batch = order[start : start + settings.batch]
            padded, mask = collate_inputs([tokens[i] for i in batch])
            lengths = [len(tokens[i]) for i in batch]
            memory = model.encode(padded.to(device), mask.to(device))
            decoded = decode(
                model,
                memory,
                strategy,
                begin=BEGIN,
                end=END,
                forbidden=(PAD, BEGIN) if settings.replace_unknown else (PAD, BEGIN, UNKNOWN),
                input_lengths=lengths,
                sentence_ids=[i if example_ids is None else example_ids[i] for i in batch],
                banned=banned,
                prefixes=[prefix] * len(batch),
                required=[required] * len(batch) if required else None,
            )
            limits = length_limits(strategy, None, lengths, len(batch))
            to_texts: Callable[[Sequence[Sequence[int]]], list[str]] = target.decode
            if settings.replace_unknown:
                to_texts = copying_decoder(model, memory, [inputs[i] for i in batch], decoded, self.vocabularies)
            outputs |= zip(batch, make_outputs(decoded, strategy, to_texts, limits, pairwise_scores), strict=True)
        return [outputs[i] for i in range(len(inputs))]

    @torch.inference_mode()
    def attention(self, model: EncoderDecoder, text: str, output: str) -> AttentionMap | None:
        """Returns the weights of the text's tokens and its end, for the output's tokens and its end."""
        if not model.attends:
            return None
        model.eval()
        device = next(model.parameters()).device
        (inputs,), (outputs,) = self.vocabularies.input.encode([text]), self.vocabularies.target.encode([output])
        padded, mask = collate_inputs([inputs])
        memory = model.encode(padded.to(device), mask.to(device))
        names = self.vocabularies.input.tokens(padded[0].tolist()), self.vocabularies.target.tokens([*outputs, END])
        return AttentionMap(*names, attention_weights(model, memory, outputs))

    def _encode_known(self, texts: Sequence[str], key: str) -> list[list[int]]:
        """Encodes texts of the setting `decoding.key`; raises `UserError` for those with unknown words."""
        rows = self.vocabularies.target.encode(texts)
        for text, tokens in zip(texts, rows, strict=True):
            if UNKNOWN in tokens:
                raise UserError(f"decoding.{key}: the target vocabulary cannot write all of {text!r}.")
        return rows


def copying_decoder(
    model: EncoderDecoder,
    memory: EncoderOutput,
    inputs: Sequence[str],
    decoded: DecodeResult,
    vocabularies: Vocabularies,
) -> Callable[[Sequence[Sequence[int]]], list[str]]:
    """Returns a function from the tokens of all hypotheses, in order, to texts without unknown words.

    An unknown word is replaced by the input word with the largest attention weight when it was written (Luong et al.
    2015, "Addressing the rare word problem in neural machine translation"; with attention in place of their alignments
    Jean et al. 2015, section 3.3). `memory` is the encoder output of the inputs.
    """
    owners = [sentence for sentence, hypotheses in enumerate(decoded.hypotheses) for _ in hypotheses]
    target, units = vocabularies.target, vocabularies.input.surface_tokens(inputs)

    def to_texts(rows: Sequence[Sequence[int]]) -> list[str]:
        texts = target.decode(rows)
        indices = [i for i, row in enumerate(rows) if UNKNOWN in row and units[owners[i]]]
        if not indices:
            return texts
        sentences = [owners[i] for i in indices]
        lengths = [len(units[sentence]) for sentence in sentences]
        aligned = _align(model, memory, sentences, lengths, [rows[i] for i in indices])
        for i, sentence, positions in zip(indices, sentences, aligned.tolist(), strict=True):
            names = target.tokens(rows[i])
            copied = [units[sentence][position] for position in positions[: len(names)]]
            triples = zip(rows[i], names, copied, strict=True)
            texts[i] = target.detokenize([unit if token == UNKNOWN else name for token, name, unit in triples])
        return texts

    return to_texts


def _align(
    model: EncoderDecoder,
    memory: EncoderOutput,
    sentences: Sequence[int],
    lengths: Sequence[int],
    rows: Sequence[Sequence[int]],
) -> Tensor:
    """Returns the input position with the largest attention weight, end symbol excluded, for each token of the rows,
    `(rows, longest)`.

    Args:
        sentences: input of each row.
        lengths: input tokens of each row, without the end symbol.
    """
    device = memory.mask.device
    own = memory.select(torch.tensor(sentences, device=device))
    longest = max(map(len, rows))
    before = torch.tensor([[BEGIN, *row, *[END] * (longest - len(row))] for row in rows], device=device)
    outside = torch.arange(own.mask.shape[1], device=device) >= torch.tensor(lengths, device=device)[:, None]
    state, aligned = model.start(own), []
    for step in range(longest):
        _, state, weights = model.step_outputs(before[:, step], state, own)
        assert weights is not None
        aligned.append(weights.masked_fill(outside, -1).argmax(1))
    return torch.stack(aligned, dim=1)
