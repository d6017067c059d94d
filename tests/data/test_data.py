"""Sources, vocabularies, the tokenised cache and batch plans."""

from __future__ import annotations

import json
from operator import attrgetter

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from unrolled.config.translation import TranslationData, TranslationVocabulary
from unrolled.data.batching import collate, padding_fraction, plan
from unrolled.data.parallel_corpus import prepare_pairs
from unrolled.data.sources import open_split, read_pairs
from unrolled.data.tokenizer import BEGIN, END, UNKNOWN, learn_vocabulary
from unrolled.data.tokenizer import Vocabulary as Learned
from unrolled.errors import UserError
from unrolled.files import cache_folder

ROWS = {
    "train": [("one two", "eins zwei"), ("three", "drei")],
    "validation": [("two", "zwei")],
    "test": [("one", "eins")],
}
COLUMNS = {"input": "en", "target": "de"}
TEXTS = ["The dog runs, fast!", "the cat sleeps.", "Zwei Männer (am Fluss) reden – laut.", "dog cat dog"]


def write(folder, kind, rows=ROWS):
    folder.mkdir(parents=True, exist_ok=True)
    for split, examples in rows.items():
        table = [{"en": a, "de": b} for a, b in examples]
        if kind == "parquet":
            Dataset.from_list(table).to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
        elif kind == "jsonl":
            (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table), encoding="utf-8")
        elif kind == "csv":
            Dataset.from_list(table).to_csv(str(folder / f"{split}.csv"), index=False)
        else:
            for place, suffix in enumerate(("en", "de")):
                lines = "".join(example[place] + "\n" for example in examples)
                (folder / f"{split}.{suffix}").write_text(lines, encoding="utf-8")
    return folder


def data(source, **options):
    return TranslationData.model_validate({"source": str(source), "columns": COLUMNS, **options})


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv", "text"])
def test_a_folder_of_any_kind_reads_alike(tmp_path, kind):
    source = data(write(tmp_path / "d", kind))
    for split, examples in ROWS.items():
        assert list(zip(*read_pairs(source, split), strict=True)) == examples


def test_splits_are_found_under_their_other_names(tmp_path):
    folder = write(tmp_path / "d", "text")
    for suffix in ("en", "de"):
        (folder / f"validation.{suffix}").rename(folder / f"dev.{suffix}")
    assert read_pairs(data(folder), "validation") == (["two"], ["zwei"])


def test_real_multi30k_opens(shared_data):
    inputs, targets = read_pairs(data(shared_data / "multi30k"), "test")
    assert len(inputs) == len(targets) == 1000


def test_limit_takes_the_first(tmp_path):
    assert read_pairs(data(write(tmp_path / "d", "csv"), limit=1), "train") == (["one two"], ["eins zwei"])


@pytest.mark.parametrize("kind", ["jsonl", "text"])
def test_a_missing_column_is_named(tmp_path, kind):
    source = data(write(tmp_path / "d", kind)).model_copy(
        update={"columns": TranslationData(source="x", columns={"input": "en", "target": "fr"}).columns}
    )
    with pytest.raises(UserError, match=r"fr"):
        read_pairs(source, "train")


def test_an_empty_split_is_named(tmp_path):
    folder = write(tmp_path / "d", "text", {**ROWS, "validation": []})
    with pytest.raises(UserError, match=r"split 'validation' .* is empty"):
        prepare_pairs(data(folder))


def test_a_missing_split_lists_what_is_there(tmp_path):
    folder = write(tmp_path / "d", "csv", {"train": ROWS["train"]})
    with pytest.raises(UserError, match=r"no file for split 'validation'; it has train\.csv"):
        prepare_pairs(data(folder))


