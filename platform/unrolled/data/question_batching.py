"""Batches of questions and their photographs.

Batches of questions and their photographs, planned for all workers from (seed, epoch) alone.

Batches of pointing questions: tokens, photographs and candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from unrolled.data.batching import pad, plan
from unrolled.data.tokenizer import BEGIN, END


@dataclass(frozen=True)
class QuestionBatch:
    """Questions and their photographs, each of these once.

    Attributes:
        pictures: what the encoder reads, `(photographs, …)`.
        owners: the photograph of each question, `(batch,)`.
        tokens: of the questions, `(batch, time)`, padded at the end.
        mask: `(batch, time)`, False on padding.
        target: what is to be learned, an `AnswerClass` or an `AnswerText`; None where a model is only asked.
    """

    photos: Tensor
    photo_index: Tensor
    tokens: Tensor
    mask: Tensor
    target: AnswerClasses | AnswerTexts | None = None

    def to(self, device: torch.device) -> QuestionBatch:
        """Moves every tensor."""
        target = None if self.target is None else self.target.to(device)
        pictures, owners = self.photos.to(device, non_blocking=True), self.photo_index.to(device, non_blocking=True)
        return QuestionBatch(pictures, owners, self.tokens.to(device), self.mask.to(device), target)

    def __len__(self) -> int:
        return len(self.photo_index)


@dataclass(frozen=True)
class AnswerClasses:
    """Answers by number.

    Attributes:
        right: the right answer of each question, `(batch,)`.
        candidates: of each question, `(batch, most)`; -1 where one has no number, or a question has fewer.
        texts: their tokens, `(batch, most, words)`, padded with -1, where answers are known by their words.
    """

    correct: Tensor
    candidates: Tensor
    texts: Tensor | None = None

    def to(self, device: torch.device) -> AnswerClasses:
        """Moves every tensor."""
        texts = None if self.texts is None else self.texts.to(device, non_blocking=True)
        right, candidates = (each.to(device, non_blocking=True) for each in (self.correct, self.candidates))
        return AnswerClasses(right, candidates, texts)


@dataclass(frozen=True)
class AnswerTexts:
    """Questions with answers behind them, as one recurrent network reads and writes them.

    Attributes:
        before: `(rows, time)`: the question's tokens, the begin symbol, the answer's.
        after: `(rows, time)`: what follows each.
        asked: `(rows, time)`, True where that is to be written: the answer and its end symbol.
        candidates: the same of all candidates of the questions, where these are learned from.
    """

    decoder_inputs: Tensor
    targets: Tensor
    answer_mask: Tensor
    candidates: CandidateTexts | None = None

    def to(self, device: torch.device) -> AnswerTexts:
        """Moves every tensor."""
        candidates = None if self.candidates is None else self.candidates.to(device)
        before, after, asked = (
            each.to(device, non_blocking=True) for each in (self.decoder_inputs, self.targets, self.answer_mask)
        )
        return AnswerTexts(before, after, asked, candidates)


@dataclass(frozen=True)
class CandidateTexts:
    """Questions with every one of their candidates behind them; those without candidates are left out.

    Attributes:
        texts: a row a candidate.
        questions: the question of each row, as its row of the batch, `(rows,)`, rising.
        right: which are the right ones, `(rows,)`, one a question.
    """

    texts: AnswerTexts
    questions: Tensor
    correct: Tensor

    def to(self, device: torch.device) -> CandidateTexts:
        """Moves every tensor."""
        return CandidateTexts(self.texts.to(device), self.questions.to(device), self.correct.to(device))


def join_answers(questions: Sequence[np.ndarray], answers: Sequence[np.ndarray]) -> AnswerTexts:
    """Joins tokens of questions, of which some may be empty, with those of their answers."""
    before, mask = pad([np.concatenate((q, [BEGIN], a)) for q, a in zip(questions, answers, strict=True)])
    after, _ = pad([np.concatenate((q, a, [END])) for q, a in zip(questions, answers, strict=True)])
    lengths = torch.tensor([len(question) for question in questions])
    return AnswerTexts(before, after, mask & (torch.arange(mask.shape[1]) >= lengths[:, None]))


def plan_questions(lengths: np.ndarray, *, batch_tokens: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Plans an epoch of questions of like length.

    Args:
        lengths: tokens of each question with its answer, `(questions,)`.
        batch_tokens: most padded tokens of a batch.

    Returns:
        Places of questions, one array a batch, in the order of training.
    """
    both = np.stack([lengths, lengths], axis=1)
    return plan(both, batch_tokens=batch_tokens, max_length=int(lengths.max()), seed=seed, epoch=epoch)


def plan_by_photo(
    lengths: np.ndarray, photos: np.ndarray, *, batch_tokens: int, seed: int, epoch: int
) -> list[np.ndarray]:
    """Plans an epoch in which all questions on a photograph stand in one batch, even if they alone are more than
    `batch_tokens`; other arguments as of `plan_questions`.

    Args:
        photos: the photograph of each question, `(questions,)`.
    """
    sorted_places = np.argsort(photos, kind="stable")
    groups = np.split(sorted_places, np.flatnonzero(np.diff(photos[sorted_places])) + 1)
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


@dataclass(frozen=True)
class Candidates:
    """The candidates of questions, as places among the regions of a batch.

    Attributes:
        places: `(batch, most)`; 0 on padding.
        there: `(batch, most)`, False on padding.
        right: place of the right one in the row, `(batch,)`; 0 where it is not known.
    """

    indices: Tensor
    mask: Tensor
    correct: Tensor

    def to(self, device: torch.device, non_blocking: bool = False) -> Candidates:
        """Moves every tensor."""
        moved = {name: value.to(device, non_blocking=non_blocking) for name, value in vars(self).items()}
        return Candidates(**moved)


@dataclass(frozen=True)
class GroundingBatch:
    """Questions, their photographs and candidates, each of these once.

    Attributes:
        pictures: what the encoder reads, `(photographs, …)`.
        owners: the photograph of each question, `(batch,)`.
        tokens, mask: of the questions, `(batch, time)`, padded at the end.
        features: of the regions, `(regions, channels)`; `None` where they are read off the grid.
        edges: of the regions: left, top, right and bottom as shares of the photograph's sides, `(regions, 4)`.
        region_owners: the photograph of each region, by its place in `pictures`, `(regions,)`.
    """

    photos: Tensor
    photo_index: Tensor
    tokens: Tensor
    mask: Tensor
    features: Tensor | None
    edges: Tensor
    region_photo_index: Tensor
    candidates: Candidates

    def to(self, device: torch.device) -> GroundingBatch:
        """Moves every tensor."""
        moved = {name: value.to(device, non_blocking=True) for name, value in vars(self).items() if value is not None}
        return replace(self, **moved)

    def __len__(self) -> int:
        return len(self.photo_index)


def find_candidates(choices: Sequence[Sequence[str]], rights: Sequence[int], regions: Sequence[str]) -> Candidates:
    """Finds the candidates of questions, given by their ids, among the regions of a batch.

    Args:
        choices: of each question, one or more.
        rights: place of the right one among them; -1: not known.
    """
    number = {region: place for place, region in enumerate(regions)}
    most = max(map(len, choices))
    places = torch.zeros(len(choices), most, dtype=torch.long)
    there = torch.zeros(len(choices), most, dtype=torch.bool)
    for row, own in enumerate(choices):
        places[row, : len(own)] = torch.tensor([number[region] for region in own])
        there[row, : len(own)] = True
    return Candidates(places, there, torch.tensor(rights).clamp(min=0))
