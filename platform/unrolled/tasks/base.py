"""The task interface used by the trainer, the evaluation and the command line.

A `Task` binds data to a model and is all that training needs. Further base classes say what else its model can do:
`GenerationTask` (writes text), `Seq2SeqTask` (its texts are compared with references), `MetricTask` (is measured on the
data themselves), `VQATask` (answers questions about photographs), `GroundingTask` (chooses regions of photographs) and
`StepTraceTask` (prints its computation). A task derives from as many as apply. At the end of the module: functions that
several tasks share.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from unrolled.config import Decoding
from unrolled.data.questions import Box
from unrolled.data.tokenizer import BEGIN, END, PAD, UNKNOWN
from unrolled.decoding import Greedy, Output, Strategy, resolve_precision
from unrolled.metrics import Perplexity, References, score
from unrolled.models import EncoderDecoder, EncoderOutput
from unrolled.recurrence import Nest

T = TypeVar("T")


class Shard(Protocol):
    """One worker's rows of a global batch."""

    def to(self, device: torch.device) -> Self:
        """Moves every tensor."""


class GlobalBatch(Protocol):
    """The examples from which all workers together make one update."""

    @property
    def tokens(self) -> int:
        """Number of targets in all shards; the summed loss is divided by it."""

    def shard(self, rank: int, size: int) -> Shard | None:
        """Returns the rows `rank::size`; `None` where there are none."""


class WindowLoss(NamedTuple):
    """The loss of a shard, or of one window of it, to be back-propagated before the next window is computed.

    Attributes:
        loss: in nats, summed over the targets of the window.
        state: initial state of the next shard; `None` where batches are independent of each other.
        last: whether this window's backward pass is known to be the shard's last; workers then send gradients while
            the pass still computes others.
    """

    loss: Tensor
    state: Nest
    last: bool = False


class PreparedData(Protocol):
    """Data ready for training. Every worker opens them by their fingerprint."""

    @property
    def fingerprint(self) -> str:
        """Identifies the content: equal data, equal fingerprint."""

    def save(self, folder: Path) -> None:
        """Writes what a run keeps, such as vocabularies, so that it needs the data no more."""


class Task(ABC):
    """Data bound to a model.

    Args:
        config: of the task's own class.
        folder: written by `PreparedData.save`.

    Attributes:
        metric_names: scores of a validation in the order of display, without the loss.
        unit: of the targets, in the plural.
        baseline: scores that are reached without learning, by name.
    """

    metric_names: Sequence[str]
    unit: str = "tokens"
    baseline: Mapping[str, float] = {}

    @abstractmethod
    def __init__(self, config: Any, folder: Path) -> None: ...

    @classmethod
    @abstractmethod
    def prepare(cls, config: Any, fingerprint: str | None = None) -> PreparedData:
        """Prepares the data, or opens them where that was done before.

        Args:
            fingerprint: of the data, where another process has computed it.

        Raises:
            UserError: the data cannot be used.
        """

    @abstractmethod
    def build_model(self) -> nn.Module:
        """Builds the model, with fresh parameters drawn from torch's generator."""

    def load_pretrained(self, model: Any) -> None:
        """Loads the pretrained weights, if there are any, with which training begins; raises `UserError` if they cannot
        be had."""
        del model

    @abstractmethod
    def describe(self, data: Any) -> tuple[str, str]:
        """Describes the model and the data, one line each."""

    @abstractmethod
    def plan(self, data: Any, epoch: int) -> Sequence[GlobalBatch]:
        """Returns the global batches of an epoch; they depend on the config's seed and `epoch` alone."""

    @abstractmethod
    def losses(self, model: Any, shard: Any, state: Nest) -> Iterator[WindowLoss]:
        """Yields the training loss of a shard: whole, or window by window where back-propagation through time is
        truncated. The backward pass of a window must have run before the next one is taken. `state` is the final one of
        the shard before this one, with the same rows; `None` at an epoch's start."""

    @abstractmethod
    def validate(self, model: Any, data: Any, rank: int, size: int) -> Any:
        """Measures shard `rank` of `size` of the validation split; returns numbers or texts that can be sent."""

    @abstractmethod
    def validation_scores(self, shards: Sequence[Any]) -> dict[str, float]:
        """Returns the scores of a validation, among them `loss` (nats per target, without label smoothing), from the
        results of `validate` in the order of ranks."""


