"""Grounding: a photograph and a question in, the region that the question asks for out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from unrolled.config.vqa import PointingConfig
from unrolled.data.batching import GroundingBatch, TokenRow, find_candidates, pad, plan_texts
from unrolled.data.image_sets import REGIONS_PREFIX, Region, candidate_regions, crop_region, without_folds
from unrolled.data.photo_corpus import QuestionCorpus, QuestionSplit, prepare_questions
from unrolled.data.question_readers import open_questions
from unrolled.data.questions import Box, Question, format_box, is_inside
from unrolled.data.tokenizer import BEGIN
from unrolled.errors import UserError
from unrolled.features import FeatureSet, open_features, pretrained_backbone, region_splits
from unrolled.models import RegionPointer, Regions, RegionScores, build_region_pointer
from unrolled.recurrence import Nest
from unrolled.tasks.base import GroundingTask, MetricResults, Prediction, WindowLoss, interleave
from unrolled.tasks.image_inputs import ImageInputs, ImageTextBatch, PreparedImageText
from unrolled.tasks.vqa import OpenedQuestions, QuestionTask, ValidationShard
from unrolled.tasks.vqa_heads import average_prediction, canonical_order, mean_attention, member_models, reorder
from unrolled.tasks.vqa_results import AnsweredQuestion, grounding_results

LEAST_PROBABILITY = 1e-30
"""Smallest probability of which the validation loss takes the logarithm."""


class Grounding(QuestionTask, GroundingTask):
    """A model that sees a photograph, reads a question and scores regions."""

    unit = "questions"
    ensemble_keys = ("model.sees", "model.regions.by", "model.regions.cells")
    answer_batch = 64

    def __init__(self, config: PointingConfig, folder: Path) -> None:
        super().__init__(config, folder)
        self.regions = RegionInputs(config, self.images)
        self.against_all = config.training.against == "batch"

    @classmethod
    def image_inputs(cls, config: PointingConfig) -> ImageInputs:
        return ImageInputs(config, grid=config.model.attention)

    @classmethod
    def prepare_corpus(cls, config: PointingConfig, fingerprint: str | None) -> QuestionCorpus:
        return prepare_questions(config.data, str, fingerprint)

    def build_model(self) -> RegionPointer:
        sizes = self.shape.channels, self.shape.positions, len(self.vocabulary)
        return build_region_pointer(self.config.model, *sizes, self.images.build_backbone())

    def load_pretrained(self, model: RegionPointer) -> None:
        """As in the base class; also standardises the features of cropped regions by those of the training split."""
        super().load_pretrained(model)
        if (features := self.regions.features("train", list(self.regions.by_id("train")))) is not None:
            model.regions.fit_normalization(features)

    def describe(self, data: PreparedImageText) -> tuple[str, str]:
        model, corpus = self.config.model, data.split("train")
        sees = {"both": "picture and question", "question": "question alone", "picture": "picture alone"}[model.sees]
        regions = "cut out" if self.regions.cropped else "read off the grid"
        attention = ", attention" if model.attention else ""
        reader = f"{model.question.cell} {model.question.hidden}"
        return (
            f"{model.features.backbone}, regions {regions}; {reader}{attention}, {sees}",
            f"{len(data.readable_rows('train')):,} questions about {len(corpus.names):,} photographs, vocabulary "
            f"{len(self.vocabulary):,}",
        )

    def plan(self, data: PreparedImageText, epoch: int) -> list[ImageTextBatch]:
        """Returns batches within the token budget; every question once."""
        corpus, rows = data.split("train"), data.readable_rows("train")
        limits = {"batch_tokens": self.config.training.batch_tokens, "seed": self.config.seed, "epoch": epoch}
        planned = plan_texts(corpus.lengths[rows][:, 0], **limits)
        return [ImageTextBatch(self, corpus, "train", np.sort(rows[batch]), epoch) for batch in planned]

    def num_targets(self, corpus: QuestionSplit, rows: np.ndarray) -> int:
        return len(rows)

    def collate(
        self, batch: ImageTextBatch, rows: np.ndarray, photos: list[int], photo_index: Tensor
    ) -> GroundingBatch:
        """Collates questions with their candidates, or with all regions of the global batch where the loss contrasts
        these."""
        questions = batch.corpus.questions(rows)
        rivals = batch.corpus.questions(batch.rows) if self.against_all else questions
        tokens = batch.corpus.tokens("question_tokens", rows)
        return self._batch(batch.split, questions, tokens, _regions(rivals), photos, photo_index, batch.epoch)

    def _batch(
        self,
        split: str,
        questions: Sequence[Question],
        tokens: Sequence[TokenRow],
        regions: Sequence[str],
        photos: Sequence[int],
        photo_index: Tensor,
        epoch: int | None = None,
    ) -> GroundingBatch:
        indices, known = {photo: i for i, photo in enumerate(photos)}, self.regions.by_id(split)
        return GroundingBatch(
            self._no_photos(len(photos)) if self._blind else self.images.read(split, photos, epoch),
            photo_index,
            *pad(self._read(tokens)),
            self.regions.features(split, regions),
            self.regions.edges(split, regions),
            torch.tensor([indices.get(known[region].photo, 0) for region in regions]),
            find_candidates([each.choices for each in questions], [each.answer_index for each in questions], regions),
        )

    @property
    def _blind(self) -> bool:
        """Whether no part of the model reads photographs."""
        return self.config.model.sees == "question" and self.regions.cropped

    def _no_photos(self, count: int) -> Tensor:
        return torch.zeros(count, 1, self.shape.channels)

    def _read(self, tokens: Sequence[TokenRow]) -> list[TokenRow]:
        """Returns the tokens that the model reads: a begin symbol alone for an empty question, and for any question
        of a model that sees only the photograph."""
        image_only = self.config.model.sees == "picture"
        return [[BEGIN] if image_only or not len(row) else row for row in tokens]

    def losses(self, model: RegionPointer, shard: GroundingBatch, state: Nest) -> Iterator[WindowLoss]:
        """Yields the summed cross-entropy of the correct regions, among the candidates or among all regions of the
        batch; batches are independent of each other."""
        scores, candidates = _pointed(model, shard).scores, shard.candidates
        targets = candidates.correct
        if self.against_all:
            targets = candidates.indices.gather(1, targets[:, None])[:, 0]
        else:
            scores = scores.gather(1, candidates.indices).masked_fill(~candidates.mask, -torch.inf)
        yield WindowLoss(functional.cross_entropy(scores, targets, reduction="sum"), None, last=True)

    @torch.inference_mode()
    def validate(self, model: RegionPointer, data: PreparedImageText, rank: int, size: int) -> ValidationShard:
        """Returns the loss among the candidates, its targets and the answered questions."""
        rows = data.readable_rows("validation")[rank::size]
        answered = self.answer(model, "validation", data.split("validation").questions(rows))
        correct = [one.prediction.probabilities[one.question.answer_index] for one in answered]
        losses = [-np.log(max(probability, LEAST_PROBABILITY)) for probability in correct]
        return float(sum(losses)), len(answered), answered

    def summarize(
        self, model: nn.Module, data: OpenedQuestions, shards: Sequence[list[AnsweredQuestion]]
    ) -> MetricResults:
        """Returns scores with intervals, and baselines."""

        def attention(one: AnsweredQuestion) -> list[float] | None:
            return self._attention(model, data.split, one.question)

        regions = self.regions.by_id(data.split)
        return grounding_results(self.metric_names, data.address, data.boxes, interleave(shards), regions, attention)

    def answer_some(self, model: nn.Module, split: str, questions: Sequence[Question]) -> list[Prediction]:
        batch = self._encode(split, questions).to(_device(model))
        scores = [_pointed(member, batch).scores.double().cpu() for member in member_models(model)]
        index = {region: i for i, region in enumerate(_regions(questions))}
        candidates = [[index[choice] for choice in question.choices] for question in questions]
        return [
            _predict(question.choices, [each[row, candidates[row]].tolist() for each in scores])
            for row, question in enumerate(questions)
        ]

    def _encode(self, split: str, questions: Sequence[Question]) -> GroundingBatch:
        tokens = self.vocabulary.encode([question.question for question in questions])
        photos, photo_index = np.unique([question.photo for question in questions], return_inverse=True)
        return self._batch(
            split, questions, tokens, _regions(questions), photos.tolist(), torch.from_numpy(photo_index)
        )

    @torch.inference_mode()
    def _attention(self, model: nn.Module, split: str, question: Question) -> list[float] | None:
        if self.config.model.sees == "question":
            return None
        batch = self._encode(split, [question]).to(_device(model))
        weights = mean_attention([_pointed(member, batch).weights for member in member_models(model)])
        return None if weights is None else weights[0]

    @torch.inference_mode()
    def point(self, model: nn.Module, photo: str, question: str, boxes: Sequence[Box]) -> Prediction:
        model.eval()
        if len(boxes) < 2:
            raise UserError("--boxes: wants two boxes or more to choose from.")
        features, edges = self.regions.read_boxes(photo, boxes)
        ids = [str(i) for i in range(len(boxes))]
        batch = GroundingBatch(
            self._no_photos(1) if self._blind else self.images.read_named([photo]),
            torch.zeros(1, dtype=torch.long),
            *pad(self._read(self.vocabulary.encode([question]))),
            features,
            edges,
            torch.zeros(len(boxes), dtype=torch.long),
            find_candidates([ids], [-1], ids),
        ).to(_device(model))
        scores = [_pointed(member, batch).scores[0].double().cpu().tolist() for member in member_models(model)]
        return _predict(ids, scores)


def _pointed(model: RegionPointer, batch: GroundingBatch) -> RegionScores:
    dtype = model.regions.map.weight.dtype
    features = None if batch.features is None else batch.features.to(dtype)
    pictures = batch.photos if model.network is not None else batch.photos.to(dtype)
    regions = Regions(features, batch.edges, batch.region_photo_index)
    pointed: RegionScores = model(pictures, batch.photo_index, batch.tokens, batch.mask, regions)
    return pointed


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _regions(questions: Sequence[Question]) -> list[str]:
    """Returns the candidates of all questions, each once, in an order that does not depend on theirs."""
    return sorted({choice for question in questions for choice in question.choices})


def _predict(choices: Sequence[str], scores: Sequence[Sequence[float]]) -> Prediction:
    """Returns a prediction that does not depend on the order of candidates; `scores` of these are by each model."""
    order = canonical_order(choices)
    prediction = reorder(average_prediction("", [[row[i] for i in order] for row in scores]), order)
    return prediction._replace(answer=choices[prediction.chosen])


class RegionInputs:
    """Features and edges of candidate regions on the photographs `images` of the same config."""

    def __init__(self, config: PointingConfig, images: ImageInputs) -> None:
        self._config, self._images = config, images
        self._by_id: dict[str, Mapping[str, Region]] = {}
        self._sets: dict[str, tuple[FeatureSet, dict[str, int]]] = {}

    @property
    def cropped(self) -> bool:
        """Whether features are extracted from crops of the regions; else they are pooled from grids."""
        return self._config.model.regions.by == "crop"

    def by_id(self, split: str) -> Mapping[str, Region]:
        """Returns all candidates of a split by id."""
        if split not in self._by_id:
            self._by_id[split] = candidate_regions(open_questions(self._config.data, split))
        return self._by_id[split]

    def edges(self, split: str, ids: Sequence[str]) -> Tensor:
        """Returns the edges of regions, `(regions, 4)`."""
        regions = self.by_id(split)
        return torch.tensor([regions[region][1:] for region in ids])

    def features(self, split: str, ids: Sequence[str]) -> Tensor | None:
        """Returns features `(regions, channels)`, extracted where they are missing; `None` unless `cropped`."""
        if not self.cropped:
            return None
        if self._config.data.captions:
            photographs, regions = self._images.stored(split), self.by_id(split)
            assert isinstance(photographs, FeatureSet)
            return photographs.globals(torch.tensor([regions[region].photo for region in ids]))
        features: dict[str, Tensor] = {}
        for region_split in region_splits(self._config, [split]):
            stored, rows = self._stored(region_split)
            inside = [region for region in ids if region in rows]
            means = stored.globals(torch.tensor([rows[region] for region in inside], dtype=torch.long))
            features |= zip(inside, means, strict=True)
        return torch.stack([features[region] for region in ids])

    @torch.inference_mode()
    def read_boxes(self, photo: str, boxes: Sequence[Box]) -> tuple[Tensor | None, Tensor]:
        """Returns features `(boxes, channels)` (or `None`) and edges `(boxes, 4)` of boxes on a photograph.

        Args:
            photo: its address in the data or its file.

        Raises:
            UserError: the photograph cannot be read, or a box reaches beyond it.
        """
        image = self._images.load_photo(photo)
        for box in boxes:
            if not is_inside(box, image.size):
                raise UserError(
                    f"--boxes: {format_box(box)} reaches beyond {photo}, {image.width} × {image.height} pixels."
                )
        sides = np.asarray([image.width, image.height] * 2, dtype=np.float64)
        edges = np.asarray([(x, y, x + width, y + height) for x, y, width, height in boxes]) / sides
        edges = edges.clip(0, 1)
        if not self.cropped:
            return None, torch.from_numpy(edges).float()
        backbone = pretrained_backbone(self._config.model.features.model_copy(update={"grid": 1})).eval()
        crops = [crop_region(image, Region(0, *map(float, row)), self._config.data.margin) for row in edges]
        pixels = torch.stack([backbone.preprocess(crop) for crop in crops])
        return backbone(pixels).mean(1), torch.from_numpy(edges).float()

    def _stored(self, region_split: str) -> tuple[FeatureSet, dict[str, int]]:
        """Opens the features of one of `region_splits`, with the row of every region."""
        if region_split not in self._sets:
            asked = open_questions(without_folds(self._config.data), region_split.removeprefix(REGIONS_PREFIX))
            rows = {region: row for row, region in enumerate(candidate_regions(asked))}
            self._sets[region_split] = open_features(self._config, region_split), rows
        return self._sets[region_split]
