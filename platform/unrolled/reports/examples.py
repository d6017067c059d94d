"""Examples of a report: outputs next to their references, with the differences marked."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from functools import partial
from typing import Any

from unrolled.reports.text import finite, truncated

Piece = tuple[int, str]
"""0: in both, 1: only in the output, -1: only in the reference; and the text with its spaces."""

# Words are runs between spaces and punctuation; scripts written without spaces count by character.
_PUNCTUATION = r"""!-&(-/:-@\[-^`{-~¡«»¿‐-―‘‚-‟…‹›、。「-』！（），．：；？"""
_UNSPACED = r"\u3041-\u30ff\u3400-\u9fff\uf900-\ufaff"
_TOKEN = re.compile(rf"\s*(?:[{_UNSPACED}{_PUNCTUATION}]|[^\s{_UNSPACED}{_PUNCTUATION}]+)")

MAX_ROWS = 1000
MAX_CHARACTERS = 2000
"""Of one text."""
MAX_BYTES = 800_000
"""Of all rows together, so that the page with plotly stays below 6 MB."""
MAX_BYTES_WITH_PHOTOS = 450_000
EXTREMES = 3
"""Number of best and of worst examples."""
NBEST = 5
"""Entries of an n-best list."""


def differences(output: str, reference: str) -> list[Piece]:
    """Returns the output in pieces, with the words that only the reference has in between.

    The pieces marked 0 and 1, joined, are the output without trailing spaces.
    """
    written, wanted = _TOKEN.findall(output), _TOKEN.findall(reference)
    matcher = SequenceMatcher(None, [t.strip() for t in wanted], [t.strip() for t in written], autojunk=False)
    pieces: list[Piece] = []
    for operation, start, end, output_start, output_end in matcher.get_opcodes():
        if operation in ("delete", "replace"):
            pieces.append((-1, "".join(wanted[start:end])))
        if output_end > output_start:
            pieces.append((0 if operation == "equal" else 1, "".join(written[output_start:output_end])))
    return pieces


def page_rows(
    outputs: Sequence[Mapping[str, Any]], strategies: Sequence[str], best_first: Sequence[str], size: int = MAX_BYTES
) -> dict[str, Any]:
    """Returns the part of outputs.jsonl that the page embeds.

    ``rows`` are at most `MAX_ROWS` examples, evenly spaced over all, fewer where texts are long; ``best`` and ``worst``
    are the extremes of all examples by the sentence score of the best strategy. The ``scores`` of a row are in the
    order of `strategies`; its ``answers`` are its distinct outputs, each with the indices of the strategies that gave
    it.

    Args:
        strategies: in the order in which an example shows them.
        best_first: the same from best to worst; n-best lists are those of the first that has some.
        size: maximum size of all rows in bytes.
    """
    listing = next((name for name in best_first if any(name in (row.get("nbest") or {}) for row in outputs)), None)
    page_row = partial(_row, strategies=strategies, listing=listing)
    rows = [page_row(output) for output in _evenly(outputs, MAX_ROWS)]
    while (total := _num_bytes(rows)) > size:
        rows = _evenly(rows, int(0.98 * len(rows) * size / total))
    scored = [row for row in outputs if _score(row, best_first[0]) is not None]
    # Of equal scores, longer sentences come first.
    scored.sort(key=lambda row: len(row.get("reference") or ""), reverse=True)
    count = min(EXTREMES, len(scored) // 2)
    worst, best = (
        sorted(scored, key=lambda row: _score(row, best_first[0]) or 0.0, reverse=reverse)[:count]
        for reverse in (False, True)
    )
    return {
        "total": len(outputs),
        "leader": strategies.index(best_first[0]),
        "listing": None if listing is None else strategies.index(listing),
        "rows": rows,
        "best": [page_row(row) for row in best],
        "worst": [page_row(row) for row in worst],
    }


def _num_bytes(rows: Sequence[Mapping[str, Any]]) -> int:
    return sum(len(json.dumps(row, ensure_ascii=False).encode(errors="replace")) for row in rows)


def _evenly(rows: Sequence[Any], count: int) -> list[Any]:
    """Returns at most `count` of the rows, evenly spaced, the first among them."""
    count = min(count, len(rows))
    return [rows[index * len(rows) // count] for index in range(count)]


def _score(row: Mapping[str, Any], strategy: str) -> float | None:
    return finite((row.get("sentence_scores") or {}).get(strategy))


def _row(row: Mapping[str, Any], strategies: Sequence[str], listing: str | None) -> dict[str, Any]:
    """Returns an example for the page: texts cut to `MAX_CHARACTERS`, outputs in pieces, marked where there is a single
    reference."""
    reference, several = _cut(row.get("reference")), len(row.get("references") or ()) > 1
    outputs: dict[str, list[int]] = {}
    for index, name in enumerate(strategies):
        if name in row["outputs"]:
            outputs.setdefault(_cut(row["outputs"][name]), []).append(index)
    nbest = (row.get("nbest") or {}).get(listing) or []
    return {
        "index": row["index"],
        "input": _cut(row.get("input")),
        "references": [_cut(one) for one in row["references"]] if several else [reference] if reference else [],
        "answers": [
            {"by": by, "pieces": differences(text, reference) if reference and not several else [(0, text)]}
            for text, by in outputs.items()
        ],
        "scores": [_score(row, name) for name in strategies],
    } | ({"nbest": [[_cut(one.get("text")), finite(one.get("score"))] for one in nbest[:NBEST]]} if nbest else {})


def _cut(text: object) -> str:
    return truncated("" if text is None else str(text), MAX_CHARACTERS)
