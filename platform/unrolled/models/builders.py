"""Builders: from a config section to a model.

From a config's keys to a stack of cells.

Encoder, decoder and head as one model that can be trained and searched.

From the config of captioning to its model.

From the config of question answering to its model.

A recurrent language model: what comes next, from everything before (Mikolov et al. 2010).

Choosing a region of a photograph that a question asks for (Zhu et al. 2016, "Visual7W", section 5.2).
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from unrolled.config import Engine, Recurrent, RecurrentWithInitialState
from unrolled.config.captioning import CaptioningDecoder, CaptioningModel
from unrolled.config.language_modeling import LanguageModelConfig
from unrolled.config.translation import TranslationModel
from unrolled.config.vqa import GroundingModel, VQAModel
from unrolled.models.attention import Attention, HardAttention
from unrolled.models.attention_feeding import ContextFeeding
from unrolled.models.decoder import Decoder, EntryPoint, ImageVector, VisualMemory
from unrolled.models.encoder_decoder import EncoderDecoder, Penalties
from unrolled.models.encoders import ImageEncoder, TextEncoder
from unrolled.models.heads import VocabularyHead
from unrolled.models.region_pointer import QuestionReader, RegionEncoder, RegionPointer
from unrolled.models.sequence_model import LanguageModel
from unrolled.models.vqa import AnswerClassifier, AnswerVectors, HadamardFusion, StackedAttention
from unrolled.recurrence import CELLS, Dropout, Stack


def build_stack(
    config: Recurrent,
    input_size: int,
    engine: Engine,
    *,
    bidirectional: bool = False,
    extra_input_size: int = 0,
    extra_input_layer: int = 0,
) -> Stack:
    """Makes the stack that `config` describes for inputs of `input_size` features; the rest as in `Stack`."""
    return Stack(
        CELLS[config.cell],
        input_size,
        config.hidden,
        layers=config.layers,
        bidirectional=bidirectional,
        dropout=config.dropout,
        variational=config.variational,
        residual=config.residual,
        layer_norm=config.layer_norm,
        zoneout=config.zoneout,
        initialization=config.initialization,
        learned_state=isinstance(config, RecurrentWithInitialState) and config.learned_state,
        extra_input_size=extra_input_size,
        extra_input_layer=extra_input_layer,
        engine=engine,
    )


def build_dropout(config: Recurrent) -> Dropout:
    """Makes the dropout around the stack that `config` describes."""
    return Dropout(config.dropout, variational=config.variational)


def build_translator(config: TranslationModel, input_vocabulary: int, target_vocabulary: int) -> EncoderDecoder:
    """Makes the model that `config` describes for vocabularies of these sizes."""
    encoder, decoder = config.encoder, config.decoder
    reading = make_embedding(input_vocabulary, encoder.embedding)
    writing = reading if config.tie_embeddings else make_embedding(target_vocabulary, decoder.embedding)
    encoder_stack = build_stack(encoder, encoder.embedding, config.engine, bidirectional=encoder.bidirectional)
    # A tied output matrix is as wide as the embedding.
    output = decoder.embedding if decoder.tie else decoder.hidden
    feeding = decoder.attention.input_feeding
    decoder_stack = build_stack(decoder, decoder.embedding + (output if feeding else 0), config.engine)
    attends = decoder.conditioning == "attention"
    memory = encoder_stack.output_size
    return EncoderDecoder(
        TextEncoder(reading, encoder_stack, build_dropout(encoder)),
        Decoder(
            writing,
            decoder_stack,
            memory,
            output,
            Attention(decoder.attention.score, decoder.hidden, memory) if attends else None,
            input_feeding=feeding,
            dropout=build_dropout(decoder),
        ),
        VocabularyHead(output, target_vocabulary, writing.weight if decoder.tie else None),
    )


def make_embedding(vocabulary: int, size: int) -> nn.Embedding:
    """Returns an embedding whose vectors have a norm of about 1 at first."""
    embedding = nn.Embedding(vocabulary, size)
    nn.init.normal_(embedding.weight, std=size**-0.5)
    return embedding


ENTERS: dict[str, EntryPoint] = {
    "first": "first",
    "once": "once",
    "every": "every",
    "reconstruct": "every",
    "output": "output",
}
"""Where a glance enters, by conditioning; the others look at positions."""


def build_captioner(
    config: CaptioningModel,
    channels: int,
    positions: int,
    vocabulary: int,
    penalties: Penalties,
    network: nn.Module | None = None,
) -> EncoderDecoder:
    """Makes the model that `config` describes.

    Args:
        channels: features of a position of the grids.
        positions: of a grid.
        vocabulary: tokens.
        network: makes grids of pixels, where it is trained too.
    """
    attends = config.decoder.conditioning not in ENTERS
    placed = positions if attends and config.encoder.places else 0
    dropout = Dropout(config.encoder.dropout)
    encoder = ImageEncoder(channels, config.encoder.size, dropout, network=network, grid=attends, placed=placed)
    embedding = make_embedding(vocabulary, config.decoder.embedding)
    # A tied output matrix is as wide as the embedding.
    output = config.decoder.embedding if config.decoder.tie else config.decoder.hidden
    decoder = _decoder(config.decoder, embedding, encoder.memory_size, output, config.engine)
    head = VocabularyHead(output, vocabulary, embedding.weight if config.decoder.tie else None)
    return EncoderDecoder(encoder, decoder, head, penalties)


def _decoder(
    config: CaptioningDecoder, embedding: nn.Embedding, memory_size: int, output: int, engine: Engine
) -> Decoder:
    enters = ENTERS.get(config.conditioning)
    if enters is not None:
        return _glancing(config, embedding, memory_size, output, engine, enters)
    kind = HardAttention if config.attention.hard else Attention
    attention, fed = kind(config.attention.score, config.hidden, memory_size), None
    if config.attention.fed:
        fed = ContextFeeding(config.hidden, gated=config.attention.gated)
    stack = build_stack(config, config.embedding, engine, extra_input_size=memory_size if fed else 0)
    return Decoder(
        embedding,
        stack,
        memory_size,
        output,
        attention,
        context_feeding=fed,
        deep_output=True,
        dropout=build_dropout(config),
    )


def _glancing(
    config: CaptioningDecoder,
    embedding: nn.Embedding,
    memory_size: int,
    output: int,
    engine: Engine,
    enters: EntryPoint,
) -> Decoder:
    size = {"first": config.embedding, "output": output}.get(enters, config.picture)
    beside = size if enters in ("once", "every") else 0
    visual = None
    if config.conditioning == "reconstruct":
        recalling = config.model_copy(update={"hidden": config.recall, "layers": 1})
        visual = VisualMemory(build_stack(recalling, config.embedding, engine), memory_size)
    return Decoder(
        embedding,
        build_stack(config, config.embedding, engine, extra_input_size=beside, extra_input_layer=config.layer - 1),
        memory_size,
        output,
        None,
        glance=ImageVector(memory_size, size, enters, build_dropout(config)),
        visual=visual,
        deep_output=enters == "output",
        dropout=build_dropout(config),
    )


SPREAD = 1.0
"""Of the places' first vectors: with small ones, a question for what stands at a place is learned long after others."""


