"""Batches: plans for all workers, padding, and the tensors of each kind of example.

A plan is a list of global batches, drawn from (seed, epoch) alone. A worker takes its slice of each, so any number of
workers sees the same global batches, and a position in the list is all that resuming needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from unrolled.data.tokenizer import BEGIN, END, PAD

WINDOW = 100_000
"""Examples that are shuffled and sorted together: bounds the memory and the disk distance of a plan."""


def plan(lengths: np.ndarray, *, batch_tokens: int, max_length: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Plans the global batches of one epoch, of examples of similar length.

    Args:
        lengths: `(examples, 2)`, tokens of input and target.
        batch_tokens: most padded tokens of the longer side in a batch; an example longer than that stands alone.
        max_length: examples with a longer side than this are left out.

    Returns:
        Example numbers, one array per batch, in the order of training.
    """
    generator = np.random.default_rng([seed, epoch])
    usable = np.flatnonzero(lengths.max(1) <= max_length)
    order = generator.permutation(usable)
    batches: list[np.ndarray] = []
    for start in range(0, len(order), WINDOW):
        window = order[start : start + WINDOW]
        inputs, targets = lengths[window].T
        # By input, then by target, ascending and descending in turn: neighbours are similar on both sides, so that
        # little is padded.
        window = window[np.lexsort((np.where(inputs % 2, targets, -targets), inputs))]
        batches += np.split(window, _boundaries(lengths[window].max(1), batch_tokens))
    return [batches[i] for i in generator.permutation(len(batches))]


def _boundaries(lengths: np.ndarray, batch_tokens: int) -> list[int]:
    """Returns where examples must be split so that every part, padded to its longest, has at most `batch_tokens`."""
    boundaries: list[int] = []
    start = longest = 0
    for i, length in enumerate(lengths.tolist()):
        longest = max(longest, length)
        if i > start and longest * (i + 1 - start) > batch_tokens:
            boundaries.append(i)
            start, longest = i, length
    return boundaries


def plan_texts(lengths: np.ndarray, *, batch_tokens: int, seed: int, epoch: int) -> list[np.ndarray]:
    """As `plan`, for texts of `lengths` `(texts,)` tokens, of which none is left out."""
    both, longest = np.stack([lengths, lengths], axis=1), int(lengths.max(initial=0))
    return plan(both, batch_tokens=batch_tokens, max_length=longest, seed=seed, epoch=epoch)


def plan_by_photo(
    lengths: np.ndarray, photo_index: np.ndarray, *, batch_tokens: int, seed: int, epoch: int
) -> list[np.ndarray]:
    """Plans an epoch in which all questions about a photograph, given by `photo_index` `(questions,)`, are in one
    batch, even if they alone have more than `batch_tokens`; other arguments as of `plan_texts`."""
    order = np.argsort(photo_index, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(photo_index[order])) + 1)
    batches: list[list[np.ndarray]] = []
    longest = count = 0
    for number in np.random.default_rng([seed, epoch]).permutation(len(groups)):
        group = groups[number]
        longest, count = max(longest, int(lengths[group].max())), count + len(group)
        if not batches or longest * count > batch_tokens:
            batches.append([])
            longest, count = int(lengths[group].max()), len(group)
        batches[-1].append(group)
    return [np.concatenate(batch) for batch in batches]


def padding_fraction(lengths: np.ndarray, batches: Sequence[np.ndarray]) -> float:
    """Returns the fraction of padding in planned batches, both sides together; arguments as `plan` or `plan_texts` has
    and returns them."""
    padded = sum(len(batch) * int(lengths[batch].max(0).sum()) for batch in batches)
    return 1 - sum(int(lengths[batch].sum()) for batch in batches) / padded


TokenRow = Sequence[int] | np.ndarray
"""Token ids of one text."""


def pad(rows: Sequence[TokenRow]) -> tuple[Tensor, Tensor]:
    """Stacks rows of token ids: `(rows, longest)` and the mask, False on padding."""
    lengths = torch.tensor([len(row) for row in rows])
    mask = torch.arange(int(lengths.max()) if rows else 0) < lengths[:, None]
    tokens = torch.full(mask.shape, PAD)
    tokens[mask] = torch.from_numpy(np.concatenate(rows).astype(np.int64)) if rows else tokens.new_empty(0)
    return tokens, mask


