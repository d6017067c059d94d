"""From the config of question answering to its model."""

from __future__ import annotations

from torch import Tensor, nn

from unrolled.config.answering import Model
from unrolled.models.answer_classifier import AnswerClassifier
from unrolled.models.answer_vectors import AnswerVectors
from unrolled.models.attention import Attention
from unrolled.models.context_feeding import ContextFeeding
from unrolled.models.decoder import Decoder
from unrolled.models.encoder import TextEncoder
from unrolled.models.encoder_decoder import EncoderDecoder, make_embedding
from unrolled.models.glance import Glance
from unrolled.models.heads import VocabularyHead
from unrolled.models.image_encoder import ImageEncoder
from unrolled.models.joint import Product, StackedAttention
from unrolled.models.recurrent import build_dropout, build_stack
from unrolled.recurrence import Dropout

SPREAD = 1.0
"""Of the places' first vectors: with small ones, a question for what stands at a place is learned long after others."""


def build_classifier(
    config: Model,
    channels: int,
    positions: int,
    vocabulary: int,
    answers: int,
    network: nn.Module | None = None,
    texts: Tensor | None = None,
) -> AnswerClassifier:
    """Makes a model of `model.answers: classes`, or `vectors`.

    Args:
        channels: features of a position of the grids.
        positions: of a grid.
        vocabulary: tokens of questions.
        answers: how many there are to choose from.
        network: makes grids of pixels, where it is trained too.
        texts: tokens of the answers, `(answers, most)`, padded with -1, where they are vectors.
    """
    question = build_question_encoder(config, vocabulary) if config.sees != "picture" else None
    picture = build_picture_encoder(config, channels, positions, network) if config.sees != "question" else None
    dropout = Dropout(config.question.dropout)
    asked = None if question is None else question.stack.output_size
    seen = None if picture is None else picture.memory_size
    joint: Product | StackedAttention
    if config.attends:
        assert asked is not None and seen is not None
        joint = StackedAttention(asked, seen, config.joint, config.hops, dropout)
    else:
        joint = Product(asked, seen, config.joint, dropout)
    head = VocabularyHead(config.joint, answers) if texts is None else AnswerVectors(config.joint, vocabulary, texts)
    return AnswerClassifier(question, picture, joint, head)


def build_teller(
    config: Model, channels: int, positions: int, vocabulary: int, network: nn.Module | None = None
) -> EncoderDecoder:
    """Makes a model of `model.answers: words` (Zhu et al. 2016, "Visual7W"): one recurrent network reads the picture,
    then the question, and writes the answer; with attention every step after the picture's looks at the positions
    from the state before it. Arguments as of `build_classifier`; questions and answers share the vocabulary."""
    picture = build_picture_encoder(config, channels, positions, network)
    settings = config.question
    embedding = make_embedding(vocabulary, settings.embedding)
    attention = Attention("additive", settings.hidden, picture.memory_size) if config.attends else None
    decoder = Decoder(
        embedding,
        build_stack(settings, settings.embedding, config.engine, beside=picture.memory_size if attention else 0),
        picture.memory_size,
        settings.embedding,
        attention,
        context_feeding=ContextFeeding(settings.hidden, gated=False) if attention else None,
        glance=Glance(picture.memory_size, settings.embedding, "first", build_dropout(settings)),
        dropout=build_dropout(settings),
    )
    return EncoderDecoder(picture, decoder, VocabularyHead(settings.embedding, vocabulary, embedding.weight))


def build_question_encoder(config: Model, vocabulary: int) -> TextEncoder:
    """Makes what reads questions, by `model.question`."""
    settings = config.question
    stack = build_stack(settings, settings.embedding, config.engine)
    return TextEncoder(make_embedding(vocabulary, settings.embedding), stack, build_dropout(settings))


def build_picture_encoder(
    config: Model, channels: int, positions: int, network: nn.Module | None = None
) -> ImageEncoder:
    """Makes what sees pictures, by `model.encoder`; arguments as of `build_classifier`."""
    placed = positions if config.attends and config.encoder.places else 0
    dropout = Dropout(config.encoder.dropout)
    grid = config.attends
    return ImageEncoder(
        channels, config.encoder.size, dropout, network=network, grid=grid, placed=placed, spread=SPREAD
    )