def build_answer_classifier(
    config: VQAModel,
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
    picture = build_image_encoder(config, channels, positions, network) if config.sees != "question" else None
    dropout = Dropout(config.question.dropout)
    asked = None if question is None else question.stack.output_size
    seen = None if picture is None else picture.memory_size
    joint: HadamardFusion | StackedAttention
    if config.attends:
        assert asked is not None and seen is not None
        joint = StackedAttention(asked, seen, config.joint, config.hops, dropout)
    else:
        joint = HadamardFusion(asked, seen, config.joint, dropout)
    head = VocabularyHead(config.joint, answers) if texts is None else AnswerVectors(config.joint, vocabulary, texts)
    return AnswerClassifier(question, picture, joint, head)


def build_answer_generator(
    config: VQAModel, channels: int, positions: int, vocabulary: int, network: nn.Module | None = None
) -> EncoderDecoder:
    """Makes a model of `model.answers: words` (Zhu et al. 2016, "Visual7W"): one recurrent network reads the picture,
    then the question, and writes the answer; with attention every step after the picture's looks at the positions
    from the state before it. Arguments as of `build_classifier`; questions and answers share the vocabulary."""
    picture = build_image_encoder(config, channels, positions, network)
    settings = config.question
    embedding = make_embedding(vocabulary, settings.embedding)
    attention = Attention("additive", settings.hidden, picture.memory_size) if config.attends else None
    decoder = Decoder(
        embedding,
        build_stack(
            settings, settings.embedding, config.engine, extra_input_size=picture.memory_size if attention else 0
        ),
        picture.memory_size,
        settings.embedding,
        attention,
        context_feeding=ContextFeeding(settings.hidden, gated=False) if attention else None,
        glance=ImageVector(picture.memory_size, settings.embedding, "first", build_dropout(settings)),
        dropout=build_dropout(settings),
    )
    return EncoderDecoder(picture, decoder, VocabularyHead(settings.embedding, vocabulary, embedding.weight))


def build_question_encoder(config: VQAModel, vocabulary: int) -> TextEncoder:
    """Makes what reads questions, by `model.question`."""
    settings = config.question
    stack = build_stack(settings, settings.embedding, config.engine)
    return TextEncoder(make_embedding(vocabulary, settings.embedding), stack, build_dropout(settings))


def build_image_encoder(
    config: VQAModel, channels: int, positions: int, network: nn.Module | None = None
) -> ImageEncoder:
    """Makes what sees pictures, by `model.encoder`; arguments as of `build_classifier`."""
    placed = positions if config.attends and config.encoder.places else 0
    dropout = Dropout(config.encoder.dropout)
    grid = config.attends
    return ImageEncoder(
        channels, config.encoder.size, dropout, network=network, grid=grid, placed=placed, spread=SPREAD
    )


def build_language_model(config: LanguageModelConfig, vocabulary: int) -> LanguageModel:
    """Makes the model that `config` describes for a vocabulary of this size."""
    embedding = None if config.embedding is None else nn.Embedding(vocabulary, config.embedding)
    if embedding is not None:
        nn.init.normal_(embedding.weight, std=cast(int, config.embedding) ** -0.5)
    stack = build_stack(config, vocabulary if embedding is None else embedding.embedding_dim, config.engine)
    tied = embedding.weight if config.tie and embedding is not None else None
    head = VocabularyHead(config.hidden, vocabulary, tied)
    return LanguageModel(vocabulary, embedding, stack, head, build_dropout(config))


def build_region_pointer(
    config: GroundingModel, channels: int, positions: int, vocabulary: int, network: nn.Module | None = None
) -> RegionPointer:
    """Makes the model that `config` describes.

    Args:
        channels: features of a position of the grids, and of a region that is cut out.
        positions: of a grid.
        vocabulary: tokens of questions.
        network: makes grids of pixels, where it is trained too.
    """
    asked, attends = config.question, config.attention
    placed = positions if config.encoder.places else 0
    encoder = ImageEncoder(channels, config.encoder.size, Dropout(config.encoder.dropout), grid=attends, placed=placed)
    size = encoder.memory_size
    reader = QuestionReader(
        make_embedding(vocabulary, asked.embedding),
        build_stack(asked, asked.embedding, config.engine, extra_input_size=size if attends else 0),
        ImageVector(size, asked.embedding, "first", build_dropout(asked)),
        Attention("additive", asked.hidden, size) if attends else None,
        build_dropout(asked),
    )
    settings = config.regions
    cells = settings.cells if settings.by == "align" else 1
    regions = RegionEncoder(
        channels * cells**2, asked.hidden, cells, places=settings.places, dropout=Dropout(settings.dropout)
    )
    return RegionPointer(encoder, reader, regions, network, sees=config.sees != "question")
