"""Tokenizers: byte-pair, word and character vocabularies for sentences and for running text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from unrolled.config import Vocabulary as VocabularyConfig
from unrolled.errors import UserError

PAD, BEGIN, END, UNKNOWN = 0, 1, 2, 3
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]


class Vocabulary:
    """Token ids of texts and back, over a `tokenizers.Tokenizer`; see `learn_vocabulary`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    @property
    def special_ids(self) -> tuple[int, ...]:
        """Ids that stand for no text of their own."""
        ids = map(self._tokenizer.token_to_id, SPECIAL)
        return tuple(id for id in ids if id is not None)

    @property
    def is_closed(self) -> bool:
        """Whether tokens are characters without an unknown one, as of running text."""
        return not self.special_ids

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the token ids of sentences, without begin and end symbols."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Returns detokenised sentences."""
        return [text.strip() for text in self._tokenizer.decode_batch([list(row) for row in rows])]

    def encode_text(self, text: str, where: str) -> np.ndarray:
        """Returns the token ids of a running text, int32 `(tokens,)`.

        Args:
            where: names the text in an error.

        Raises:
            UserError: the vocabulary is closed, and a character of the text is not in it.
        """
        if self.is_closed:
            self._check_characters(text, where)
        encodings = self._tokenizer.encode_batch_fast(_lines(text))  # no token reaches over a newline
        return np.fromiter((id for encoding in encodings for id in encoding.ids), dtype=np.int32)

    def decode_text(self, ids: list[int]) -> str:
        """Returns the running text of token ids, spaces at both ends included."""
        return str(self._tokenizer.decode(ids))

    def _check_characters(self, text: str, where: str) -> None:
        if self._tokenizer.normalizer is not None:
            text = str(self._tokenizer.normalizer.normalize_str(text))
        unknown = set(text) - self._tokenizer.get_vocab().keys()
        if unknown:
            place, character = next((i, c) for i, c in enumerate(text) if c in unknown)
            raise UserError(
                f"{where}: the character {character!r} (at place {place + 1:,}) is not in the training text, so the "
                f"model does not know it; it knows {len(self)} characters."
            )

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """Returns the tokens of ids."""
        return [str(self._tokenizer.id_to_token(id)) for id in ids]

    def detokenize(self, tokens: Sequence[str]) -> str:
        """Returns the text of tokens, some of which may belong to another vocabulary."""
        return str(self._tokenizer.decoder.decode(list(tokens))).strip()

    def surface_tokens(self, texts: Sequence[str]) -> list[list[str]]:
        """Returns the tokens of sentences with unknown ones as they are spelled in the text."""
        return [
            [
                token if id != UNKNOWN else self._spelling(text, *span)
                for id, token, span in zip(encoding.ids, encoding.tokens, encoding.offsets, strict=True)
            ]
            for text, encoding in zip(texts, self._tokenizer.encode_batch(list(texts)), strict=True)
        ]

    def _spelling(self, text: str, start: int, stop: int) -> str:
        """Returns a part of a text, with the mark of a space before it where words carry one."""
        part = text[start:stop]
        if not isinstance(self._tokenizer.decoder, decoders.Metaspace):
            return part
        spaced = start == 0 or text[start].isspace() or text[start - 1].isspace()
        return ("▁" if spaced else "") + part.strip()

    def save(self, path: Path) -> None:
        """Writes one JSON file, the format of `tokenizers`."""
        path.write_text(self._tokenizer.to_str(pretty=True), encoding="utf-8")

    @classmethod
    def load(cls, path: Path, *, running_text: bool = False) -> Vocabulary:
        """Reads a file written by `save`.

        Args:
            running_text: as of `learn_vocabulary`.

        Raises:
            UserError: the file is missing or is not such a vocabulary.
        """
        try:
            tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{path}: no such vocabulary file.") from None
        except Exception as error:  # tokenizers raises bare Exception
            raise UserError(f"{path}: is not a vocabulary file ({error}).") from None
        if not running_text and [tokenizer.id_to_token(id) for id in range(len(SPECIAL))] != SPECIAL:
            raise UserError(f"{path}: its first entries are not {', '.join(SPECIAL)}.")
        return cls(tokenizer)


def learn_vocabulary(texts: Iterable[str], config: VocabularyConfig, *, running_text: bool = False) -> Vocabulary:
    """Learns a vocabulary of `config.kind` from texts of the training split.

    Words and byte pairs carry a mark of the space before them and punctuation stands alone, so that joining the
    tokens gives the text again (Sennrich et al. 2016; Kudo & Richardson 2018). Spaces are characters like any
    other in a character vocabulary.

    Args:
        texts: sentences, or running texts.
        running_text: The vocabulary of a language model: no Unicode normalisation; newlines are tokens; unknown is
            the only special token, with id 0. Characters are all included, numbered by first occurrence, and have no
            special token (`Vocabulary.is_closed`). Otherwise ids 0 … 3 are `SPECIAL`.
    """
    steps = ([] if running_text else [normalizers.NFC()]) + ([normalizers.Lowercase()] if config.lowercase else [])
    normalizer = normalizers.Sequence(steps)
    if running_text:
        texts = chain.from_iterable(map(_lines, texts))
    unknown = SPECIAL[UNKNOWN]
    options: dict[str, Any] = {"vocab_size": config.size, "min_frequency": config.min_frequency, "show_progress": False}
    options["special_tokens"] = [unknown] if running_text else SPECIAL
    trainer: trainers.Trainer | None
    if config.kind == "bpe":
        tokenizer, trainer = Tokenizer(models.BPE(unk_token=unknown)), trainers.BpeTrainer(**options)
    elif running_text and config.kind == "character":
        characters = dict.fromkeys(chain.from_iterable(map(normalizer.normalize_str, texts)))
        ids = {character: id for id, character in enumerate(characters)}
        tokenizer, trainer = Tokenizer(models.WordLevel(ids, unk_token="")), None
    else:
        tokenizer, trainer = Tokenizer(models.WordLevel(unk_token=unknown)), trainers.WordLevelTrainer(**options)
    if steps:
        tokenizer.normalizer = normalizer
    if config.kind == "character":
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        tokenizer.decoder = decoders.Fuse()
    else:
        newlines = [pre_tokenizers.Split(Regex(r"\n"), "isolated")] if running_text else []
        scheme = "never" if running_text else "always"
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [*newlines, pre_tokenizers.Metaspace(prepend_scheme=scheme), pre_tokenizers.Punctuation("isolated")]
        )
        tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    if trainer is not None:
        tokenizer.train_from_iterator(texts, trainer)
    # Special tokens become ordinary entries: a text that contains "</s>" must not end the sentence.
    description = json.loads(tokenizer.to_str()) | {"added_tokens": []}
    return Vocabulary(Tokenizer.from_str(json.dumps(description)))


def _lines(text: str) -> list[str]:
    """Splits after every newline and nowhere else."""
    pieces = text.split("\n")
    return [piece + "\n" for piece in pieces[:-1]] + ([pieces[-1]] if pieces[-1] else [])
