"""Text to numbers and back, with nothing lost: byte-pair, word and character vocabularies over `tokenizers`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

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
