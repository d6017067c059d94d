"""Sources: columns and running text of folders, files and tables, and what is refused."""

from __future__ import annotations

import json

import pytest

from pairs import ROWS, translation_data, write_pairs
from unrolled.config.language_modeling import TextData
from unrolled.config.translation import TranslationData
from unrolled.data.sources import open_split, read_pairs, read_text
from unrolled.errors import UserError


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv", "text"])
def test_folders_of_any_kind_give_the_same_pairs(tmp_path, kind):
    source = translation_data(write_pairs(tmp_path / "d", kind))
    for split, examples in ROWS.items():
        assert list(zip(*read_pairs(source, split), strict=True)) == examples


def test_splits_are_found_by_aliases(tmp_path):
    folder = write_pairs(tmp_path / "d", "text")
    for suffix in ("en", "de"):
        (folder / f"validation.{suffix}").rename(folder / f"dev.{suffix}")
    assert read_pairs(translation_data(folder), "validation") == (["two"], ["zwei"])


def test_real_multi30k_opens(shared_data):
    inputs, targets = read_pairs(translation_data(shared_data / "multi30k"), "test")
    assert len(inputs) == len(targets) == 1000


def test_limit_takes_the_first(tmp_path):
    assert read_pairs(translation_data(write_pairs(tmp_path / "d", "csv"), limit=1), "train") == (
        ["one two"],
        ["eins zwei"],
    )


@pytest.mark.parametrize("kind", ["jsonl", "text"])
def test_a_missing_column_is_named(tmp_path, kind):
    source = translation_data(write_pairs(tmp_path / "d", kind)).model_copy(
        update={"columns": TranslationData(source="x", columns={"input": "en", "target": "fr"}).columns}
    )
    with pytest.raises(UserError, match=r"fr"):
        read_pairs(source, "train")


def test_mismatched_pairs_are_counted(tmp_path):
    folder = write_pairs(tmp_path / "d", "text")
    (folder / "train.de").write_text("eins zwei\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"train\.en has 2 lines but .*train\.de has 1"):
        read_pairs(translation_data(folder), "train")


@pytest.mark.parametrize("kind", ["text", "csv"])
def test_text_that_is_not_utf8_is_named(tmp_path, kind):
    folder = write_pairs(tmp_path / "d", kind)
    name = "train.de" if kind == "text" else "train.csv"
    (folder / name).write_bytes("en,de\na,fünf\n".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        read_pairs(translation_data(folder), "train")


def test_values_that_are_not_text_are_named(tmp_path):
    folder = write_pairs(tmp_path / "d", "jsonl")
    (folder / "train.jsonl").write_text('{"en": "a", "de": "b"}\n{"en": "c", "de": null}\n', encoding="utf-8")
    with pytest.raises(UserError, match="row 1: column 'de' holds nothing"):
        read_pairs(translation_data(folder), "train")


@pytest.mark.parametrize("source", ["nowhere", "./nowhere", "date"])
def test_an_unknown_source_is_refused(source):
    with pytest.raises(UserError, match="neither a folder here, nor built in"):
        open_split(source, "train", {})


def test_a_damaged_file_is_refused(tmp_path):
    folder = write_pairs(tmp_path / "d", "parquet")
    next(folder.glob("train*")).write_bytes(b"not parquet")
    with pytest.raises(UserError, match="cannot be read"):
        read_pairs(translation_data(folder), "train")


def test_mixed_files_are_refused(tmp_path):
    folder = write_pairs(tmp_path / "d", "csv")
    (folder / "train.jsonl").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="mixes"):
        read_pairs(translation_data(folder), "train")


def text_data(source, **options):
    return TextData.model_validate({"source": str(source), **options})


def test_a_file_is_split_without_loss(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes("a, b\r\n\u2028ü\n\n z".encode())
    parts = [read_text(text_data(path, validation_share=0.3), split) for split in ("train", "validation")]
    assert "".join(parts) == "a, b\r\n\u2028ü\n\n z" and len(parts[1]) == 4
    assert read_text(text_data(path, validation_share=0.0), "validation") == "".join(parts)


def test_folders_and_tables_give_running_text(tmp_path):
    folder, tables = tmp_path / "texts", tmp_path / "tables"
    for place in (folder, tables):
        place.mkdir()
    for split, text in (("train", "one\ntwo"), ("val", "three\nfour"), ("test", "five\nsix")):
        (folder / f"{split}.txt").write_text(text, encoding="utf-8")
        rows = [{"line": line} for line in text.split("\n")]
        (tables / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for split, text in (("train", "one\ntwo"), ("validation", "three\nfour"), ("test", "five\nsix")):
        assert read_text(text_data(folder), split) == text
        assert read_text(text_data(tables, column="line"), split) == text
    with pytest.raises(UserError, match=r"data\.column: .* has no column 'text'"):
        read_text(text_data(tables), "train")
    with pytest.raises(UserError, match=r"has no file later\.txt"):
        read_text(text_data(folder), "later")
