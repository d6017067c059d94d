"""Builders: from a config's model section to a model."""

from __future__ import annotations

from torch import Tensor, nn

from unrolled.config import Engine, Recurrent, RecurrentWithInitialState
from unrolled.config.captioning import CaptioningDecoder, CaptioningModel
from unrolled.config.language_modeling import LanguageModelConfig
from unrolled.config.translation import TranslationDecoder, TranslationModel
from unrolled.config.vqa import GroundingModel, VQAModel
from unrolled.models.attention import Attention, HardAttention
from unrolled.models.attention_feeding import ContextFeeding
from unrolled.models.decoder import Decoder, EntryPoint, SummaryProjection, VisualMemory
from unrolled.models.encoder_decoder import EncoderDecoder, Penalties
from unrolled.models.encoders import ImageEncoder, TextEncoder
from unrolled.models.heads import VocabularyHead
from unrolled.models.region_pointer import RegionEncoder, RegionPointer
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
    """Builds the stack that `config` describes for inputs of `input_size` features; the rest as of `Stack`."""
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
    """Builds the dropout around the stack that `config` describes."""
    return Dropout(config.dropout, variational=config.variational)


def build_embedding(vocabulary: int, size: int) -> nn.Embedding:
    """Builds an embedding whose vectors have an initial norm of about 1."""
    embedding = nn.Embedding(vocabulary, size)
    nn.init.normal_(embedding.weight, std=size**-0.5)
    return embedding


def build_translator(config: TranslationModel, input_vocabulary: int, target_vocabulary: int) -> EncoderDecoder:
    """Builds a translation model for vocabularies of these sizes."""
    encoder, decoder = config.encoder, config.decoder
    input_embedding = build_embedding(input_vocabulary, encoder.embedding)
    tied = config.tie_embeddings
    target_embedding = input_embedding if tied else build_embedding(target_vocabulary, decoder.embedding)
    encoder_stack = build_stack(encoder, encoder.embedding, config.engine, bidirectional=encoder.bidirectional)
    output = _output_size(decoder)
    input_feeding = decoder.attention.input_feeding
    decoder_stack = build_stack(decoder, decoder.embedding + (output if input_feeding else 0), config.engine)
    attends = decoder.conditioning == "attention"
    memory_size = encoder_stack.output_size
    return EncoderDecoder(
        TextEncoder(input_embedding, encoder_stack, build_dropout(encoder)),
        Decoder(
            target_embedding,
            decoder_stack,
            memory_size,
            output,
            Attention(decoder.attention.score, decoder.hidden, memory_size) if attends else None,
            input_feeding=input_feeding,
            dropout=build_dropout(decoder),
        ),
        VocabularyHead(output, target_vocabulary, target_embedding.weight if decoder.tie else None),
    )


def _output_size(config: TranslationDecoder | CaptioningDecoder) -> int:
    """Features of the decoder's outputs; a tied output matrix has the size of the embedding."""
    return config.embedding if config.tie else config.hidden


ENTRY_POINTS: dict[str, EntryPoint] = {
    "first": "first",
    "once": "once",
    "every": "every",
    "reconstruct": "every",
    "output": "output",
}
"""Entry point of the projected summary by conditioning; all other conditionings attend to positions."""


def build_captioner(
    config: CaptioningModel,
    channels: int,
    positions: int,
    vocabulary: int,
    penalties: Penalties,
    network: nn.Module | None = None,
) -> EncoderDecoder:
    """Builds a captioning model.

    Args:
        channels: features of a position of the grids.
        positions: of a grid.
        vocabulary: number of tokens.
        network: pixels → grids, if it is trained too.
    """
    attends = config.decoder.conditioning not in ENTRY_POINTS
    encoder = ImageEncoder(
        channels,
        config.encoder.size,
        Dropout(config.encoder.dropout),
        network=network,
        grid=attends,
        position_embeddings=positions if attends and config.encoder.places else 0,
    )
    embedding = build_embedding(vocabulary, config.decoder.embedding)
    build = _build_attending_decoder if attends else _build_projecting_decoder
    decoder = build(config.decoder, embedding, encoder.memory_size, config.engine)
    output = _output_size(config.decoder)
    head = VocabularyHead(output, vocabulary, embedding.weight if config.decoder.tie else None)
    return EncoderDecoder(encoder, decoder, head, penalties)


def _build_attending_decoder(
    config: CaptioningDecoder, embedding: nn.Embedding, memory_size: int, engine: Engine
) -> Decoder:
    kind = HardAttention if config.attention.hard else Attention
    attention, feeding = kind(config.attention.score, config.hidden, memory_size), None
    if config.attention.fed:
        feeding = ContextFeeding(config.hidden, gated=config.attention.gated)
    stack = build_stack(config, config.embedding, engine, extra_input_size=memory_size if feeding else 0)
    return Decoder(
        embedding,
        stack,
        memory_size,
        _output_size(config),
        attention,
        context_feeding=feeding,
        deep_output=True,
        dropout=build_dropout(config),
    )


def _build_projecting_decoder(
    config: CaptioningDecoder, embedding: nn.Embedding, memory_size: int, engine: Engine
) -> Decoder:
    entry, output = ENTRY_POINTS[config.conditioning], _output_size(config)
    size = {"first": config.embedding, "output": output}.get(entry, config.picture)
    extra = size if entry in ("once", "every") else 0
    visual = None
    if config.conditioning == "reconstruct":
        recalling = config.model_copy(update={"hidden": config.recall, "layers": 1})
        visual = VisualMemory(build_stack(recalling, config.embedding, engine), memory_size)
    return Decoder(
        embedding,
        build_stack(config, config.embedding, engine, extra_input_size=extra, extra_input_layer=config.layer - 1),
        memory_size,
        output,
        None,
        summary_projection=SummaryProjection(memory_size, size, entry, build_dropout(config)),
        visual=visual,
        deep_output=entry == "output",
        dropout=build_dropout(config),
    )


