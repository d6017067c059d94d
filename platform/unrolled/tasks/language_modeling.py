"""Language modelling: the next token of a text.

What an examination of a language model found, for results.json and the report.

A character model's computation step by step, as on the lecture's slide: what it reads, feels, scores and loses.

Language modelling: what comes next in a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from unrolled.decoding import Sample, resolve_precision
from unrolled.models import LanguageModel
from unrolled.tasks.base import Findings, Table

if TYPE_CHECKING:
    pass
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

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
from unrolled.decoding import Strategy, decode, make_outputs, resolve_auto
from unrolled.errors import UserError
from unrolled.metrics import BitsPerCharacter, Perplexity
from unrolled.models import build_language_model
from unrolled.models.sequence_model import PRIME
from unrolled.recurrence import state as nest
from unrolled.recurrence.state import Nest
from unrolled.tasks.base import WindowLoss

WINDOW = 200
"""Units that a bootstrap draws together: longer than what one unit says about the next ones."""
SAMPLES = 1000
"""Texts that the bootstrap draws."""
EXTREMES = 10
"""Rows of the tables of hard and easy units."""
OFTEN = 20
"""A unit is ranked if it occurs so often, and less in a short text."""
PRIME_UNITS = 16


def find(task: LanguageModeling, model: LanguageModel, data: np.ndarray, losses: np.ndarray) -> Findings:
    """Sums up an examination.

    Args:
        data: the numbers of the split's units.
        losses: of every unit but the first, in nats, in the order of the text.
    """
    scores = task.in_all_units(float(losses.mean()))
    names = [task.vocabulary.decode_text([number]) for number in range(len(task.vocabulary))]
    return Findings(
        scores,
        len(losses),
        _intervals(task, losses) if len(losses) > WINDOW else {},
        [*_rows(data[1:], losses, names)],
        _tables(data[1:], losses, names),
        _samples(task, model, data),
    )


def _intervals(task: LanguageModeling, losses: np.ndarray) -> dict[str, tuple[float, float]]:
    """Returns the 95 % intervals of the scores by a bootstrap over windows (Künsch 1989, blocks that do not
    overlap): neighbouring units are not independent, windows nearly are."""
    cuts = np.arange(0, len(losses), WINDOW)
    sums, sizes = np.add.reduceat(losses, cuts), np.diff([*cuts, len(losses)])
    generator = np.random.default_rng(1)
    drawn = generator.integers(len(cuts), size=(SAMPLES, len(cuts)))
    ends = np.percentile(sums[drawn].sum(1) / sizes[drawn].sum(1), [2.5, 97.5]).tolist()
    low, high = (task.in_all_units(end) for end in ends)
    return {name: (low[name], high[name]) for name in low}


def _rows(units: np.ndarray, losses: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the rows of outputs.jsonl: the text in windows, each with its mean loss."""
    return [
        {
            "index": number,
            "text": "".join(names[unit] for unit in units[start : start + WINDOW]),
            "loss": round(float(losses[start : start + WINDOW].mean()), 4),
        }
        for number, start in enumerate(range(0, len(units), WINDOW))
    ]


