"""The task interface used by the trainer, the evaluation and the command line.

What an examination of a model found, as the report shows it.

What the loop, the evaluation and the command line know of a task.

`Task` is what training needs. What a trained model can do besides is a protocol of its own: `Writer` (texts in,
texts out), `Answerer` (its texts are compared with references), `Viewer` (it describes photographs), `Examinee`
(measured on the data themselves), `Explainer`. `Pretrained` is one whose training begins with weights from elsewhere.

What workers did of a split, each its share, put together again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self, TypeVar, runtime_checkable

import torch
from PIL import Image
from torch import Tensor, nn

from unrolled.config import Decoding
from unrolled.data.questions import Box
from unrolled.decoding import Output, Strategy
from unrolled.metrics import References
from unrolled.recurrence.state import Nest


@dataclass(frozen=True)
class Table:
    """Rows for the report, such as the hardest characters."""

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Option:
    """One of the answers that a question allows.

    Attributes:
        text: as people read it.
        share: its probability.
        right, chosen: whether it is the right one, and the model's.
        box: where it is on the photograph, if it is a region: left, top, width and height as shares of its sides.
    """

    text: str
    share: float
    right: bool
    chosen: bool
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Shown:
    """A photograph with a question about it, for the report.

    Attributes:
        heading: of the group in which it stands.
        photo: as `Asker.photo` takes it.
        answer: the right one.
        options: the candidates.
        written: what the model answered freely; None if it does not.
        weights: of attention, on a square grid row by row.
    """

    heading: str
    photo: str
    question: str
    answer: str
    options: Sequence[Option] = ()
    written: str | None = None
    weights: Sequence[float] | None = None


@dataclass(frozen=True)
class Findings:
    """What an examination found.

    Attributes:
        scores: by name.
        intervals: 95 % intervals of scores, as far as known.
        targets: how many the scores are means of.
        outputs: rows of outputs.jsonl.
        tables: for the report.
        samples: heading and text of what the model wrote, side by side in the report.
        shown: photographs for the report's gallery, those of one heading together.
        files: further files beside the report, their texts by name.
    """

    scores: dict[str, float]
    targets: int
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    outputs: Sequence[dict[str, Any]] = ()
    tables: Sequence[Table] = ()
    samples: Sequence[tuple[str, str]] = ()
    shown: Sequence[Shown] = ()
    files: Mapping[str, str] = field(default_factory=dict)


class Shard(Protocol):
    """What one worker computes of a global batch."""

    def to(self, device: torch.device) -> Self:
        """Moves every tensor."""
        ...


class GlobalBatch(Protocol):
    """What all workers together make one update from."""

    @property
    def tokens(self) -> int:
        """Targets in all parts; the summed loss is divided by it."""
        ...

    def part(self, rank: int, size: int) -> Shard | None:
        """The rows `rank::size`; `None` where there are none."""
        ...


class WindowLoss(NamedTuple):
    """A part's loss, or a window of it, that is to be walked back before the next one is made.

    Attributes:
        loss: in nats, summed over the targets of the piece.
        state: what the next part reads on from; `None` where batches have nothing to do with each other.
        last: whether this piece's backward pass is known to be the part's last. Nobody else can know while it is still
            to come; where it is said, workers send gradients while the pass makes the others.
    """

    loss: Tensor
    state: Nest
    last: bool = False


class Prepared(Protocol):
    """Data ready for training; every worker opens its own by the fingerprint."""

    @property
    def fingerprint(self) -> str:
        """Names the content: equal data, equal fingerprint."""
        ...

    def save(self, folder: Path) -> None:
        """Writes what a run keeps, such as vocabularies, so that it needs the data no more."""
        ...


class Task(Protocol):
    """Binds data to a model. Built from a config of its own class and the folder that `Prepared.save` wrote."""

    def __init__(self, config: Any, folder: Path) -> None: ...

    @property
    def shown(self) -> Sequence[str]:
        """Scores of a validation in the order that people see them, the loss aside."""
        ...

    @classmethod
    def prepare(cls, config: Any, fingerprint: str | None = None) -> Prepared:
        """Makes the data ready, unless that was done.

        Args:
            fingerprint: of the data, where another process has computed it.

        Raises:
            UserError: the data cannot be used.
        """
        ...

    def build_model(self) -> nn.Module:
        """Makes the model, with fresh parameters drawn from torch's generator."""
        ...

    def introduce(self, data: Any) -> tuple[str, str]:
        """Describes the model and the data, a line each."""
        ...

    def plan(self, data: Any, epoch: int) -> Sequence[GlobalBatch]:
        """The global batches of an epoch, from the config's seed and `epoch` alone."""
        ...

    def losses(self, model: Any, part: Any, state: Nest) -> Iterator[WindowLoss]:
        """The training loss of the part: in one piece, or window by window where back-propagation through time is
        truncated. The backward pass of a piece must have run before the next is taken.

        Args:
            state: what the part before this one carried out, rows as in this part; `None` at an epoch's start.
        """
        ...

    def validate(self, model: Any, data: Any, rank: int, size: int) -> Any:
        """Measures the worker's share of the validation split; returns plain numbers or texts that can be sent."""
        ...

    def scores(self, shares: Sequence[Any]) -> dict[str, float]:
        """The scores of a validation, `loss` (nats a target, as trained but without smoothing) among them, from
        what every worker's `validate` returned, in the order of ranks."""
        ...