class GenerationTask(Task):
    """A task whose model writes text by the settings `decoding`; `default_strategy` is that of `unrolled generate`."""

    decoding: Decoding
    default_strategy: ClassVar[str]

    @abstractmethod
    def predict(
        self, model: Any, inputs: Sequence[str], strategy: Strategy, example_ids: Sequence[int] | None = None
    ) -> list[str]:
        """Writes one text per input, in order.

        Args:
            example_ids: one per input; sampling depends on the seed and these alone. Default: the inputs' positions.
        """


class AttentionMap(NamedTuple):
    """Attention weights, `(output, input)`: one row per token of `output`, one column per token of `input`."""

    input: list[str]
    output: list[str]
    weights: list[list[float]]


ValidationShard = tuple[float, int, list[str], Sequence[str | list[str]]]
"""Summed loss, number of targets, outputs, references of each output."""


class Seq2SeqTask(GenerationTask):
    """A task whose model writes one text per input, to be compared with references. The first of `metric_names` leads
    the report."""

    @abstractmethod
    def examples(self, split: str) -> tuple[list[str], list[str] | list[list[str]]]:
        """Returns the inputs of a split, and one or several references of each; raises `UserError` if the data have no
        such split."""

    @abstractmethod
    def check_strategy(self, strategy: Strategy) -> None:
        """Raises `UserError` if the strategy does not fit the config's settings or the model."""

    @abstractmethod
    def decode(
        self, model: Any, inputs: Sequence[str], strategy: Strategy, example_ids: Sequence[int] | None = None
    ) -> list[Output]:
        """As `predict`, with candidates and scores."""

    def predict(
        self, model: Any, inputs: Sequence[str], strategy: Strategy, example_ids: Sequence[int] | None = None
    ) -> list[str]:
        return [output.text for output in self.decode(model, inputs, strategy, example_ids)]

    @abstractmethod
    def attention(self, model: Any, text: str, output: str) -> AttentionMap | None:
        """Returns the attention weights under which the model writes `output`; `None` for a model without attention."""

    def score(self, predictions: Sequence[str], references: References) -> dict[str, Any]:
        """Returns scores by name, and under `signatures` how each was computed."""
        return score(self.metric_names, predictions, references)

    def validation_scores(self, shards: Sequence[ValidationShard]) -> dict[str, float]:
        """Returns loss, perplexity and every metric on greedy outputs."""
        losses, targets, outputs, references = zip(*shards, strict=True)
        loss = sum(losses) / sum(targets)
        scores = self.score(interleave(outputs), interleave(references))
        perplexity = float(Perplexity.from_loss(loss))
        return {"loss": loss, "perplexity": perplexity} | {name: scores[name] for name in self.metric_names}


@dataclass(frozen=True)
class Table:
    """A table of the report."""

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Choice:
    """One candidate answer of a question.

    Attributes:
        text: as displayed.
        probability: given by the model.
        correct, chosen: whether it is the correct one, and the model's.
        box: of a region: left, top, width and height as fractions of the photograph's sides.
    """

    text: str
    probability: float
    correct: bool
    chosen: bool
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class GalleryItem:
    """A question about a photograph in the report's gallery.

    Attributes:
        heading: of its group.
        photo: its name, as `ImageInputTask.load_photo` takes it.
        answer: the correct one.
        choices: the candidates.
        prediction: the model's free answer; `None` where it has none.
        attention: weights over a square grid, row by row.
    """

    heading: str
    photo: str
    question: str
    answer: str
    choices: Sequence[Choice] = ()
    prediction: str | None = None
    attention: Sequence[float] | None = None


@dataclass(frozen=True)
class MetricResults:
    """Scores of a split, and what its report shows.

    Attributes:
        scores: by name.
        targets: number of targets over which the scores are means.
        intervals: 95 % intervals of scores, where known.
        outputs: rows of outputs.jsonl.
        tables: of the report.
        samples: headings and generated texts, displayed side by side.
        gallery: questions about photographs, grouped by heading.
        files: texts of further files beside the report, by file name.
    """

    scores: dict[str, float]
    targets: int
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    outputs: Sequence[dict[str, Any]] = ()
    tables: Sequence[Table] = ()
    samples: Sequence[tuple[str, str]] = ()
    gallery: Sequence[GalleryItem] = ()
    files: Mapping[str, str] = field(default_factory=dict)


