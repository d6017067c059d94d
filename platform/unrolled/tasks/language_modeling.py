"""Language modelling: the next token of a text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unrolled.config.language_modeling import LanguageModelingConfig
from unrolled.data.lm_corpus import (
    VOCABULARY,
    Lanes,
    PlannedWindow,
    TextCorpus,
    WindowBatch,
    plan_windows,
    prepare_text,
)
from unrolled.data.sources import read_text
from unrolled.data.tokenizer import Vocabulary
from unrolled.decoding import Sample, Strategy, decode, make_outputs, resolve_auto, resolve_precision
from unrolled.errors import UserError
from unrolled.metrics import BitsPerCharacter, Perplexity, pairwise_scores
from unrolled.models import PRIME, LanguageModel, build_language_model
from unrolled.recurrence import Nest
from unrolled.recurrence import state as nest
from unrolled.tasks.base import GenerationTask, MetricResults, MetricTask, StepTraceTask, Table, WindowLoss
from unrolled.tasks.step_trace import STEPS, step_trace, visible

READ_STEPS = 256
"""Steps that an evaluation reads at a time: bounds the memory of the scores, changes no result."""
NO_END = -2
"""End symbol of texts that have no end of their own."""
BLOCK = 200
"""Units per block of the bootstrap: longer than the dependence between neighbouring losses."""
RESAMPLES = 1000
EXTREMES = 10
"""Rows of the tables of hard and easy units."""
MIN_OCCURRENCES = 20
"""Occurrences from which on a unit is ranked; fewer in a short text."""
PRIME_UNITS = 16
"""Units of the split that prime the report's samples."""


