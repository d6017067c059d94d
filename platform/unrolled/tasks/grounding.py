"""Grounding: a photograph and a question in, one of its regions out.

What a pointing model knows of candidates: where they lie, and what the network made of each.

Pointing: a photograph, a question and some of its regions in, the region that the question asks for out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from unrolled.config.vqa import PointingConfig
from unrolled.data.batching import GroundingBatch, find_candidates, pad, plan_questions
from unrolled.data.image_sets import REGIONS_PREFIX, Region, candidate_regions, crop_region, without_folds
from unrolled.data.question_corpus import VOCABULARY, QuestionCorpus, QuestionSplit, prepare_questions
from unrolled.data.question_readers import EDGE, open_questions
from unrolled.data.questions import Box, Question, QuestionSet
from unrolled.data.tokenizer import BEGIN, Vocabulary
from unrolled.errors import UserError
from unrolled.features import Backbone, Features, build_backbone, load_pretrained, make_backbone, open_features
from unrolled.features.extract import region_splits
from unrolled.models.builders import build_region_pointer
from unrolled.models.region_pointer import RegionPointer, Regions, RegionScores
from unrolled.recurrence.state import Nest
from unrolled.tasks.base import Findings, Reply, WindowLoss, interleaved
from unrolled.tasks.image_inputs import Pictures, Shape, address
from unrolled.tasks.vqa_heads import Replied, in_order, mean_weights, models_of, reordered, reply
from unrolled.tasks.vqa_results import grounding_findings, score_replies


class RegionFeatures:
    """Args: `pictures`, the photographs of the same config."""

    def __init__(self, config: PointingConfig, pictures: Pictures) -> None:
        self._config, self._pictures = config, pictures
        self._places: dict[str, Mapping[str, Region]] = {}
        self._stores: dict[str, tuple[Features, dict[str, int]]] = {}

    @property
    def cut_out(self) -> bool:
        """Whether regions have features of their own; else they are read off the photographs' grids."""
        return self._config.model.regions.by == "crop"

    def places(self, split: str) -> Mapping[str, Region]:
        """Returns where every candidate of a split lies, by its id."""
        if split not in self._places:
            self._places[split] = candidate_regions(open_questions(self._config.data, split))
        return self._places[split]

    def edges(self, split: str, ids: Sequence[str]) -> Tensor:
        """Returns the edges of regions, `(regions, 4)`."""
        places = self.places(split)
        return torch.tensor([places[region][1:] for region in ids])

    def features(self, split: str, ids: Sequence[str]) -> Tensor | None:
        """Returns what the network made of regions, `(regions, channels)`; made where it is missing."""
        if not self.cut_out:
            return None
        if self._config.data.captions:
            photographs, places = self._pictures.features(split), self.places(split)
            assert isinstance(photographs, Features)
            return photographs.globals(torch.tensor([places[region].photo for region in ids]))
        found: dict[str, Tensor] = {}
        for part in region_splits(self._config, [split]):
            store, rows = self._store(part)
            own = [region for region in ids if region in rows]
            means = store.globals(torch.tensor([rows[region] for region in own], dtype=torch.long))
            found |= zip(own, means, strict=True)
        return torch.stack([found[region] for region in ids])

    @torch.inference_mode()
    def computed(self, photo: str, boxes: Sequence[Box]) -> tuple[Tensor | None, Tensor]:
        """Returns features and edges of boxes on a photograph that is named by its address or its file.

        Raises:
            UserError: it cannot be read, or a box reaches beyond it.
        """
        image = self._pictures.photo(photo)
        for x, y, width, height in boxes:
            if min(x, y) < -EDGE or x + width > image.width + EDGE or y + height > image.height + EDGE:
                raise UserError(
                    f"--boxes: x {x:g}, y {y:g}, {width:g} × {height:g} reaches beyond {photo}, {image.width} × "
                    f"{image.height} pixels."
                )
        sides = np.asarray([image.width, image.height] * 2, dtype=np.float64)
        edges = np.asarray([(x, y, x + width, y + height) for x, y, width, height in boxes]) / sides
        edges = edges.clip(0, 1)
        if not self.cut_out:
            return None, torch.from_numpy(edges).float()
        backbone = make_backbone(self._config.model.features.model_copy(update={"grid": 1})).eval()
        pictures = [crop_region(image, Region(0, *map(float, own)), self._config.data.margin) for own in edges]
        pixels = torch.stack([backbone.preprocess(picture) for picture in pictures])
        return backbone(pixels).mean(1), torch.from_numpy(edges).float()

    def _store(self, part: str) -> tuple[Features, dict[str, int]]:
        """Opens the features of what `region_splits` names, with the row of every region."""
        if part not in self._stores:
            asked = open_questions(without_folds(self._config.data), part.removeprefix(REGIONS_PREFIX))
            rows = {region: row for row, region in enumerate(candidate_regions(asked))}
            self._stores[part] = open_features(self._config, part), rows
        return self._stores[part]


