"""Sentence pairs in files of every kind."""

from __future__ import annotations

import json

from datasets import Dataset

from unrolled.config.translation import TranslationData

ROWS = {
    "train": [("one two", "eins zwei"), ("three", "drei")],
    "validation": [("two", "zwei")],
    "test": [("one", "eins")],
}
COLUMNS = {"input": "en", "target": "de"}


def write_pairs(folder, kind, rows=ROWS):
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


def translation_data(source, **options):
    return TranslationData.model_validate({"source": str(source), "columns": COLUMNS, **options})
