"""Models: encoders, attention, the decoder, heads, and their builders.

An encoder computes an `EncoderOutput`; the decoder reads it, in windows for training and token by token for search; a
head turns the decoder's outputs into scores and losses.
"""

from __future__ import annotations

from unrolled.models.attention import Attention
from unrolled.models.attention_feeding import cut_ragged_window, total_steps
from unrolled.models.builders import (
    build_answer_classifier,
    build_answer_generator,
    build_captioner,
    build_dropout,
    build_language_model,
    build_region_pointer,
    build_stack,
    build_translator,
)
from unrolled.models.decoder import Decoder, DecoderState
from unrolled.models.encoder_decoder import EncoderDecoder, Penalties
from unrolled.models.encoders import EncoderOutput, ImageEncoder, Rows, TextEncoder
from unrolled.models.heads import Precision, Scorer, VocabularyHead, topk
from unrolled.models.region_pointer import RegionPointer, Regions, RegionScores
from unrolled.models.sequence_model import PRIME, LanguageModel, SequenceModel
from unrolled.models.vqa import AnswerClassifier, FusedFeatures

__all__ = [
    "PRIME",
    "AnswerClassifier",
    "Attention",
    "Decoder",
    "DecoderState",
    "EncoderDecoder",
    "EncoderOutput",
    "FusedFeatures",
    "ImageEncoder",
    "LanguageModel",
    "Penalties",
    "Precision",
    "RegionPointer",
    "RegionScores",
    "Regions",
    "Rows",
    "Scorer",
    "SequenceModel",
    "TextEncoder",
    "VocabularyHead",
    "build_answer_classifier",
    "build_answer_generator",
    "build_captioner",
    "build_dropout",
    "build_language_model",
    "build_region_pointer",
    "build_stack",
    "build_translator",
    "cut_ragged_window",
    "topk",
    "total_steps",
]
