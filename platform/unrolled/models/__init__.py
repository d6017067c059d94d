"""Encoders, the decoder, attention and heads, one subject a file."""

from __future__ import annotations

from unrolled.models.attention import Attention
from unrolled.models.builders import build_captioner, build_language_model, build_translator
from unrolled.models.decoder import Decoder, DecoderState
from unrolled.models.encoder_decoder import EncoderDecoder, Penalties
from unrolled.models.encoders import EncoderOutput, Rows, TextEncoder
from unrolled.models.heads import VocabularyHead
from unrolled.models.sequence_model import LanguageModel

__all__ = [
    "Attention",
    "Decoder",
    "DecoderState",
    "EncoderDecoder",
    "EncoderOutput",
    "LanguageModel",
    "Penalties",
    "Rows",
    "TextEncoder",
    "VocabularyHead",
    "build_captioner",
    "build_language_model",
    "build_translator",
]