class LanguageModeling(GenerationTask, MetricTask, StepTraceTask):
    """A recurrent language model over one stream of characters, words or byte pairs.

    In training the stream is cut into lanes that are read in parallel in windows of `training.truncate` steps, with
    the state carried on and detached: truncated back-propagation through time (Williams & Peng 1990). Every window is
    one update, the classical form, or the windows of `training.sequence` steps are one together. An evaluation reads
    lanes of its own, from zero states, each to its end.
    """

    default_strategy = "sample"

    def __init__(self, config: LanguageModelingConfig, folder: Path) -> None:
        self.config, self.vocabulary = config, Vocabulary.load(folder / VOCABULARY, running_text=True)
        self.decoding = resolve_auto(config.decoding, config.training.precision)
        self.metric_names = ["bits_per_character", "perplexity"] if self.vocabulary.is_closed else ["perplexity"]

    @classmethod
    def prepare(cls, config: LanguageModelingConfig, fingerprint: str | None = None) -> TextCorpus:
        return prepare_text(config, fingerprint)

    def build_model(self) -> LanguageModel:
        return build_language_model(self.config.model, len(self.vocabulary))

    def describe(self, data: TextCorpus) -> tuple[str, str]:
        model, training = self.config.model, self.config.training
        inputs = "one-hot units" if model.embedding is None else f"embeddings of {model.embedding}"
        kind, sequence = self.config.data.vocabulary.kind, training.sequence
        update = "" if sequence is None else f", an update after {sequence:,}"
        return (
            f"{model.cell} {' + '.join([str(model.hidden)] * model.layers)} over {inputs}; lanes {training.lanes}, "
            f"truncated after {training.truncate} steps{update}",
            f"{self.config.data.source}: {len(data.split('train')):,} units to learn from, "
            f"{len(data.split('validation')):,} to validate; {kind} vocabulary of {len(self.vocabulary):,}",
        )

    def plan(self, data: TextCorpus, epoch: int) -> list[PlannedWindow]:
        """Returns windows of all lanes in the order of the text, the same in every epoch."""
        return plan_windows(data.split("train"), self.config.training.lanes, self.config.training.update_steps)

    def losses(self, model: LanguageModel, shard: WindowBatch, state: Nest) -> Iterator[WindowLoss]:
        """Yields the summed cross-entropy of the next units, and the initial state of the next window."""
        windows = list(shard.split(self.config.training.truncate))
        for window in windows:
            loss, state = model.loss(window.inputs, window.targets, state)
            state = nest.detach(state)
            yield WindowLoss(loss, state, last=window is windows[-1])

    def validate(self, model: LanguageModel, data: TextCorpus, rank: int, size: int) -> tuple[float, int]:
        """Returns the summed loss of some lanes of the validation text, and their number of units."""
        losses = self.evaluate_shard(model, data.split("validation"), rank, size)
        return float(sum(lane.sum(dtype=np.float64) for lane in losses)), sum(map(len, losses))

    def validation_scores(self, shards: Sequence[tuple[float, int]]) -> dict[str, float]:
        total, units = (sum(column) for column in zip(*shards, strict=True))
        return self._scores(total / units)

    def _scores(self, loss: float) -> dict[str, float]:
        """Returns a loss in nats per unit, also as bits per character and perplexity."""
        scores = {"loss": loss} | {
            metric.key: float(metric.from_loss(loss)) for metric in (BitsPerCharacter, Perplexity)
        }
        return {name: scores[name] for name in ("loss", *self.metric_names)}

    def open(self, split: str) -> np.ndarray:
        """Returns the tokens of a split."""
        text = read_text(self.config.data, split)
        units = self.vocabulary.encode_text(text, f"data.source: {self.config.data.source}, split {split!r}")
        if len(units) < 2:
            raise UserError(f"--split {split}: its text has less than two units: there is nothing to predict.")
        return units[: self.config.data.limit]

    def num_shards(self, data: np.ndarray) -> int:
        return Lanes.of_every_token(data, self.config.evaluation.lanes).count

    @torch.inference_mode()
    def evaluate_shard(self, model: LanguageModel, data: np.ndarray, rank: int, size: int) -> list[np.ndarray]:
        """Returns the loss of every unit but the first, one array per lane, of the lanes `rank::size`, float64."""
        model.eval()
        lanes = Lanes.of_every_token(data, self.config.evaluation.lanes)
        mine = range(rank, lanes.count, size)
        if not mine:
            return []
        device, state, parts = next(model.parameters()).device, None, []
        for start in range(0, lanes.steps, READ_STEPS):
            window = lanes.windows(mine, start, start + READ_STEPS).to(device)
            losses, state = model.losses(window.inputs, window.targets, state)
            parts.append(losses.double().cpu().numpy())
        lengths = [max(0, min(lanes.steps, len(data) - 1 - lane * lanes.steps)) for lane in mine]
        return [lane[:length] for lane, length in zip(np.concatenate(parts, axis=1), lengths, strict=True)]

    def summarize(self, model: LanguageModel, data: np.ndarray, shards: Sequence[list[np.ndarray]]) -> MetricResults:
        """Returns scores with intervals, samples at several temperatures, and the units that are hardest and easiest
        to predict."""
        # Shard r of n holds the lanes r::n; there are as many shards as lanes.
        losses = np.concatenate([lane for shard in shards for lane in shard])
        names = [self.vocabulary.decode_text([token]) for token in range(len(self.vocabulary))]
        return MetricResults(
            self._scores(float(losses.mean())),
            len(losses),
            self._intervals(losses) if len(losses) > BLOCK else {},
            _rows(data[1:], losses, names),
            _tables(data[1:], losses, names),
            self._samples(model, data),
        )

    def _intervals(self, losses: np.ndarray) -> dict[str, tuple[float, float]]:
        """Returns 95 % intervals of the scores by a bootstrap over non-overlapping blocks (Künsch 1989): neighbouring
        losses are dependent, those of blocks nearly independent."""
        cuts = np.arange(0, len(losses), BLOCK)
        sums, sizes = np.add.reduceat(losses, cuts), np.diff([*cuts, len(losses)])
        blocks = np.random.default_rng(1).integers(len(cuts), size=(RESAMPLES, len(cuts)))
        ends = np.percentile(sums[blocks].sum(1) / sizes[blocks].sum(1), [2.5, 97.5]).tolist()
        low, high = (self._scores(end) for end in ends)
        return {name: (low[name], high[name]) for name in low}

    def _samples(self, model: LanguageModel, data: np.ndarray) -> list[tuple[str, str]]:
        settings, decoding = self.config.evaluation, self.decoding
        prime = settings.prime or self.vocabulary.decode_text(data[:PRIME_UNITS].tolist())
        options = decoding.sample.model_dump()
        options |= {"max_length": decoding.max_length, "precision": resolve_precision(decoding)}
        return [
            (f"Temperature {t:g}", self.predict(model, [prime], Sample(**options | {"temperature": t}))[0])
            for t in settings.temperatures
        ]

    @torch.inference_mode()
    def predict(
        self, model: LanguageModel, inputs: Sequence[str], strategy: Strategy, example_ids: Sequence[int] | None = None
    ) -> list[str]:
        """Continues prime texts by `strategy.max_length` units; returns both together."""
        model.eval()
        device = next(model.parameters()).device
        encode = self.vocabulary.encode_text
        banned = [encode(words, "decoding.banned").tolist() for words in self.config.decoding.banned]

        def to_texts(rows: list[list[int]]) -> list[str]:
            return [self.vocabulary.decode_text(row) for row in rows]

        texts = []
        for i, text in enumerate(inputs):
            if not text:
                raise UserError("the prime text is empty: give the model one character or more to continue.")
            tokens = encode(text, f"prime text {text[:30]!r}").astype(np.int64)
            decoded = decode(
                model,
                model.prime(torch.from_numpy(tokens).to(device)[None]),
                strategy,
                begin=PRIME,
                end=NO_END,
                forbidden=self.vocabulary.special_ids,
                sentence_ids=[i if example_ids is None else example_ids[i]],
                banned=banned,
            )
            (output,) = make_outputs(decoded, strategy, to_texts, [strategy.max_length], pairwise_scores)
            texts.append(text + output.text)
        return texts

    def step_trace(self, model: LanguageModel, text: str | None) -> str:
        """As `step_trace`; the default is the beginning of the training text."""
        return step_trace(model, self.vocabulary, text or read_text(self.config.data, "train")[: STEPS + 1])


