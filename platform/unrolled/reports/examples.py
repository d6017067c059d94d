"""Examples of a report: outputs beside their references."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from unrolled.reports.text import finite

Piece = tuple[int, str]  # (0 same, 1 only in the output, -1 only in the reference; the text with its spaces)

# Words are runs between spaces and punctuation; scripts written without spaces count by character.
_PUNCTUATION = r"""!-&(-/:-@\[-^`{-~¡«»¿‐-―‘‚-‟…‹›、。「-』！（），．：；？"""
_UNSPACED = r"\u3041-\u30ff\u3400-\u9fff\uf900-\ufaff"
_TOKEN = re.compile(rf"\s*(?:[{_UNSPACED}{_PUNCTUATION}]|[^\s{_UNSPACED}{_PUNCTUATION}]+)")

SHOWN = 1000  # rows in the page
CHARACTERS = 2000  # of one text in the page
BYTES = 800_000  # of all rows together, so that the page stays below 6 MB with plotly inside
BESIDE_PHOTOS = 450_000  # the same where there are photographs, too
EXTREMES = 3  # best and worst examples
LISTED = 5  # entries of an n-best list


def differences(output: str, reference: str) -> list[Piece]:
    """Returns the output cut where it differs from the reference, the missing words between.

    The pieces marked 0 and 1, joined, are the output (without spaces at its end).
    """
    ours, theirs = _TOKEN.findall(output), _TOKEN.findall(reference)
    matcher = SequenceMatcher(None, [t.strip() for t in theirs], [t.strip() for t in ours], autojunk=False)
    pieces: list[Piece] = []
    for kind, their_start, their_end, our_start, our_end in matcher.get_opcodes():
        if kind in ("delete", "replace"):
            pieces.append((-1, "".join(theirs[their_start:their_end])))
        if our_end > our_start:
            pieces.append((0 if kind == "equal" else 1, "".join(ours[our_start:our_end])))
    return pieces


def page_rows(
    outputs: Sequence[Mapping[str, Any]], strategies: Sequence[str], best_first: Sequence[str], size: int = BYTES
) -> dict[str, Any]:
    """Returns what the page embeds of outputs.jsonl.

    ``rows`` are at most `SHOWN` examples, evenly spaced over all and fewer where texts are long; ``best`` and
    ``worst`` are the extremes of all examples by the sentence score of the best strategy. A row's ``scores`` stand in
    the order of `strategies`; its ``answers`` are its different outputs, each with the places of those that gave it.

    Args:
        strategies: in the order in which an example shows them.
        best_first: the same from best to worst: the first leads, the first that has n-best lists shows its own.
        size: bytes of all rows together.
    """
    listing = next((name for name in best_first if any(name in (row.get("nbest") or {}) for row in outputs)), None)

    def made(row: Mapping[str, Any]) -> dict[str, Any]:
        return _row(row, strategies, listing)

    rows = [made(output) for output in _evenly(outputs, SHOWN)]
    while (taken := _bytes(rows)) > size:
        rows = _evenly(rows, int(0.98 * len(rows) * size / taken))
    scored = [row for row in outputs if _score(row, best_first[0]) is not None]
    # Among equal scores the longer sentence tells more.
    scored.sort(key=lambda row: len(row.get("reference") or ""), reverse=True)
    upwards = sorted(scored, key=lambda row: _score(row, best_first[0]) or 0.0)
    downwards = sorted(scored, key=lambda row: _score(row, best_first[0]) or 0.0, reverse=True)
    count = min(EXTREMES, len(scored) // 2)
    return {
        "total": len(outputs),
        "leader": strategies.index(best_first[0]),
        "listing": None if listing is None else strategies.index(listing),
        "rows": rows,
        "best": [made(row) for row in downwards[:count]],
        "worst": [made(row) for row in upwards[:count]],
    }


def _bytes(rows: Sequence[Mapping[str, Any]]) -> int:
    return sum(len(json.dumps(row, ensure_ascii=False).encode(errors="replace")) for row in rows)


def _evenly(rows: Sequence[Any], count: int) -> list[Any]:
    """Returns at most `count` of the rows, evenly spaced, the first among them."""
    if len(rows) <= count:
        return list(rows)
    return [rows[place * len(rows) // count] for place in range(count)]


def _score(row: Mapping[str, Any], strategy: str) -> float | None:
    return finite((row.get("sentence_scores") or {}).get(strategy))


def _row(row: Mapping[str, Any], strategies: Sequence[str], listing: str | None) -> dict[str, Any]:
    """Returns one example for the page: texts cut to `CHARACTERS`, outputs as pieces, which are marked where
    there is one reference."""
    reference, several = _cut(row.get("reference")), len(row.get("references") or ()) > 1
    givers: dict[str, list[int]] = {}
    for place, name in enumerate(strategies):
        if name in row["outputs"]:
            givers.setdefault(_cut(row["outputs"][name]), []).append(place)
    nbest = (row.get("nbest") or {}).get(listing) or []
    return {
        "index": row["index"],
        "input": _cut(row.get("input")),
        "references": [_cut(one) for one in row["references"]] if several else [reference] if reference else [],
        "answers": [
            {"by": by, "pieces": differences(text, reference) if reference and not several else [(0, text)]}
            for text, by in givers.items()
        ],
        "scores": [_score(row, name) for name in strategies],
    } | ({"nbest": [[_cut(one.get("text")), finite(one.get("score"))] for one in nbest[:LISTED]]} if nbest else {})


def _cut(text: object) -> str:
    whole = "" if text is None else str(text)
    return whole if len(whole) <= CHARACTERS else whole[:CHARACTERS] + "…"