SHARE = 256
"""Questions that an evaluation worker takes at a time."""
TOGETHER = 64
"""Questions that are answered together."""
Share = tuple[float, int, list[Replied]]
"""What a worker validated: summed loss and its targets, and the replies."""


@dataclass(frozen=True)
class Opened:
    """Questions of a split whose photographs can be read.

    Attributes:
        asked: with all photographs.
    """

    split: str
    asked: QuestionSet

    def address(self, question: Question) -> str:
        """Names the photograph of a question."""
        return address(self.split, question.photo, self.asked.names[question.photo])


@dataclass(frozen=True)
class PreparedPointing:
    """Questions, photographs and regions, ready for training."""

    questions: QuestionCorpus
    pictures: Pictures

    @property
    def fingerprint(self) -> str:
        return self.questions.folder.name

    def save(self, folder: Path) -> None:
        """Writes the vocabulary and the shape of features."""
        folder.mkdir(parents=True, exist_ok=True)
        self.questions.vocabulary.save(folder / VOCABULARY)
        self.pictures.shape().save(folder)

    def split(self, name: str) -> QuestionSplit:
        """Opens `train` or `validation`."""
        return self.questions.split(name)


@dataclass(frozen=True)
class Posed:
    """A global batch: the questions `rows` of a split.

    Attributes:
        epoch: in which they are learned; `None`: they are not.
    """

    task: Grounding
    corpus: QuestionSplit
    split: str
    rows: np.ndarray
    epoch: int | None = None

    @property
    def tokens(self) -> int:
        return len(self.rows)

    def part(self, rank: int, size: int) -> GroundingBatch | None:
        """The photographs `rank::size` of the batch, with all questions about them; where the right regions are told
        from all others of the batch, these are all there."""
        photos, owners = np.unique(self.corpus.photo_index[self.rows], return_inverse=True)
        chosen = owners % size == rank
        if not chosen.any():
            return None
        mine = self.corpus.questions(self.rows[chosen])
        rivals = self.corpus.questions(self.rows) if self.task.against_all else mine
        regions = sorted({choice for question in rivals for choice in question.choices})
        tokens = self.corpus.question_tokens(self.rows[chosen])
        return self.task.batch(self.split, mine, tokens, regions, photos[rank::size], self.epoch)