def _rows(units: np.ndarray, losses: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the rows of outputs.jsonl: blocks of the text, each with its mean loss."""
    return [
        {
            "index": index,
            "text": "".join(names[unit] for unit in units[start : start + BLOCK]),
            "loss": round(float(losses[start : start + BLOCK].mean()), 4),
        }
        for index, start in enumerate(range(0, len(units), BLOCK))
    ]


def _tables(units: np.ndarray, losses: np.ndarray, names: Sequence[str]) -> list[Table]:
    counts = np.bincount(units, minlength=len(names))
    sums = np.bincount(units, weights=losses, minlength=len(names))
    least = min(MIN_OCCURRENCES, int(counts.max()))
    ranked = sorted(np.flatnonzero(counts >= least).tolist(), key=lambda unit: sums[unit] / counts[unit])
    ranked = [unit for unit in ranked if counts[unit]]
    half = min(EXTREMES, -(-len(ranked) // 2))

    def row(unit: int) -> list[str]:
        return [visible(names[unit]), f"{counts[unit]:,}", f"{sums[unit] / counts[unit]:.3f}"]

    columns, note = ["Unit", "Occurrences", "Mean loss (nats)"], f"Of the units that occur {least} times or more."
    return [
        Table("Hardest to foresee", note, columns, [row(unit) for unit in ranked[::-1][:half]]),
        Table("Easiest to foresee", note, columns, [row(unit) for unit in ranked[: len(ranked) - half][:half]]),
    ]
