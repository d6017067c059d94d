"""Language modelling: what comes next in a text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from unrolled.config.language_modeling import LanguageModelingConfig
from unrolled.data.stream import Lanes, PreparedText, Window, Windows, plan_windows, prepare_text
from unrolled.data.symbols import Symbols
from unrolled.data.text import read_text
from unrolled.decoding import Strategy, answers, as_trained, decode
from unrolled.errors import UserError
from unrolled.metrics import BitsPerCharacter, Perplexity
from unrolled.models import LanguageModel, build_language_model
from unrolled.models.language_model import PRIME
from unrolled.recurrence import state as nest
from unrolled.recurrence.state import Nest
from unrolled.tasks.explanation import STEPS, explain
from unrolled.tasks.findings import Findings
from unrolled.tasks.language_findings import find
from unrolled.tasks.task import Piece

READ = 256
"""Steps that an examination reads at a time: bounds the memory of the scores, changes no result."""


class LanguageModeling:
    """A recurrent language model over one stream of characters, words or byte pairs.

    In training the stream is cut into lanes that are read side by side in windows of `training.truncate` steps, the
    state carried on and cut from the graph: truncated back-propagation through time (Williams & Peng 1990). Every
    window is an update, the classical form, or the windows of `training.sequence` steps are one. An examination reads
    lanes of its own, from empty states, each to its end.
    """

    default_strategy = "sample"

    def __init__(self, config: LanguageModelingConfig, folder: Path) -> None:
        self.config, self.symbols = config, Symbols.load(folder / "symbols.json")
        self.decoding = as_trained(config.decoding, config.training.precision)
        self.shown = ["bits_per_character", "perplexity"] if self.symbols.characters else ["perplexity"]

    @classmethod
    def prepare(cls, config: LanguageModelingConfig, fingerprint: str | None = None) -> PreparedText:
        """Learns the vocabulary and numbers the training and validation text."""
        return prepare_text(config, fingerprint)

    def build_model(self) -> LanguageModel:
        """The model of the config's `model` section."""
        return build_language_model(self.config.model, len(self.symbols))

    def introduce(self, data: PreparedText) -> tuple[str, str]:
        """Cells and their input; units and vocabulary."""
        model, training = self.config.model, self.config.training
        reads = "one-hot units" if model.embedding is None else f"embeddings of {model.embedding}"
        kind, sequence = self.config.data.vocabulary.kind, training.sequence
        together = "" if sequence is None else f", an update after {sequence:,}"
        return (
            f"{model.cell} {' + '.join([str(model.hidden)] * model.layers)} over {reads}; lanes {training.lanes}, "
            f"truncated after {training.truncate} steps{together}",
            f"{self.config.data.source}: {len(data.split('train')):,} units to learn from, "
            f"{len(data.split('validation')):,} to validate; {kind} vocabulary of {len(self.symbols):,}",
        )

    def plan(self, data: PreparedText, epoch: int) -> list[Window]:
        """Windows of all lanes in the order of the text, the same in every epoch."""
        return plan_windows(data.split("train"), self.config.training.lanes, self.config.training.update_steps)

    def losses(self, model: LanguageModel, part: Windows, state: Nest) -> Iterator[Piece]:
        """Cross-entropy of the next units, summed, and the state that the next window begins with."""
        windows = list(part.split(self.config.training.truncate))
        for window in windows:
            loss, state = model.loss(window.inputs, window.targets, state)
            state = nest.detach(state)
            yield Piece(loss, state, last=window is windows[-1])

    def validate(self, model: LanguageModel, data: PreparedText, rank: int, size: int) -> tuple[float, int]:
        """The summed loss of some lanes of the validation text, and its units."""
        units = data.split("validation")
        losses = self.examine(model, units, rank, size)
        return float(sum(lane.sum(dtype=np.float64) for lane in losses)), sum(map(len, losses))

    def scores(self, shares: Sequence[tuple[float, int]]) -> dict[str, float]:
        """Loss in nats a unit, bits per character where the units are characters, and perplexity."""
        total, units = (sum(column) for column in zip(*shares, strict=True))
        return self.in_all_units(total / units)

    def in_all_units(self, loss: float) -> dict[str, float]:
        """A loss in nats a unit, and the same as bits per character and perplexity."""
        scores = {"loss": loss} | {metric.key: float(metric.of_loss(loss)) for metric in (BitsPerCharacter, Perplexity)}
        return {name: scores[name] for name in ("loss", *self.shown)}

    def open(self, split: str) -> np.ndarray:
        """Opens the numbers of a split's text."""
        text = read_text(self.config.data, split)
        units = self.symbols.encode(text, f"data.source: {self.config.data.source}, split {split!r}")
        if len(units) < 2:
            raise UserError(f"--split {split}: its text has less than two units: there is nothing to predict.")
        return units[: self.config.data.limit]

    def shares(self, data: np.ndarray) -> int:
        """The lanes of an examination."""
        return Lanes.complete(data, self.config.evaluation.lanes).count

    @torch.inference_mode()
    def examine(self, model: LanguageModel, data: np.ndarray, rank: int, size: int) -> list[np.ndarray]:
        """The loss of every unit but the first, float64, an array a lane, of the lanes `rank::size`."""
        model.eval()
        cut = Lanes.complete(data, self.config.evaluation.lanes)
        mine = range(rank, cut.count, size)
        if not mine:
            return []
        device, state, read = next(model.parameters()).device, None, []
        for start in range(0, cut.steps, READ):
            window = cut.windows(mine, start, start + READ).to(device)
            losses, state = model.losses(window.inputs, window.targets, state)
            read.append(losses.double().cpu().numpy())
        together = np.concatenate(read, axis=1)
        lengths = [max(0, min(cut.steps, len(data) - 1 - lane * cut.steps)) for lane in mine]
        return [lane[:length] for lane, length in zip(together, lengths, strict=True)]

    def findings(self, model: LanguageModel, data: np.ndarray, shares: Sequence[list[np.ndarray]]) -> Findings:
        """Scores with intervals, samples at several temperatures, and the units that are hard and easy to foresee."""
        return find(self, model, data, np.concatenate([lane for share in shares for lane in share]))

    @torch.inference_mode()
    def predict(
        self, model: LanguageModel, inputs: Sequence[str], strategy: Strategy, numbers: Sequence[int] | None = None
    ) -> list[str]:
        """Continues prime texts by `strategy.max_length` units; returns both together."""
        model.eval()
        device = next(model.parameters()).device
        outputs = []
        banned = [self.symbols.encode(words, "decoding.banned").tolist() for words in self.config.decoding.banned]

        def write(rows: list[list[int]]) -> list[str]:
            return [self.symbols.decode(row) for row in rows]

        for place, text in enumerate(inputs):
            prime = torch.from_numpy(self._prime(text).astype(np.int64)).to(device)[None]
            number = place if numbers is None else numbers[place]
            decoded = decode(
                model,
                model.prime(prime),
                strategy,
                begin=PRIME,
                end=-2,  # a text has no end of its own
                forbidden=self.symbols.never_written,
                sentence_ids=[number],
                banned=banned,
            )
            (answer,) = answers(decoded, strategy, write, [strategy.max_length])
            outputs.append(text + answer.text)
        return outputs

    def _prime(self, text: str) -> np.ndarray:
        if not text:
            raise UserError("the prime text is empty: give the model one character or more to continue.")
        return self.symbols.encode(text, f"prime text {text[:30]!r}")

    def explain(self, model: LanguageModel, text: str | None) -> str:
        """What the model computes for a text, or for the beginning of the training text, step by step."""
        return explain(model, self.symbols, text or read_text(self.config.data, "train")[: STEPS + 1])
