"""Encoders, the decoder, attention and heads, one subject a file."""

from __future__ import annotations

from unrolled.models.attention import Attention
from unrolled.models.captioner import build_captioner
from unrolled.models.decoder import Decoder, DecoderState
from unrolled.models.encoder import TextEncoder
from unrolled.models.encoder_decoder import EncoderDecoder, build_translator
from unrolled.models.heads import VocabularyHead
from unrolled.models.language_model import LanguageModel, build_language_model
from unrolled.models.memory import Memory
from unrolled.models.penalties import Penalties
from unrolled.models.rows import Rows

__all__ = [
    "Attention",
    "Decoder",
    "DecoderState",
    "EncoderDecoder",
    "LanguageModel",
    "Memory",
    "Penalties",
    "Rows",
    "TextEncoder",
    "VocabularyHead",
    "build_captioner",
    "build_language_model",
    "build_translator",
]