class Grounding:
    """A model that sees a photograph, reads a question and scores regions."""

    counted = "questions"
    alike: tuple[str, ...] = ("model.sees", "model.regions.by", "model.regions.cells")

    def __init__(self, config: PointingConfig, folder: Path) -> None:
        self.config, self.vocabulary = config, Vocabulary.load(folder / VOCABULARY)
        self.shape, self.shown = Shape.load(folder), config.evaluation.metrics
        self.pictures = _pictures(config)
        self.regions = RegionFeatures(config, self.pictures)
        self.against_all = config.training.against == "batch"

    @property
    def reads(self) -> str:
        """What the encoder reads of a photograph."""
        return self.pictures.described()

    @classmethod
    def prepare(cls, config: PointingConfig, fingerprint: str | None = None) -> PreparedPointing:
        """Learns the vocabulary and tokenises the training and validation split. Features are made when they are first
        read, if nobody has made them before."""
        questions = prepare_questions(config.data, str, fingerprint)
        if fingerprint is None:
            make_backbone(config.model.features)  # or why not, before anything else begins
        return PreparedPointing(questions, _pictures(config))

    def build_model(self) -> RegionPointer:
        """The model of the config's `model` section."""
        model = self.config.model
        network = build_backbone(model.features) if model.features.fine_tune else None
        return build_region_pointer(model, self.shape.channels, self.shape.positions, len(self.vocabulary), network)

    def load_pretrained(self, model: RegionPointer) -> None:
        """Gives a network that is trained too the weights that it begins with; centres the features of regions, where
        they are cut out."""
        if isinstance(model.network, Backbone):
            load_pretrained(model.network, self.config.model.features)
        if (features := self.regions.features("train", list(self.regions.places("train")))) is not None:
            model.regions.fit_normalization(features)

    def introduce(self, data: PreparedPointing) -> tuple[str, str]:
        """What it sees and what reads the question; questions, photographs and vocabulary."""
        model, corpus = self.config.model, data.split("train")
        sees = {"both": "picture and question", "question": "question alone", "picture": "picture alone"}[model.sees]
        how = "cut out" if self.regions.cut_out else "read off the grid"
        looks = ", attention" if model.attention else ""
        return (
            f"{model.features.backbone}, regions {how}; {model.question.cell} {model.question.hidden}{looks}, {sees}",
            f"{len(self._readable(data, 'train')):,} questions about {len(corpus.names):,} photographs, vocabulary "
            f"{len(self.vocabulary):,}",
        )

    def plan(self, data: PreparedPointing, epoch: int) -> list[Posed]:
        """Batches within the token budget; every question once."""
        return self._batches(data, "train", self.config.seed, epoch)

    def _batches(self, data: PreparedPointing, split: str, seed: int, epoch: int) -> list[Posed]:
        corpus, chosen = data.split(split), self._readable(data, split)
        limit = self.config.training.batch_tokens
        planned = plan_questions(corpus.lengths[chosen][:, 0], batch_tokens=limit, seed=seed, epoch=epoch)
        learned = epoch if split == "train" else None
        return [Posed(self, corpus, split, np.sort(chosen[places]), learned) for places in planned]

    def _readable(self, data: PreparedPointing, split: str) -> np.ndarray:
        return data.split(split).without(data.pictures.features(split).missing)

    def batch(
        self,
        split: str,
        questions: Sequence[Question],
        tokens: Sequence[np.ndarray],
        regions: Sequence[str],
        photos: np.ndarray,
        epoch: int | None = None,
    ) -> GroundingBatch:
        """Puts questions of a split together with some of its photographs, those of the questions among them."""
        rows = {photo: place for place, photo in enumerate(photos.tolist())}
        places = self.regions.places(split)
        return GroundingBatch(
            self._seen(split, photos.tolist(), epoch),
            torch.tensor([rows[question.photo] for question in questions]),
            *pad(self._read(tokens)),
            self.regions.features(split, regions),
            self.regions.edges(split, regions),
            torch.tensor([rows.get(places[region].photo, 0) for region in regions]),
            find_candidates([each.choices for each in questions], [each.answer_index for each in questions], regions),
        )

    def _seen(self, split: str, photos: Sequence[int], epoch: int | None) -> Tensor:
        """What the encoder reads of photographs; a zero each where nobody looks at it."""
        if self.config.model.sees == "question" and self.regions.cut_out:
            return torch.zeros(len(photos), 1, self.shape.channels)
        return self.pictures.of(split, photos, epoch)

    def _read(self, tokens: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Tokens of questions; a begin symbol in place of one that is not to be read, or is empty."""
        begin = np.asarray([BEGIN], dtype=np.int32)
        unread = self.config.model.sees == "picture"
        return [begin if unread or not len(row) else row for row in tokens]

    def losses(self, model: RegionPointer, part: GroundingBatch, state: Nest) -> Iterator[WindowLoss]:
        """Cross-entropy of the right regions, summed; no question goes on in the next batch."""
        yield WindowLoss(self._loss(model, part, against_all=self.against_all), None, last=True)

    def _loss(self, model: RegionPointer, part: GroundingBatch, *, against_all: bool) -> Tensor:
        scores, candidates = _pointed(model, part).scores, part.candidates
        if against_all:
            wanted = candidates.indices.gather(1, candidates.correct[:, None])[:, 0]
            return functional.cross_entropy(scores, wanted, reduction="sum")
        own = scores.gather(1, candidates.indices).masked_fill(~candidates.mask, -torch.inf)
        return functional.cross_entropy(own, candidates.correct, reduction="sum")

    @torch.inference_mode()
    def validate(self, model: RegionPointer, data: PreparedPointing, rank: int, size: int) -> Share:
        """Loss among the candidates and its targets, and what the model chooses for its share of the questions."""
        model.eval()
        corpus = data.split("validation")
        mine = self._readable(data, "validation")[rank::size]
        replied = self._replied(model, "validation", corpus.questions(mine))
        losses = [-np.log(max(one.reply.probabilities[one.question.answer_index], 1e-30)) for one in replied]
        return float(sum(losses)), len(replied), replied

    def scores(self, shares: Sequence[Share]) -> dict[str, float]:
        """Loss, and every score of the evaluation."""
        losses, targets, replied = zip(*shares, strict=True)
        return {"loss": sum(losses) / max(1, sum(targets))} | score_replies(self.shown, interleaved(replied))

    def open(self, split: str) -> Opened:
        """Opens the questions of a split about photographs that can be read."""
        asked, missing = open_questions(self.config.data, split), self.pictures.features(split).missing
        questions = [each for each in asked.questions if each.photo not in missing]
        return Opened(split, replace(asked, questions=questions))

    def shares(self, data: Opened) -> int:
        """One a few hundred questions."""
        return -(-len(data.asked.questions) // SHARE)

    def examine(self, model: nn.Module, data: Opened, rank: int, size: int) -> list[Replied]:
        """Answers the questions `rank::size`."""
        return self._replied(model, data.split, data.asked.questions[rank::size])

    def findings(self, model: nn.Module, data: Opened, shares: Sequence[list[Replied]]) -> Findings:
        """Scores with their intervals, beside what is reached without learning."""

        def look(one: Replied) -> list[float] | None:
            return self._looked(model, data.split, one.question)

        return grounding_findings(
            self.shown, data, data.asked, interleaved(shares), self.regions.places(data.split), look
        )

    @torch.inference_mode()
    def _replied(self, model: nn.Module, split: str, questions: Sequence[Question]) -> list[Replied]:
        model.eval()
        found: list[Replied] = []
        for start in range(0, len(questions), TOGETHER):
            some = questions[start : start + TOGETHER]
            batch = self._reading(split, some).to(_device(model))
            scores = [_pointed(one, batch).scores.double().cpu() for one in models_of(model)]
            candidates = self._reading_candidates(some)
            for row, question in enumerate(some):
                own = [each[row, candidates[row]].tolist() for each in scores]
                found.append(Replied(question, _chosen(question.choices, own)))
        return found

    def _reading(self, split: str, questions: Sequence[Question]) -> GroundingBatch:
        rows = self.vocabulary.encode([each.question for each in questions])
        tokens = [np.asarray(row, dtype=np.int32) for row in rows]
        photos = np.unique([each.photo for each in questions])
        return self.batch(split, questions, tokens, _regions(questions), photos)

    def _reading_candidates(self, questions: Sequence[Question]) -> list[list[int]]:
        """Places of each question's candidates among the regions of `_reading`."""
        number = {region: place for place, region in enumerate(_regions(questions))}
        return [[number[choice] for choice in question.choices] for question in questions]

    @torch.inference_mode()
    def _looked(self, model: nn.Module, split: str, question: Question) -> list[float] | None:
        if self.config.model.sees == "question":
            return None
        batch = self._reading(split, [question]).to(_device(model))
        weights = mean_weights([_pointed(one, batch).weights for one in models_of(model)])
        return None if weights is None else weights[0]

    @torch.inference_mode()
    def point(self, model: nn.Module, photo: str, question: str, boxes: Sequence[Box]) -> Reply:
        """Chooses one of the boxes on a photograph, named by its address in the data or by its file.

        Raises:
            UserError: the photograph cannot be read, there are fewer than two boxes, or one lies outside of it.
        """
        model.eval()
        if len(boxes) < 2:
            raise UserError("--boxes: wants two boxes or more to choose from.")
        features, edges = self.regions.computed(photo, boxes)
        (tokens,) = self.vocabulary.encode([question])
        seen = torch.zeros(1, 1, self.shape.channels)
        if self.config.model.sees != "question" or not self.regions.cut_out:
            seen = self.pictures.named([photo])
        ids = [str(place) for place in range(len(boxes))]
        batch = GroundingBatch(
            seen,
            torch.zeros(1, dtype=torch.long),
            *pad(self._read([np.asarray(tokens, dtype=np.int32)])),
            features,
            edges,
            torch.zeros(len(boxes), dtype=torch.long),
            find_candidates([ids], [-1], ids),
        )
        batch = batch.to(_device(model))
        return _chosen(ids, [_pointed(one, batch).scores[0].double().cpu().tolist() for one in models_of(model)])

    def photo(self, name: str, least: int = 0) -> Image.Image:
        """The photograph that an address or a file names."""
        return self.pictures.photo(name, least)


def _pictures(config: PointingConfig) -> Pictures:
    return Pictures(config, grid=config.model.attention)


def _pointed(model: RegionPointer, batch: GroundingBatch) -> RegionScores:
    kind = model.regions.map.weight.dtype
    features = None if batch.features is None else batch.features.to(kind)
    pictures = batch.photos if model.network is not None else batch.photos.to(kind)
    regions = Regions(features, batch.edges, batch.region_photo_index)
    pointed: RegionScores = model(pictures, batch.photo_index, batch.tokens, batch.mask, regions)
    return pointed


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _regions(questions: Sequence[Question]) -> list[str]:
    """Candidates of all questions, each once, in an order that does not depend on theirs."""
    return sorted({choice for question in questions for choice in question.choices})


def _chosen(choices: Sequence[str], scores: Sequence[Sequence[float]]) -> Reply:
    """Returns a reply that does not depend on the order of candidates; `scores` of every model."""
    order = in_order(choices)
    found = reply("", [choices[place] for place in order], [[own[place] for place in order] for own in scores])
    ordered = reordered(found, order)
    return ordered._replace(answer=choices[ordered.chosen])