@runtime_checkable
class Writer(Protocol):
    """A task whose model writes text.

    Attributes:
        decoding: settings of the strategies.
        default_strategy: of `generate`.
    """

    decoding: Decoding
    default_strategy: str

    def predict(
        self, model: Any, inputs: Sequence[str], strategy: Strategy, numbers: Sequence[int] | None = None
    ) -> list[str]:
        """Writes one output an input, in order. `numbers` name the examples for sampling; default: their places."""
        ...


class Attended(NamedTuple):
    """The weights of attention, a row of `weights` for every token of `output`, over the tokens of `input`."""

    input: list[str]
    output: list[str]
    weights: list[list[float]]


@runtime_checkable
class Seq2SeqTask(Writer, Protocol):
    """A writer whose outputs are compared with references."""

    @property
    def shown(self) -> Sequence[str]:
        """The metrics of `score`; the first leads the report."""
        ...

    def texts(self, split: str) -> tuple[list[str], list[str] | list[list[str]]]:
        """Opens the inputs of a split and a reference of each, or several of each; raises `UserError` if the data have
        none of that name."""
        ...

    def check(self, strategy: Strategy) -> None:
        """Raises `UserError` if the config's settings and the model do not go with the strategy."""
        ...

    def answers(
        self, model: Any, inputs: Sequence[str], strategy: Strategy, numbers: Sequence[int] | None = None
    ) -> list[Output]:
        """As `predict`, with everything that the search tells of an output."""
        ...

    def attention(self, model: Any, text: str, output: str) -> Attended | None:
        """Where the model looks in `text` while it writes `output`; `None` if it does not look."""
        ...

    def score(self, predictions: Sequence[str], references: References) -> dict[str, Any]:
        """Scores by name, and under `signatures` how each was computed."""
        ...


@runtime_checkable
class Pretrained(Protocol):
    """A task whose model begins with weights from elsewhere. A trained one does without them."""

    def load_pretrained(self, model: Any) -> None:
        """Puts them in place of those that `build_model` drew; raises `UserError` if they cannot be had."""
        ...


@runtime_checkable
class Seeing(Protocol):
    """A task on photographs.

    Attributes:
        alike: keys of the config that runs which answer together have in common: by them the first one's task reads and
            replies for all.
    """

    alike: tuple[str, ...]

    @property
    def reads(self) -> str:
        """What its encoder reads of a photograph, in words: alike where runs can answer together."""
        ...