QUESTION_POSITION_STD = 1.0
"""Initial deviation of position embeddings for questions: with small ones, questions about a position are learned long
after others."""


def build_answer_classifier(
    config: VQAModel,
    channels: int,
    positions: int,
    vocabulary: int,
    answers: int,
    network: nn.Module | None = None,
    texts: Tensor | None = None,
) -> AnswerClassifier:
    """Builds a model of `model.answers: classes`, or `vectors`.

    Args:
        channels: features of a position of the grids.
        positions: of a grid.
        vocabulary: number of tokens of questions.
        answers: number of answers to choose from.
        network: pixels → grids, if it is trained too.
        texts: tokens of the answers, `(answers, most)`, padded with -1, if they are vectors.
    """
    settings, question = config.question, None
    if config.sees != "picture":
        stack = build_stack(settings, settings.embedding, config.engine)
        question = TextEncoder(build_embedding(vocabulary, settings.embedding), stack, build_dropout(settings))
    picture = build_image_encoder(config, channels, positions, network) if config.sees != "question" else None
    dropout = Dropout(settings.dropout)
    question_size = None if question is None else question.stack.output_size
    picture_size = None if picture is None else picture.memory_size
    fusion: HadamardFusion | StackedAttention
    if config.attends:
        assert question_size is not None and picture_size is not None
        fusion = StackedAttention(question_size, picture_size, config.joint, config.hops, dropout)
    else:
        fusion = HadamardFusion(question_size, picture_size, config.joint, dropout)
    head = VocabularyHead(config.joint, answers) if texts is None else AnswerVectors(config.joint, vocabulary, texts)
    return AnswerClassifier(question, picture, fusion, head)


def build_answer_generator(
    config: VQAModel, channels: int, positions: int, vocabulary: int, network: nn.Module | None = None
) -> EncoderDecoder:
    """Builds a model of `model.answers: words` (Zhu et al. 2016, "Visual7W"): one recurrent network reads the picture,
    then the question, and writes the answer; with attention, every step after the picture's attends to the positions
    from the state before it. Arguments as of `build_answer_classifier`; questions and answers share the vocabulary."""
    picture = build_image_encoder(config, channels, positions, network)
    settings, size = config.question, picture.memory_size
    embedding = build_embedding(vocabulary, settings.embedding)
    attention = Attention("additive", settings.hidden, size) if config.attends else None
    decoder = Decoder(
        embedding,
        build_stack(settings, settings.embedding, config.engine, extra_input_size=size if attention else 0),
        size,
        settings.embedding,
        attention,
        context_feeding=ContextFeeding(settings.hidden, gated=False) if attention else None,
        summary_projection=SummaryProjection(size, settings.embedding, "first", build_dropout(settings)),
        dropout=build_dropout(settings),
    )
    return EncoderDecoder(picture, decoder, VocabularyHead(settings.embedding, vocabulary, embedding.weight))


def build_image_encoder(
    config: VQAModel, channels: int, positions: int, network: nn.Module | None = None
) -> ImageEncoder:
    """Builds the encoder of pictures that `model.encoder` describes; arguments as of `build_answer_classifier`."""
    return ImageEncoder(
        channels,
        config.encoder.size,
        Dropout(config.encoder.dropout),
        network=network,
        grid=config.attends,
        position_embeddings=positions if config.attends and config.encoder.places else 0,
        position_std=QUESTION_POSITION_STD,
    )


def build_region_pointer(
    config: GroundingModel, channels: int, positions: int, vocabulary: int, network: nn.Module | None = None
) -> RegionPointer:
    """Builds a grounding model.

    Args:
        channels: features of a position of the grids, and of a cropped region.
        positions: of a grid.
        vocabulary: number of tokens of questions.
        network: pixels → grids, if it is trained too.
    """
    question, regions = config.question, config.regions
    encoder = ImageEncoder(
        channels,
        config.encoder.size,
        Dropout(config.encoder.dropout),
        grid=config.attention,
        position_embeddings=positions if config.encoder.places else 0,
    )
    size = encoder.memory_size
    embedding = build_embedding(vocabulary, question.embedding)
    stack = build_stack(question, question.embedding, config.engine, extra_input_size=size if config.attention else 0)
    projection = SummaryProjection(size, question.embedding, "first", build_dropout(question))
    attention = Attention("additive", question.hidden, size) if config.attention else None
    reader = Decoder(
        embedding,
        stack,
        size,
        None,
        attention,
        context_feeding=ContextFeeding(question.hidden, gated=False) if attention else None,
        summary_projection=projection,
        dropout=build_dropout(question),
    )
    cells = regions.cells if regions.by == "align" else 1
    dropout = Dropout(regions.dropout)
    region_encoder = RegionEncoder(
        channels * cells**2, question.hidden, cells, use_location=regions.places, dropout=dropout
    )
    return RegionPointer(encoder, reader, region_encoder, network, sees=config.sees != "question")


def build_language_model(config: LanguageModelConfig, vocabulary: int) -> LanguageModel:
    """Builds a language model for a vocabulary of this size."""
    embedding = None if config.embedding is None else build_embedding(vocabulary, config.embedding)
    stack = build_stack(config, vocabulary if embedding is None else embedding.embedding_dim, config.engine)
    tied = embedding.weight if config.tie and embedding is not None else None
    head = VocabularyHead(config.hidden, vocabulary, tied)
    return LanguageModel(vocabulary, embedding, stack, head, build_dropout(config))