def decoder_tensors(
    targets: Sequence[TokenRow], prefixes: Sequence[TokenRow] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns inputs and targets of a decoder and the mask of both, `(batch, time)`: inputs are a prefix, the begin
    symbol and the target; targets are the prefix, the target and the end symbol."""
    prefixes = [()] * len(targets) if prefixes is None else prefixes
    inputs, mask = pad([np.concatenate((p, [BEGIN], t)) for p, t in zip(prefixes, targets, strict=True)])
    outputs, _ = pad([np.concatenate((p, t, [END])) for p, t in zip(prefixes, targets, strict=True)])
    return inputs, outputs, mask


class TensorBatch:
    """Base of dataclasses of tensors, of further batches, and of `None`."""

    def to(self, device: torch.device, non_blocking: bool = True) -> Self:
        """Moves every tensor."""
        moved = {
            name: value.to(device, non_blocking=non_blocking) for name, value in vars(self).items() if value is not None
        }
        return replace(self, **moved)  # type: ignore[type-var]


@dataclass(frozen=True)
class Batch(TensorBatch):
    """Sentence pairs; masks are False on padding.

    Attributes:
        inputs, input_mask: `(batch, positions)`, with an end symbol, so that even an empty text has a token.
        decoder_inputs: `(batch, time)`, begin symbol and target.
        targets: `(batch, time)`, target and end symbol.
        target_mask: `(batch, time)`.
    """

    inputs: Tensor
    input_mask: Tensor
    decoder_inputs: Tensor
    targets: Tensor
    target_mask: Tensor


def collate_inputs(inputs: Sequence[TokenRow]) -> tuple[Tensor, Tensor]:
    """Returns padded token ids `(batch, positions)` with end symbols, and their mask."""
    return pad([np.concatenate((row, [END])) for row in inputs])


def collate(inputs: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> Batch:
    """Makes a batch of examples given without begin and end symbols."""
    return Batch(*collate_inputs(inputs), *decoder_tensors(targets))


@dataclass(frozen=True)
class CaptionBatch(TensorBatch):
    """Captions and their photographs, each of these once.

    Attributes:
        photos: input of the encoder, `(photographs, …)`.
        photo_index: the photograph of each caption, `(batch,)`.
        decoder_inputs, targets, mask: as of `decoder_tensors`, `(batch, time)`.
    """

    photos: Tensor
    photo_index: Tensor
    decoder_inputs: Tensor
    targets: Tensor
    mask: Tensor

    def select(self, captions: Tensor) -> CaptionBatch:
        """Returns some of the captions, by number, in this order."""
        rows = (self.photo_index, self.decoder_inputs, self.targets, self.mask)
        return CaptionBatch(self.photos, *(values[captions] for values in rows))


@dataclass(frozen=True)
class QuestionInputs(TensorBatch):
    """Questions and their photographs, each of these once.

    Attributes:
        photos: input of the encoder, `(photographs, …)`.
        photo_index: the photograph of each question, `(batch,)`.
        tokens: of the questions, `(batch, time)`, padded at the end.
        mask: `(batch, time)`, False on padding.
    """

    photos: Tensor
    photo_index: Tensor
    tokens: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return len(self.photo_index)


@dataclass(frozen=True)
class QuestionBatch(QuestionInputs):
    """Questions to answer; `target` is `None` where there is no loss."""

    target: AnswerClasses | AnswerTexts | None = None


@dataclass(frozen=True)
class AnswerClasses(TensorBatch):
    """Answers as classes.

    Attributes:
        correct: the class of the right answer to each question, `(batch,)`.
        candidates: of each question, `(batch, most)`; -1 where one has no class, or a question has fewer.
        texts: token ids of the candidates, `(batch, most, words)`, padded with -1, where answers are embedded by
            their words.
    """

    correct: Tensor
    candidates: Tensor
    texts: Tensor | None = None


@dataclass(frozen=True)
class AnswerTexts(TensorBatch):
    """Questions with answers after them, as one recurrent network reads and writes them.

    Attributes:
        decoder_inputs: `(rows, time)`: the question's tokens, the begin symbol, the answer's.
        targets: `(rows, time)`: the token after each.
        answer_mask: `(rows, time)`, True where the target counts in the loss: the answer and its end symbol.
        candidates: the same of all candidates of the questions, where the loss compares these.
    """

    decoder_inputs: Tensor
    targets: Tensor
    answer_mask: Tensor
    candidates: CandidateTexts | None = None


@dataclass(frozen=True)
class CandidateTexts(TensorBatch):
    """Questions with each of their candidates after them; questions without candidates are left out.

    Attributes:
        texts: one row per candidate.
        questions: the question of each row, as its row of the batch, `(rows,)`, ascending.
        correct: whether a row's candidate is the right one, `(rows,)`; one per question.
    """

    texts: AnswerTexts
    questions: Tensor
    correct: Tensor


def join_answers(questions: Sequence[TokenRow], answers: Sequence[TokenRow]) -> AnswerTexts:
    """Joins token ids of questions, of which some may be empty, with those of their answers."""
    inputs, targets, mask = decoder_tensors(answers, questions)
    lengths = torch.tensor([len(question) for question in questions])
    return AnswerTexts(inputs, targets, mask & (torch.arange(mask.shape[1]) >= lengths[:, None]))


@dataclass(frozen=True)
class GroundingBatch(QuestionInputs):
    """Questions and candidate regions, each of these once.

    Attributes:
        features: of the regions, `(regions, channels)`; `None` where they are pooled from the grid.
        edges: left, top, right and bottom of the regions as fractions of the photograph's sides, `(regions, 4)`.
        region_photo_index: the photograph of each region, `(regions,)`.
    """

    features: Tensor | None
    edges: Tensor
    region_photo_index: Tensor
    candidates: Candidates


@dataclass(frozen=True)
class Candidates(TensorBatch):
    """The candidates of questions, as indices of the regions of a batch.

    Attributes:
        indices: `(batch, most)`; 0 on padding.
        mask: `(batch, most)`, False on padding.
        correct: position of the right one in the row, `(batch,)`; 0 where it is not known.
    """

    indices: Tensor
    mask: Tensor
    correct: Tensor


def find_candidates(
    choices: Sequence[Sequence[str]], answer_indices: Sequence[int], regions: Sequence[str]
) -> Candidates:
    """Finds the candidates `choices` of questions, given by their ids, one or more each, among the regions of a batch.
    `answer_indices`: position of the right one among them; -1: not known."""
    index = {region: i for i, region in enumerate(regions)}
    indices, mask = pad([np.array([index[region] for region in own]) for own in choices])
    return Candidates(indices, mask, torch.tensor(answer_indices).clamp(min=0))