@runtime_checkable
class ImageInputTask(Seeing, Protocol):
    """An answerer whose inputs are photographs."""

    def files(self, names: Sequence[str]) -> list[str]:
        """The photographs themselves, a folder by those in it; raises `UserError` where it has none."""
        ...

    def photo(self, name: str, least: int = 0) -> Image.Image:
        """The photograph that an input names, RGB; `least` as in `read_image`. Raises `UserError` if it cannot be
        read."""
        ...

    def unreadable(self, split: str) -> dict[str, str]:
        """Why photographs of a split cannot be read, by name; `texts` leaves them out."""
        ...


@runtime_checkable
class MetricTask(Protocol):
    """A task that is measured on the data themselves."""

    def open(self, split: str) -> Any:
        """Opens a split; raises `UserError` if the data have none of that name."""
        ...

    def shares(self, data: Any) -> int:
        """Into how many shares an examination of this split can be cut."""
        ...

    def examine(self, model: Any, data: Any, rank: int, size: int) -> Any:
        """Measures the share `rank` of `size` of a split; what it returns can be sent."""
        ...

    def findings(self, model: Any, data: Any, shares: Sequence[Any]) -> Findings:
        """Sums up what `examine` returned for every share, in their order."""
        ...


class Reply(NamedTuple):
    """To one question.

    Attributes:
        answer: in words; of a region its name.
        probabilities: of the candidates, in their order, together 1; () without candidates.
        chosen: the likeliest candidate's place, -1 without.
    """

    answer: str
    probabilities: tuple[float, ...] = ()
    chosen: int = -1


@runtime_checkable
class VQATask(Seeing, Protocol):
    """A task whose model answers questions about photographs. In its place an `nn.ModuleList` of several may stand, the
    mean of whose probabilities counts.

    Attributes:
        decoding: settings of the strategies.
    """

    decoding: Decoding

    def photo(self, name: str, least: int = 0) -> Image.Image:
        """As `Viewer.photo`."""
        ...

    def ask(self, model: Any, photo: str, question: str, choices: Sequence[str], strategy: Strategy | None) -> Reply:
        """Answers a question.

        Args:
            photo: its address in the data or its file.
            choices: candidates; none: the answer is free.
            strategy: by which it is written; `None`: the task's own.

        Raises:
            UserError: the photograph cannot be read, or candidates or strategy cannot be used.
        """
        ...


@runtime_checkable
class GroundingTask(Seeing, Protocol):
    """A task whose model, or models as of an `Asker`, choose the region of a photograph that a question asks for."""

    def photo(self, name: str, least: int = 0) -> Image.Image:
        """As `Viewer.photo`."""
        ...

    def point(self, model: Any, photo: str, question: str, boxes: Sequence[Box]) -> Reply:
        """Chooses one of the boxes.

        Args:
            photo: its address in the data or its file.

        Raises:
            UserError: the photograph cannot be read, or the boxes cannot be used.
        """
        ...


@runtime_checkable
class Explainer(Protocol):
    """A task that can show what its model computes, step by step."""

    def explain(self, model: Any, text: str | None) -> str:
        """Lines of at most 100 columns; raises `UserError` where there is nothing to show.

        Args:
            text: `None` takes one of the data.
        """
        ...


@runtime_checkable
class Baselined(Protocol):
    """A task of which is known what can be reached without learning.

    Attributes:
        baseline: that, by the name of the score.
    """

    @property
    def baseline(self) -> Mapping[str, float]: ...


@runtime_checkable
class Counting(Protocol):
    """A task whose targets need not be tokens.

    Attributes:
        counted: what they are, such as captions.
    """

    @property
    def counted(self) -> str: ...


T = TypeVar("T")


def interleaved(shares: Sequence[list[T]]) -> list[T]:
    """Puts what was dealt out in turn back into its order."""
    total = sum(map(len, shares))
    return [shares[i % len(shares)][i // len(shares)] for i in range(total)]
