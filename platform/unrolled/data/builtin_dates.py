"""The built-in data set `dates`: written dates in eleven languages, and the same dates in ISO 8601.

``{"input": "Montag, den 3. März 2025", "target": "2025-03-03"}``. Month names, weekday names and the usual patterns are
those of the Unicode CLDR, through Babel; a few everyday patterns are added. The month is always a word and the year
always has four digits, so that a text has one reading: CLDR's numeric patterns (03.04.2025) are left out, and no two of
these languages use one word for two months, as Polish and Croatian would with "listopad".
"""

from __future__ import annotations

import datetime
import random
from collections.abc import Callable
from functools import cache
from itertools import islice

from babel import Locale
from babel.dates import format_date

SIZES = {"train": 20_000, "validation": 1_000, "test": 1_000}
FIRST, LAST = datetime.date(1900, 1, 1), datetime.date(2099, 12, 31)

# Patterns in addition to those of CLDR, in its notation; "{ordinal}" stands for the ending of an ordinal number.
EVERYDAY: dict[str, tuple[str, ...]] = {
    "en": ("MMMM d y", "MMMM d'{ordinal}', y", "EEEE, MMMM d'{ordinal}', y"),
    "en_GB": ("EEEE d MMMM y", "d'{ordinal}' MMMM y", "d'{ordinal}' 'of' MMMM y"),
    "de": ("d. MMM y", "'den' d. MMMM y", "EEEE, 'den' d. MMMM y"),
    "fr": ("'le' d'{ordinal}' MMMM y", "'le' EEEE d'{ordinal}' MMMM y"),
    "es": ("d MMMM y", "EEEE d 'de' MMMM 'de' y", "'el' d 'de' MMMM 'de' y"),
    "it": ("'il' d MMMM y", "EEEE, d MMMM y"),
    "pt": ("d MMMM y", "'em' d 'de' MMMM 'de' y"),
    "nl": ("'op' d MMMM y", "'op' EEEE d MMMM y"),
    "sv": ("'den' d MMMM y", "EEEE 'den' d MMMM y"),
    "da": ("'den' d. MMMM y", "EEEE d. MMMM y"),
    "pl": ("EEEE d MMMM y", "d MMMM y 'r'."),
    "cs": ("d. MMM y", "EEEE, d. MMMM y"),
}
LOCALES = tuple(EVERYDAY)


def _capitalized(text: str) -> str:
    # Not `str.title`, which makes "3rd" into "3Rd".
    return " ".join(word.capitalize() for word in text.split(" "))


# Casings of a text; the language's own has half the probability.
CASINGS: tuple[Callable[[str], str], ...] = (str, str, str, str.lower, str.upper, _capitalized)


@cache
def dates(seed: int = 1) -> dict[str, list[dict[str, str]]]:
    """Returns the rows of "train", "validation" and "test", 22,000 pairs of "input" and "target" with no date in two
    splits or twice in one. Days are drawn evenly from 1900 to 2099, then the language, then one of its patterns, then
    the case; all of it depends on the seed."""
    generator = random.Random(seed)
    days = generator.sample(range(FIRST.toordinal(), LAST.toordinal() + 1), sum(SIZES.values()))
    rows = [_row(datetime.date.fromordinal(day), generator) for day in days]
    remaining = iter(rows)
    return {split: list(islice(remaining, size)) for split, size in SIZES.items()}


def _row(day: datetime.date, generator: random.Random) -> dict[str, str]:
    locale = generator.choice(LOCALES)
    pattern = generator.choice(patterns(locale))
    casing = generator.choice(CASINGS)
    return {"input": casing(format_day(day, locale, pattern)), "target": day.isoformat()}


@cache
def patterns(locale: str) -> tuple[str, ...]:
    """Returns the date patterns of a locale: CLDR's full, long and medium ones, then the everyday ones."""
    formats = Locale.parse(locale).date_formats
    usual = (formats[length].pattern for length in ("full", "long", "medium"))
    named = (pattern for pattern in usual if "MMM" in pattern)
    return tuple(dict.fromkeys((*named, *EVERYDAY[locale])))


def format_day(day: datetime.date, locale: str, pattern: str) -> str:
    """Returns a day in the words of a locale, by one of its `patterns`."""
    text: str = format_date(day, pattern, locale=locale).format(ordinal=_ordinal_ending(locale, day.day))
    return text


def _ordinal_ending(locale: str, day: int) -> str:
    """Returns the ending of the number of a day for `{ordinal}` in `EVERYDAY`, in English and French."""
    if locale == "fr":
        return "er" if day == 1 else ""
    if day in (11, 12, 13):
        return "th"
    return {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