def test_mismatched_pairs_are_counted(tmp_path):
    folder = write(tmp_path / "d", "text")
    (folder / "train.de").write_text("eins zwei\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"train\.en has 2 lines but .*train\.de has 1"):
        read_pairs(data(folder), "train")


@pytest.mark.parametrize("kind", ["text", "csv"])
def test_text_that_is_not_utf8_is_named(tmp_path, kind):
    folder = write(tmp_path / "d", kind)
    name = "train.de" if kind == "text" else "train.csv"
    (folder / name).write_bytes("en,de\na,fünf\n".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        read_pairs(data(folder), "train")


def test_values_that_are_not_text_are_named(tmp_path):
    folder = write(tmp_path / "d", "jsonl")
    (folder / "train.jsonl").write_text('{"en": "a", "de": "b"}\n{"en": "c", "de": null}\n', encoding="utf-8")
    with pytest.raises(UserError, match="row 1: column 'de' holds nothing"):
        read_pairs(data(folder), "train")


@pytest.mark.parametrize("source", ["nowhere", "./nowhere", "date"])
def test_an_unknown_source_is_refused(source):
    with pytest.raises(UserError, match="neither a folder here, nor built in"):
        open_split(source, "train", {})


def test_a_damaged_file_is_refused(tmp_path):
    folder = write(tmp_path / "d", "parquet")
    next(folder.glob("train*")).write_bytes(b"not parquet")
    with pytest.raises(UserError, match="cannot be read"):
        read_pairs(data(folder), "train")


def test_mixed_files_are_refused(tmp_path):
    folder = write(tmp_path / "d", "csv")
    (folder / "train.jsonl").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="mixes"):
        read_pairs(data(folder), "train")


@pytest.mark.parametrize("kind", ["bpe", "word", "character"])
def test_texts_survive_the_round_trip(kind, tmp_path):
    vocabulary = learn_vocabulary(TEXTS, TranslationVocabulary(kind=kind, size=300))
    assert vocabulary.decode(vocabulary.encode(TEXTS)) == TEXTS
    vocabulary.save(tmp_path / "v.json")
    assert Learned.load(tmp_path / "v.json").encode(TEXTS) == vocabulary.encode(TEXTS)


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet="ab c.,-ä\n", max_size=20))
def test_character_vocabulary_loses_no_character(text):
    vocabulary = learn_vocabulary(["ab c.,-ä\n"], TranslationVocabulary(kind="character", size=50))
    (row,) = vocabulary.encode([text])
    assert len(row) == len(text)
    assert vocabulary.decode([row]) == [text.strip()]


@pytest.mark.parametrize("kind", ["bpe", "word", "character"])
def test_symbols_in_a_text_are_text(kind):
    vocabulary = learn_vocabulary(["a </s> b <pad> <s>"], TranslationVocabulary(kind=kind, size=60))
    (row,) = vocabulary.encode(["a </s> b <s>"])
    assert not {BEGIN, END} & set(row)
    assert vocabulary.encode(["ж"])[0][-1] == UNKNOWN


def test_size_frequency_and_case():
    words = ["a a a b b c"]
    assert len(learn_vocabulary(["abcdefghij " * 3], TranslationVocabulary(kind="bpe", size=20))) <= 20
    rare = learn_vocabulary(words, TranslationVocabulary(kind="word", size=50, min_frequency=2))
    assert rare.encode(["c"]) == [[UNKNOWN]] and rare.encode(["x b"])[0][1] != UNKNOWN
    assert learn_vocabulary(["AB"], TranslationVocabulary(kind="character", size=20, lowercase=True)).encode(["ab"])[
        0
    ] != [3, 3]


