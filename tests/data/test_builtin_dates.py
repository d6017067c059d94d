"""The built-in data set of dates: a text can be read in one way only, and the splits share no date."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import re
import subprocess
import sys
import unicodedata

import pytest
from babel import Locale
from hypothesis import given
from hypothesis import strategies as st

from unrolled.data.builtin_dates import FIRST, LAST, LOCALES, dates, format_day, patterns

Splits = dict[str, list[dict[str, str]]]
DAYS = st.dates(FIRST, LAST)
FORMS = [(locale, pattern) for locale in LOCALES for pattern in patterns(locale)]


@pytest.fixture(scope="module")
def splits() -> Splits:
    return dates()


def test_sizes(splits: Splits) -> None:
    assert list(splits) == ["train", "validation", "test"]
    assert [len(rows) for rows in splits.values()] == [20_000, 1_000, 1_000]
    assert all(row.keys() == {"input", "target"} for rows in splits.values() for row in rows)


def test_no_date_is_in_two_splits_and_no_text_has_two_dates(splits: Splits) -> None:
    rows = [row for split in splits.values() for row in split]
    assert len({row["target"] for row in rows}) == len(rows)
    assert len({row["input"].casefold() for row in rows}) == len(rows)


def test_rows_are_short_clean_texts_and_iso_dates(splits: Splits) -> None:
    for rows in splits.values():
        for text, target in (row.values() for row in rows):
            assert FIRST <= datetime.date.fromisoformat(target) <= LAST
            assert len(text) <= 40
            assert text.isprintable()
            assert text == text.strip()
            assert text == unicodedata.normalize("NFC", text)


def test_every_character_of_the_held_out_texts_is_known(splits: Splits) -> None:
    known = {character for row in splits["train"] for character in row["input"]}
    assert all(set(row["input"]) <= known for split in ("validation", "test") for row in splits[split])


def test_texts_are_drawn_from_every_language_and_case(splits: Splits) -> None:
    texts = {row["input"] for row in splits["train"]}
    for locale in LOCALES:
        january = Locale.parse(locale).months["format"]["wide"][1]
        for word in (january.lower(), january.upper(), january.capitalize()):
            assert any(word in text for text in texts), (locale, word)


@given(DAYS, st.sampled_from(FORMS))
def test_the_only_numbers_are_the_day_and_the_year(day: datetime.date, form: tuple[str, str]) -> None:
    assert [int(number) for number in re.findall(r"\d+", format_day(day, *form))] == [day.day, day.year]


def test_no_two_languages_read_one_text_as_two_dates() -> None:
    readings: dict[str, datetime.date] = {}
    for number in range(366):
        day = datetime.date(2024, 1, 1) + datetime.timedelta(number)
        for form in FORMS:
            assert readings.setdefault(format_day(day, *form).casefold(), day) == day


def test_every_month_word_means_one_month_and_no_weekday() -> None:
    months: dict[str, int] = {}
    for locale in map(Locale.parse, LOCALES):
        for width in ("wide", "abbreviated"):
            for month, word in locale.months["format"][width].items():
                assert months.setdefault(word.casefold().rstrip("."), month) == month, (locale, word)
    for locale in map(Locale.parse, LOCALES):
        assert not months.keys() & {word.casefold() for word in locale.days["format"]["wide"].values()}


@pytest.mark.parametrize(
    ("day", "locale", "text"),
    [
        ((2025, 3, 3), "en", "March 3rd, 2025"),
        ((2025, 3, 3), "en", "Monday, March 3, 2025"),
        ((2025, 3, 11), "en", "March 11th, 2025"),
        ((2025, 3, 22), "en_GB", "22nd of March 2025"),
        ((2025, 3, 3), "en_GB", "Monday 3 March 2025"),
        ((2025, 3, 3), "de", "Montag, den 3. März 2025"),
        ((2025, 3, 3), "fr", "le 3 mars 2025"),
        ((2025, 3, 1), "fr", "le 1er mars 2025"),
        ((2025, 3, 3), "es", "3 de marzo de 2025"),
        ((2025, 8, 3), "pl", "3 sierpnia 2025 r."),
        ((2025, 6, 3), "cs", "úterý 3. června 2025"),
    ],
)
def test_known_texts(day: tuple[int, int, int], locale: str, text: str) -> None:
    assert text in [format_day(datetime.date(*day), locale, pattern) for pattern in patterns(locale)]


def test_no_numeric_pattern_is_taken_from_cldr() -> None:
    assert "dd.MM.y" not in patterns("de")
    assert all("MMM" in pattern for _, pattern in FORMS)


def _digest(rows: object) -> str:
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def test_rows_depend_on_the_seed_alone(splits: Splits) -> None:
    program = "import hashlib, json; from unrolled.data.builtin_dates import dates; "
    program += "print(hashlib.sha256(json.dumps(dates()).encode()).hexdigest())"
    command = [sys.executable, "-c", program]
    for hash_seed, language in (("1", "C"), ("2", "de_DE.UTF-8")):
        variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        variables |= {"PYTHONHASHSEED": hash_seed, "LC_ALL": language}
        assert subprocess.check_output(command, env=variables, text=True).strip() == _digest(splits)
    assert _digest(dates(seed=2)) != _digest(splits)


def test_the_first_rows_are_fixed(splits: Splits) -> None:
    assert [rows[0] for rows in splits.values()] == [
        {"input": "Søndag Den 21. Marts 1948", "target": "1948-03-21"},
        {"input": "25 Gru 2063", "target": "2063-12-25"},
        {"input": "24. Prosince 2013", "target": "2013-12-24"},
    ]
