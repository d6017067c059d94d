"""Tokenised columns on disk."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from unrolled.data.corpus import Corpus, TokenTable, build_corpus, token_rows


def test_columns_are_read_where_they_lie(tmp_path, monkeypatch):
    monkeypatch.setenv("UNROLLED_CACHE", str(tmp_path))
    numbers = np.arange(100_000, dtype=np.int32)
    table = pa.table({"numbers": pa.array(numbers[::10]), "rows": token_rows(numbers.reshape(-1, 10).tolist())})
    corpus = Corpus(build_corpus(["numbers"], lambda split: split, lambda contents, _: dict.fromkeys(contents, table)))
    opened = TokenTable(corpus.path("train"))
    before = pa.total_allocated_bytes()
    column = opened.values("numbers")
    first, last = opened.tokens("rows", [0, 9_999])
    assert pa.total_allocated_bytes() == before
    assert column.to_numpy()[-1] == 99_990 and last[-1] == 99_999 and first.tolist() == list(range(10))
    assert opened.num_tokens("rows").tolist() == [10] * 10_000
