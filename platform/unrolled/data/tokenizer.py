"""Tokenizers: byte-pair, word and character vocabularies.

Text to numbers and back, with nothing lost: byte-pair, word and character vocabularies over `tokenizers`.

The units of a running text: characters, words or byte pairs, numbered so that nothing of the text is lost.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from unrolled.config import Vocabulary as VocabularyConfig
from unrolled.errors import UserError

PAD, BEGIN, END, UNKNOWN = 0, 1, 2, 3
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]


class Vocabulary:
    """Args: `tokenizer` whose first four entries are `SPECIAL`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Turns texts into token numbers, without begin and end symbols."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Turns token numbers into texts as people write them (detokenised)."""
        return [text.strip() for text in self._tokenizer.decode_batch([list(row) for row in rows])]

    def tokens(self, row: Sequence[int]) -> list[str]:
        """Names the tokens one by one."""
        return [str(self._tokenizer.id_to_token(number)) for number in row]

    def join(self, tokens: Sequence[str]) -> str:
        """Turns names of tokens, of which some may be units of another vocabulary, into a text as people write it."""
        return str(self._tokenizer.decoder.decode(list(tokens))).strip()

    def units(self, texts: Sequence[str]) -> list[list[str]]:
        """Returns what each token stands for in its text: also what the vocabulary does not know, by its own words, and
        as the vocabulary would name it."""
        return [
            [
                name if number != UNKNOWN else self._named(text, *span)
                for number, name, span in zip(encoding.ids, encoding.tokens, encoding.offsets, strict=True)
            ]
            for text, encoding in zip(texts, self._tokenizer.encode_batch(list(texts)), strict=True)
        ]

    def _named(self, text: str, start: int, stop: int) -> str:
        """Names the unit at a place of a text, with the mark of a space before it where words carry one."""
        unit = text[start:stop]
        if not isinstance(self._tokenizer.decoder, decoders.Metaspace):
            return unit
        spaced = start == 0 or text[start].isspace() or text[start - 1].isspace()
        return ("▁" if spaced else "") + unit.strip()

    def save(self, path: Path) -> None:
        """Writes one JSON file, the format of `tokenizers`."""
        path.write_text(self._tokenizer.to_str(pretty=True), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Reads what `save` wrote.

        Raises:
            UserError: the file is missing or is not a tokenizer of ours.
        """
        try:
            tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{path}: no such vocabulary file.") from None
        except Exception as error:  # tokenizers raises bare Exception
            raise UserError(f"{path}: is not a vocabulary file ({error}).") from None
        if [tokenizer.id_to_token(number) for number in range(4)] != SPECIAL:
            raise UserError(f"{path}: its first entries are not {', '.join(SPECIAL)}.")
        return cls(tokenizer)


def learn_vocabulary(texts: Iterable[str], config: VocabularyConfig) -> Vocabulary:
    """Builds a vocabulary of `config.kind` from texts of the training split.

    Words and byte pairs carry a mark of the space before them and punctuation stands alone, so that joining the
    tokens gives the text again (Sennrich et al. 2016; Kudo & Richardson 2018). Spaces are characters like any
    other in a character vocabulary.
    """
    options: dict[str, Any] = {"special_tokens": SPECIAL, "show_progress": False, "min_frequency": config.min_frequency}
    trainer: trainers.Trainer
    if config.kind == "bpe":
        tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL[UNKNOWN]))
        trainer = trainers.BpeTrainer(vocab_size=config.size, **options)
    else:
        tokenizer = Tokenizer(models.WordLevel(unk_token=SPECIAL[UNKNOWN]))
        trainer = trainers.WordLevelTrainer(vocab_size=config.size, **options)
    if config.kind == "character":
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        tokenizer.decoder = decoders.Fuse()
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation("isolated")]
        )
        tokenizer.decoder = decoders.Metaspace()
    steps = [normalizers.NFC()] + ([normalizers.Lowercase()] if config.lowercase else [])
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.train_from_iterator(texts, trainer)
    return Vocabulary(plain_specials(tokenizer))


def plain_specials(tokenizer: Tokenizer) -> Tokenizer:
    """Makes the special symbols mere entries: a text that contains "</s>" must not end the sentence."""
    description = json.loads(tokenizer.to_str())
    description["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(description))


UNKNOWN_SYMBOL = "<unk>"


class Symbols:
    """Args: `tokenizer` whose unknown symbol, if it has one, is `UNKNOWN` and has the number 0."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.names = [str(tokenizer.id_to_token(number)) for number in range(tokenizer.get_vocab_size())]
        self.characters = not isinstance(tokenizer.model, models.BPE) and tokenizer.model.unk_token == ""
        """Whether the units are characters: then every one of a text must be known."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def never_written(self) -> tuple[int, ...]:
        """Numbers that stand for no text of their own."""
        return () if self.characters else (0,)

    def encode(self, text: str, where: str) -> np.ndarray:
        """Turns a text into the numbers of its units, int32 `(units,)`.

        Args:
            where: names the text in an error.

        Raises:
            UserError: the units are characters, and one of the text is not among them.
        """
        if self.characters:
            self._check(self._normalized(text), where)
        encodings = self._tokenizer.encode_batch_fast(_lines(text))  # a unit never reaches over a newline
        return np.fromiter((number for one in encodings for number in one.ids), dtype=np.int32)

    def _check(self, text: str, where: str) -> None:
        unknown = set(text) - set(self.names)
        if unknown:
            place, character = next((i, c) for i, c in enumerate(text) if c in unknown)
            raise UserError(
                f"{where}: the character {character!r} (at place {place + 1:,}) is not in the training text, so the "
                f"model does not know it; it knows {len(self)} characters."
            )

    def _normalized(self, text: str) -> str:
        normalizer = self._tokenizer.normalizer
        return text if normalizer is None else str(normalizer.normalize_str(text))

    def decode(self, numbers: list[int]) -> str:
        """Turns numbers into the text that they stand for."""
        return str(self._tokenizer.decode(numbers))

    def save(self, path: Path) -> None:
        """Writes one JSON file, the format of `tokenizers`."""
        path.write_text(self._tokenizer.to_str(pretty=True), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Symbols:
        """Reads what `save` wrote; raises `UserError` for a missing or foreign file."""
        try:
            return cls(Tokenizer.from_str(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise UserError(f"{path}: no such vocabulary file.") from None
        except Exception as error:  # tokenizers raises bare Exception
            raise UserError(f"{path}: is not a vocabulary file ({error}).") from None


def learn_symbols(text: str, config: VocabularyConfig) -> Symbols:
    """Finds the units of kind `config.kind` in a training text.

    Characters are numbered as they first occur, every one of them, with no symbol besides. Words and byte pairs have
    an unknown symbol; they carry a mark of the space before them, punctuation and newlines stand alone, so that
    joining the units gives the text again.
    """
    normalizer = normalizers.Lowercase() if config.lowercase else None
    if config.kind == "character":
        text = text if normalizer is None else normalizer.normalize_str(text)
        numbers = {character: number for number, character in enumerate(dict.fromkeys(text))}
        tokenizer = Tokenizer(models.WordLevel(numbers, unk_token=""))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        tokenizer.decoder = decoders.Fuse()
        if normalizer is not None:
            tokenizer.normalizer = normalizer
        return Symbols(tokenizer)
    options: dict[str, Any] = {"special_tokens": [UNKNOWN_SYMBOL], "show_progress": False}
    options |= {"vocab_size": config.size, "min_frequency": config.min_frequency}
    trainer: trainers.Trainer
    if config.kind == "bpe":
        tokenizer, trainer = Tokenizer(models.BPE(unk_token=UNKNOWN_SYMBOL)), trainers.BpeTrainer(**options)
    else:
        tokenizer, trainer = Tokenizer(models.WordLevel(unk_token=UNKNOWN_SYMBOL)), trainers.WordLevelTrainer(**options)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n"), "isolated"),
            pre_tokenizers.Metaspace(prepend_scheme="never"),
            pre_tokenizers.Punctuation("isolated"),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    tokenizer.train_from_iterator(_lines(text), trainer)
    return Symbols(plain_specials(tokenizer))


def _lines(text: str) -> list[str]:
    """Cuts behind every newline and nowhere else."""
    pieces = text.split("\n")
    return [piece + "\n" for piece in pieces[:-1]] + ([pieces[-1]] if pieces[-1] else [])
