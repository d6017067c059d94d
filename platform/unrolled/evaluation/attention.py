"""Where the model looked: the attention of a few examples as heatmaps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from unrolled.evaluation.charts import Chart, as_json, layout
from unrolled.evaluation.wording import short

CELL = 32  # pixels of a weight
TOKENS = 60  # on one axis
LETTERS = 18  # of one token
NOTE = (
    "A row is a word of the output: the more colour a cell has, the more of its input word was looked at while the "
    "row’s word was written. Rows sum to 1. Attention is where the model looked, not why it chose."
)


def attention_charts(outputs: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Returns one heatmap for each example that has its attention weights, tokens on both axes."""
    return list(_charts(outputs))


def _charts(outputs: Sequence[Mapping[str, Any]]) -> Iterator[Chart]:
    for row in outputs:
        attention = row.get("attention") or {}
        weights = [line[:TOKENS] for line in (attention.get("weights") or [])[:TOKENS]]
        if not weights or not weights[0]:
            continue
        read, written = (attention[key][:TOKENS] for key in ("input", "output"))
        yield Chart(
            f"attention-{row['index']}",
            f"#{row['index']} {_cut(str(row.get('input') or ' '.join(read)), 70)}",
            f"Heatmap: attention of {short(attention['strategy'])} from {len(written)} output tokens to {len(read)} "
            "input tokens.",
            NOTE,
            as_json(_heatmap(read, written, weights)),
        )


def _heatmap(read: Sequence[str], written: Sequence[str], weights: Sequence[Sequence[float]]) -> go.Figure:
    left, top = (12 + 8 * max(len(_cut(token)) for token in tokens) for tokens in (written, read))
    size = {"width": left + 12 + CELL * len(read), "margin": {"l": left, "r": 12, "t": top, "b": 8}}
    figure = go.Figure(layout=layout(top + 8 + CELL * len(written), hovermode="closest", **size))
    figure.add_heatmap(
        z=[list(line) for line in weights],
        zmin=0,
        zmax=1,
        colorscale=[[0, "var(--surface)"], [1, "var(--series-beam)"]],
        showscale=False,
        xgap=1,
        ygap=1,
        hovertemplate="%{y} → %{x}<br>%{z:.2f}<extra></extra>",
    )
    ticks = {
        "tickmode": "array",
        "ticks": "outside",
        "tickcolor": "rgba(0,0,0,0)",  # unseen, they keep labels off the cells
        "tickfont": {"color": "var(--ink)"},
        "showgrid": False,
        "automargin": False,
    }
    figure.update_xaxes(side="top", tickangle=-90, **ticks, **_labels(read))
    figure.update_yaxes(autorange="reversed", **ticks, **_labels(written))
    return figure


def _labels(tokens: Sequence[str]) -> dict[str, Any]:
    # plotly reads markup in labels: a token that looks like it stays what it is.
    return {"tickvals": list(range(len(tokens))), "ticktext": [escape(_cut(token)).strip() or "␣" for token in tokens]}


def _cut(text: str, length: int = LETTERS) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
