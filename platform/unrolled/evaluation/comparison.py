"""Outputs beside their references: differences word by word, and the rows that the report shows."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from unrolled.evaluation.wording import finite

Piece = tuple[int, str]  # (0 same, 1 only in the output, -1 only in the reference; the text with its spaces)

# Words are runs between spaces and punctuation; scripts written without spaces count by character.
_PUNCTUATION = r"""!-&(-/:-@\[-^`{-~¡«»¿‐-―‘‚-‟…‹›、。「-』！（），．：；？"""
_UNSPACED = r"\u3041-\u30ff\u3400-\u9fff\uf900-\ufaff"
_TOKEN = re.compile(rf"\s*(?:[{_UNSPACED}{_PUNCTUATION}]|[^\s{_UNSPACED}{_PUNCTUATION}]+)")

SHOWN = 1000  # rows in the page
CHARACTERS = 2000  # of one text in the page
BYTES = 800_000  # of all rows together, so that the page stays below 6 MB with plotly inside
EXTREMES = 3  # best and worst examples


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


def page_rows(outputs: Sequence[Mapping[str, Any]], best_strategy: str) -> dict[str, Any]:
    """Returns what the page embeds of outputs.jsonl.

    ``rows`` are at most `SHOWN` examples, evenly spaced over all and thinned further where texts are long;
    ``best`` and ``worst`` are the extremes of all examples by the sentence score of `best_strategy`.
    """
    spaced = outputs[:: -(-len(outputs) // SHOWN)] if outputs else []
    rows = [_row(output) for output in spaced]
    sizes = [len(json.dumps(row)) for row in rows]
    while sum(sizes) > BYTES:
        rows, sizes = rows[::2], sizes[::2]
    scored = [row for row in outputs if _score(row, best_strategy) is not None]
    # Among equal scores the longer sentence tells more.
    scored.sort(key=lambda row: len(row.get("reference") or ""), reverse=True)
    upwards = sorted(scored, key=lambda row: _score(row, best_strategy) or 0.0)
    downwards = sorted(scored, key=lambda row: _score(row, best_strategy) or 0.0, reverse=True)
    count = min(EXTREMES, len(scored) // 2)
    return {
        "total": len(outputs),
        "strategy": best_strategy,
        "rows": rows,
        "best": [_row(row) for row in downwards[:count]],
        "worst": [_row(row) for row in upwards[:count]],
    }


def _score(row: Mapping[str, Any], strategy: str) -> float | None:
    return finite((row.get("sentence_scores") or {}).get(strategy))


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns one example for the page: texts cut to `CHARACTERS`, outputs as pieces."""
    reference = _cut(row.get("reference"))
    outputs = {name: _cut(text) for name, text in row["outputs"].items()}
    return {
        "index": row["index"],
        "input": _cut(row.get("input")),
        "reference": reference,
        "outputs": {name: differences(text, reference) if reference else [(0, text)] for name, text in outputs.items()},
        "scores": {name: finite(value) for name, value in (row.get("sentence_scores") or {}).items()},
        "disagree": len(set(row["outputs"].values())) > 1,
    }


def _cut(text: object) -> str:
    whole = "" if text is None else str(text)
    return whole if len(whole) <= CHARACTERS else whole[:CHARACTERS] + "…"