def test_a_foreign_vocabulary_file_is_refused(tmp_path):
    (tmp_path / "v.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="not a vocabulary file"):
        Learned.load(tmp_path / "v.json")


def test_preparation_is_made_once_and_found_again(tmp_path):
    source = data(write(tmp_path / "d", "csv"), vocabulary={"kind": "word"})
    first = prepare_pairs(source)
    written = {path: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    assert prepare_pairs(source).folder == first.folder
    assert prepare_pairs(source, first.fingerprint).folder == first.folder
    assert {path: path.stat().st_mtime_ns for path in first.folder.iterdir()} == written
    assert first.folder.parent == cache_folder()
    corpus = first.split("train")
    assert corpus.texts() == (["one two", "three"], ["eins zwei", "drei"])
    assert corpus.lengths.tolist() == [[3, 3], [2, 2]]
    words = first.vocabularies
    assert words.target.decode(corpus.tokens([0, 1])[1]) == ["eins zwei", "drei"]
    write(tmp_path / "d", "csv", {**ROWS, "train": [("new", "neu")]})
    assert prepare_pairs(source).folder != first.folder


def test_separate_vocabularies(tmp_path):
    source = data(write(tmp_path / "d", "csv"), vocabulary={"kind": "word", "shared": False})
    words = prepare_pairs(source).vocabularies
    assert words.input.encode(["eins"]) == [[UNKNOWN]] and words.target.encode(["eins"]) != [[UNKNOWN]]


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=80),
    budget=st.integers(1, 120),
    longest=st.integers(5, 30),
    seed=st.integers(0, 5),
)
def test_a_plan_holds_every_usable_example_once_within_the_budget(lengths, budget, longest, seed):
    array = np.array(lengths)
    batches = plan(array, batch_tokens=budget, max_length=longest, seed=seed, epoch=0)
    usable = [i for i, pair in enumerate(lengths) if max(pair) <= longest]
    assert sorted(int(i) for batch in batches for i in batch) == usable
    for batch in batches:
        assert len(batch) == 1 or array[batch].max() * len(batch) <= budget


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=30))
def test_padding_is_what_batches_hold_beside_tokens(lengths):
    array = np.array(lengths)
    batches = plan(array, batch_tokens=30, max_length=9, seed=0, epoch=0)
    texts = [[[np.full(length - 1, 7) for length in side] for side in array[batch].T] for batch in batches]
    masks = [mask for both in texts for mask in attrgetter("input_mask", "target_mask")(collate(*both))]
    empty, places = sum(int((~mask).sum()) for mask in masks), sum(mask.numel() for mask in masks)
    assert padding_fraction(array, batches) == pytest.approx(empty / places)


def test_pairs_that_are_all_too_long_are_refused():
    data = TranslationData.model_validate({"source": "dates", "limit": 5, "max_length": 3})
    with pytest.raises(UserError, match=r"data\.max_length: 3 leaves no pair of dates .* shortest has 6 tokens"):
        prepare_pairs(data)


def test_a_plan_depends_on_seed_and_epoch_alone():
    lengths = np.random.default_rng(0).integers(1, 30, (500, 2))
    options = {"batch_tokens": 200, "max_length": 30}
    once = plan(lengths, seed=1, epoch=0, **options)
    again = plan(lengths, seed=1, epoch=0, **options)
    assert all((a == b).all() for a, b in zip(once, again, strict=True))
    for seed, epoch in ((2, 0), (1, 1)):
        other = plan(lengths, seed=seed, epoch=epoch, **options)
        assert [batch.tolist() for batch in other] != [batch.tolist() for batch in once]


def test_like_lengths_stand_together():
    lengths = np.random.default_rng(0).integers(1, 30, (3000, 1)).repeat(2, axis=1)
    batches = plan(lengths, batch_tokens=600, max_length=30, seed=1, epoch=0)
    padded = sum(lengths[batch].max() * len(batch) for batch in batches)
    assert lengths[:, 0].sum() / padded > 0.95


def test_collate_places_begin_and_end():
    batch = collate([np.array([5, 6]), np.array([7])], [np.array([8]), np.array([9, 10])])
    assert batch.inputs.tolist() == [[5, 6, END], [7, END, 0]]
    assert batch.decoder_inputs.tolist() == [[BEGIN, 8, 0], [BEGIN, 9, 10]]
    assert batch.targets.tolist() == [[8, END, 0], [9, 10, END]]
    assert batch.target_mask.tolist() == [[True, True, False], [True, True, True]]