class MetricTask(Task):
    """A task whose model is measured on the data themselves."""

    @abstractmethod
    def open(self, split: str) -> Any:
        """Opens a split; raises `UserError` if the data have none of that name."""

    @abstractmethod
    def num_shards(self, data: Any) -> int:
        """Returns the number of shards in which a split is evaluated."""

    @abstractmethod
    def evaluate_shard(self, model: Any, data: Any, rank: int, size: int) -> Any:
        """Measures shard `rank` of `size`; the result can be sent."""

    @abstractmethod
    def summarize(self, model: Any, data: Any, shards: Sequence[Any]) -> MetricResults:
        """Combines the results of `evaluate_shard` for all shards, in their order."""


class Prediction(NamedTuple):
    """The model's answer to one question.

    Attributes:
        answer: in words; the name of a region.
        probabilities: of the candidates, in their order, of sum 1; empty without candidates.
        chosen: index of the most probable candidate, -1 without candidates.
    """

    answer: str
    probabilities: tuple[float, ...] = ()
    chosen: int = -1


class VQATask(Task):
    """A task whose model answers questions about photographs. An `nn.ModuleList` of models is taken as an ensemble that
    averages probabilities; `decoding` has the settings of the strategies."""

    decoding: Decoding

    @abstractmethod
    def ask(
        self, model: Any, photo: str, question: str, choices: Sequence[str] = (), strategy: Strategy | None = None
    ) -> Prediction:
        """Answers a question.

        Args:
            photo: its address in the data or its file.
            choices: candidates; none: the answer is free.
            strategy: decoding of a free answer; `None`: greedy.

        Raises:
            UserError: the photograph cannot be read, or candidates or strategy cannot be used.
        """


class GroundingTask(Task):
    """A task whose model, or ensemble as in `VQATask`, chooses the region of a photograph that a question asks for."""

    @abstractmethod
    def point(self, model: Any, photo: str, question: str, boxes: Sequence[Box]) -> Prediction:
        """Chooses one of the boxes.

        Args:
            photo: its address in the data or its file.

        Raises:
            UserError: the photograph cannot be read, or the boxes cannot be used.
        """


class StepTraceTask(Task):
    """A task that can print its model's computation step by step."""

    @abstractmethod
    def step_trace(self, model: Any, text: str | None) -> str:
        """Returns lines of at most 100 columns on a text (`None`: one of the data); raises `UserError` if there is
        nothing to show."""


def interleave(shards: Sequence[list[T]]) -> list[T]:
    """Merges the results for the rows `rank::size` of every rank into the order of the rows."""
    total = sum(map(len, shards))
    return [shards[row % len(shards)][row // len(shards)] for row in range(total)]


def decoder_losses(
    model: EncoderDecoder,
    memory: EncoderOutput,
    inputs: Tensor,
    targets: Tensor,
    mask: Tensor,
    state: Nest,
    truncate: int | None,
    smoothing: float = 0.0,
    weights: Tensor | None = None,
    source_index: Tensor | None = None,
) -> Iterator[WindowLoss]:
    """Yields the summed cross-entropy of a decoder under teacher forcing, in windows of `truncate` steps (`None`:
    whole). The gradients of all windows with respect to the encoder output are accumulated and back-propagated into
    the encoder at last.

    `state` is passed on to the next shard; other arguments are as of `EncoderDecoder.window_losses`.
    """
    if truncate is None:
        (loss,) = model.window_losses(memory, inputs, targets, mask, smoothing, None, weights, source_index)
        yield WindowLoss(loss, state, last=True)
        return
    leaf = memory.detach_leaf()
    for loss in model.window_losses(leaf, inputs, targets, mask, smoothing, truncate, weights, source_index):
        yield WindowLoss(loss, state)
    yield WindowLoss(memory.backward_into_encoder(leaf), state, last=True)


SYMBOLS: dict[str, Any] = {"begin": BEGIN, "end": END, "forbidden": (PAD, BEGIN, UNKNOWN)}
"""Arguments of `decode` for a vocabulary of sentences."""


def greedy_strategy(decoding: Decoding) -> Greedy:
    """Returns the strategy of validations."""
    return Greedy(max_length=decoding.max_length, precision=resolve_precision(decoding))


def attention_weights(model: EncoderDecoder, memory: EncoderOutput, output: Sequence[int]) -> list[list[float]]:
    """Returns the attention weights of one input for the tokens of `output` and the end symbol, one row per token."""
    state, rows = model.start(memory), []
    for token in (BEGIN, *output):
        _, state, weights = model.step_with_attention(torch.tensor([token], device=memory.mask.device), state, memory)
        rows.append([round(weight, 3) for weight in weights[0].tolist()])
    return rows