def _tables(units: np.ndarray, losses: np.ndarray, names: Sequence[str]) -> list[Table]:
    counts = np.bincount(units, minlength=len(names))
    sums = np.bincount(units, weights=losses, minlength=len(names))
    often = min(OFTEN, int(counts.max()))
    ranked = sorted(np.flatnonzero(counts >= often).tolist(), key=lambda unit: sums[unit] / counts[unit])
    ranked = [unit for unit in ranked if counts[unit]]
    half = min(EXTREMES, -(-len(ranked) // 2))

    def row(unit: int) -> list[str]:
        return [shown(names[unit]), f"{counts[unit]:,}", f"{sums[unit] / counts[unit]:.3f}"]

    columns, note = ["Unit", "Occurrences", "Mean loss (nats)"], f"Of the units that occur {often} times or more."
    return [
        Table("Hardest to foresee", note, columns, [row(unit) for unit in ranked[::-1][:half]]),
        Table("Easiest to foresee", note, columns, [row(unit) for unit in ranked[: len(ranked) - half][:half]]),
    ]


def shown(unit: str) -> str:
    """Returns a unit so that it can be seen: spaces as ␣, newlines as ↵."""
    return unit.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥").replace("\r", "␍")


def _samples(task: LanguageModeling, model: LanguageModel, data: np.ndarray) -> list[tuple[str, str]]:
    settings = task.config.evaluation
    prime = settings.prime or task.vocabulary.decode_text(data[:PRIME_UNITS].tolist())
    decoding = task.decoding
    chosen = decoding.sample.model_dump()
    chosen |= {"max_length": decoding.max_length, "precision": resolve_precision(decoding)}
    return [
        (f"Temperature {t:g}", task.predict(model, [prime], Sample(**chosen | {"temperature": t}))[0])
        for t in settings.temperatures
    ]


COLUMNS = 100
LABEL, CELL = 12, 8
"""Characters of a row's name, and of a number."""
STEPS = (COLUMNS - LABEL) // CELL
"""Steps that stand side by side."""
MOST = 10
"""Rows of a vector that are shown."""


def explain(model: LanguageModel, vocabulary: Vocabulary, text: str) -> str:
    """Returns a table with a column a step: input, hidden vector, output scores (logits), softmax, target and loss.

    Raises:
        UserError: the units are not characters, or the text has less than two.
    """
    if not vocabulary.is_closed:
        raise UserError("--explain shows models of characters; this one reads words or parts of words.")
    numbers = torch.from_numpy(vocabulary.encode_text(text, f"text {text[:30]!r}").astype("int64"))
    if len(numbers) < 2:
        raise UserError(f"--explain needs two characters or more: {text!r} leaves nothing to predict.")
    device = next(model.parameters()).device
    steps = _steps(model, numbers.to(device))
    names = [_visible(name) for name in vocabulary.tokens(range(len(vocabulary)))]
    blocks = [
        _block(steps, range(start, min(start + STEPS, len(numbers) - 1)), numbers.tolist(), names)
        for start in range(0, len(numbers) - 1, STEPS)
    ]
    total = float(steps["loss"].sum())
    mean = total / (len(numbers) - 1)
    return "\n".join(
        [*("\n".join(block) + "\n" for block in blocks), f"sum of the losses {total:.4f} nats, mean {mean:.4f}"]
    )


@torch.inference_mode()
def _steps(model: LanguageModel, numbers: Tensor) -> dict[str, Tensor]:
    """Reads all characters but the last; every value is `(steps, …)` or `(steps,)`."""
    model.eval()
    hidden, _ = model(numbers[None, :-1])
    scores = torch.nn.functional.linear(hidden[0], model.head.weight, model.head.bias)
    logs = scores.log_softmax(-1)
    loss = -logs.gather(1, numbers[1:, None])[:, 0]
    inputs = model.embed(numbers[:-1])
    return {"input": inputs, "hidden": hidden[0], "scores": scores, "softmax": logs.exp(), "loss": loss}


def _block(steps: dict[str, Tensor], places: range, numbers: Sequence[int], names: Sequence[str]) -> list[str]:
    chosen = list(places)
    lines = [
        _row("step", [str(place + 1) for place in chosen]),
        _row("reads", [names[numbers[place]] for place in chosen]),
    ]
    for title, values, of in (
        ("input x", steps["input"], names),
        ("hidden h", steps["hidden"], None),
        ("scores o", steps["scores"], names),
        ("softmax ŷ", steps["softmax"], names),
    ):
        lines += ["", *_vector(title, values[chosen], of)]
    lines += [
        "",
        _row("target y", [names[numbers[place + 1]] for place in chosen]),
        _row("loss", [f"{float(steps['loss'][place]):.4f}" for place in chosen]),
    ]
    return lines


def _vector(title: str, values: Tensor, names: Sequence[str] | None) -> list[str]:
    """Rows of `values` `(steps, features)`, at most `MOST` of them."""
    features = values.shape[1]
    named = names is not None and len(names) == features
    lines = []
    for place in range(min(features, MOST)):
        name = names[place] if named and names is not None else str(place + 1)
        numbers = [float(value) for value in values[:, place]]
        whole = all(number in (0.0, 1.0) for number in numbers)
        label = f"{title if place == 0 else '':<{LABEL - 2}}{name:>2}"
        lines.append(
            _row(label, [f"{number:.0f}" if whole and title == "input x" else f"{number:.4f}" for number in numbers])
        )
    if features > MOST:
        lines.append(f"{'':<{LABEL - 2}} … {features - MOST} more")
    return lines


def _row(label: str, cells: Sequence[str]) -> str:
    return (f"{label:<{LABEL}}" + "".join(f"{cell:>{CELL}}" for cell in cells)).rstrip()


def _visible(character: str) -> str:
    return {" ": "␣", "\n": "↵", "\t": "⇥"}.get(character, character)


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
        self.config, self.vocabulary = config, Vocabulary.load(folder / VOCABULARY, running_text=True)
        self.decoding = resolve_auto(config.decoding, config.training.precision)
        self.shown = ["bits_per_character", "perplexity"] if self.vocabulary.is_closed else ["perplexity"]

    @classmethod
    def prepare(cls, config: LanguageModelingConfig, fingerprint: str | None = None) -> TextCorpus:
        """Learns the vocabulary and numbers the training and validation text."""
        return prepare_text(config, fingerprint)

    def build_model(self) -> LanguageModel:
        """The model of the config's `model` section."""
        return build_language_model(self.config.model, len(self.vocabulary))

    def introduce(self, data: TextCorpus) -> tuple[str, str]:
        """Cells and their input; units and vocabulary."""
        model, training = self.config.model, self.config.training
        reads = "one-hot units" if model.embedding is None else f"embeddings of {model.embedding}"
        kind, sequence = self.config.data.vocabulary.kind, training.sequence
        together = "" if sequence is None else f", an update after {sequence:,}"
        return (
            f"{model.cell} {' + '.join([str(model.hidden)] * model.layers)} over {reads}; lanes {training.lanes}, "
            f"truncated after {training.truncate} steps{together}",
            f"{self.config.data.source}: {len(data.split('train')):,} units to learn from, "
            f"{len(data.split('validation')):,} to validate; {kind} vocabulary of {len(self.vocabulary):,}",
        )

    def plan(self, data: TextCorpus, epoch: int) -> list[PlannedWindow]:
        """Windows of all lanes in the order of the text, the same in every epoch."""
        return plan_windows(data.split("train"), self.config.training.lanes, self.config.training.update_steps)

    def losses(self, model: LanguageModel, part: WindowBatch, state: Nest) -> Iterator[WindowLoss]:
        """Cross-entropy of the next units, summed, and the state that the next window begins with."""
        windows = list(part.split(self.config.training.truncate))
        for window in windows:
            loss, state = model.loss(window.inputs, window.targets, state)
            state = nest.detach(state)
            yield WindowLoss(loss, state, last=window is windows[-1])

    def validate(self, model: LanguageModel, data: TextCorpus, rank: int, size: int) -> tuple[float, int]:
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
        units = self.vocabulary.encode_text(text, f"data.source: {self.config.data.source}, split {split!r}")
        if len(units) < 2:
            raise UserError(f"--split {split}: its text has less than two units: there is nothing to predict.")
        return units[: self.config.data.limit]

    def shares(self, data: np.ndarray) -> int:
        """The lanes of an examination."""
        return Lanes.of_every_token(data, self.config.evaluation.lanes).count

    @torch.inference_mode()
    def examine(self, model: LanguageModel, data: np.ndarray, rank: int, size: int) -> list[np.ndarray]:
        """The loss of every unit but the first, float64, an array a lane, of the lanes `rank::size`."""
        model.eval()
        cut = Lanes.of_every_token(data, self.config.evaluation.lanes)
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
        banned = [
            self.vocabulary.encode_text(words, "decoding.banned").tolist() for words in self.config.decoding.banned
        ]

        def write(rows: list[list[int]]) -> list[str]:
            return [self.vocabulary.decode_text(row) for row in rows]

        for place, text in enumerate(inputs):
            prime = torch.from_numpy(self._prime(text).astype(np.int64)).to(device)[None]
            number = place if numbers is None else numbers[place]
            decoded = decode(
                model,
                model.prime(prime),
                strategy,
                begin=PRIME,
                end=-2,  # a text has no end of its own
                forbidden=self.vocabulary.special_ids,
                sentence_ids=[number],
                banned=banned,
            )
            (answer,) = make_outputs(decoded, strategy, write, [strategy.max_length])
            outputs.append(text + answer.text)
        return outputs

    def _prime(self, text: str) -> np.ndarray:
        if not text:
            raise UserError("the prime text is empty: give the model one character or more to continue.")
        return self.vocabulary.encode_text(text, f"prime text {text[:30]!r}")

    def explain(self, model: LanguageModel, text: str | None) -> str:
        """What the model computes for a text, or for the beginning of the training text, step by step."""
        return explain(model, self.vocabulary, text or read_text(self.config.data, "train")[: STEPS + 1])
