"""From the config of captioning to its model."""

from __future__ import annotations

from torch import nn

from unrolled.config.captioning import Decoder as DecoderConfig
from unrolled.config.captioning import Model
from unrolled.config.sections import Engine
from unrolled.models.attention import Attention
from unrolled.models.context_feeding import ContextFeeding
from unrolled.models.decoder import Decoder
from unrolled.models.encoder_decoder import EncoderDecoder, make_embedding
from unrolled.models.glance import Enters, Glance
from unrolled.models.hard_attention import HardAttention
from unrolled.models.heads import VocabularyHead
from unrolled.models.image_encoder import ImageEncoder
from unrolled.models.penalties import Penalties
from unrolled.models.recurrent import build_dropout, build_stack
from unrolled.models.visual_memory import VisualMemory
from unrolled.recurrence import Dropout

ENTERS: dict[str, Enters] = {
    "first": "first",
    "once": "once",
    "every": "every",
    "reconstruct": "every",
    "output": "output",
}
"""Where a glance enters, by conditioning; the others look at positions."""


def build_captioner(
    config: Model,
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


def _decoder(config: DecoderConfig, embedding: nn.Embedding, memory_size: int, output: int, engine: Engine) -> Decoder:
    enters = ENTERS.get(config.conditioning)
    if enters is not None:
        return _glancing(config, embedding, memory_size, output, engine, enters)
    kind = HardAttention if config.attention.hard else Attention
    attention, fed = kind(config.attention.score, config.hidden, memory_size), None
    if config.attention.fed:
        fed = ContextFeeding(config.hidden, gated=config.attention.gated)
    stack = build_stack(config, config.embedding, engine, beside=memory_size if fed else 0)
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
    config: DecoderConfig, embedding: nn.Embedding, memory_size: int, output: int, engine: Engine, enters: Enters
) -> Decoder:
    size = {"first": config.embedding, "output": output}.get(enters, config.picture)
    beside = size if enters in ("once", "every") else 0
    visual = None
    if config.conditioning == "reconstruct":
        recalling = config.model_copy(update={"hidden": config.recall, "layers": 1})
        visual = VisualMemory(build_stack(recalling, config.embedding, engine), memory_size)
    return Decoder(
        embedding,
        build_stack(config, config.embedding, engine, beside=beside, beside_layer=config.layer - 1),
        memory_size,
        output,
        None,
        glance=Glance(memory_size, size, enters, build_dropout(config)),
        visual=visual,
        deep_output=enters == "output",
        dropout=build_dropout(config),
    )
