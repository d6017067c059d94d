"""Step trace of a character model: input, hidden vector, scores, softmax, target and loss of every step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unrolled.data.tokenizer import Vocabulary
from unrolled.errors import UserError
from unrolled.models import LanguageModel

COLUMNS = 100
LABEL, CELL = 12, 8
"""Characters of a row's label, and of a number."""
STEPS = (COLUMNS - LABEL) // CELL
"""Steps per table."""
MAX_ROWS = 10
"""Displayed elements of a vector."""


def step_trace(model: LanguageModel, vocabulary: Vocabulary, text: str) -> str:
    """Returns tables with one column per step of the model on a text; raises `UserError` if the units are not
    characters, or the text has less than two."""
    if not vocabulary.is_closed:
        raise UserError("--explain shows models of characters; this one reads words or parts of words.")
    tokens = torch.from_numpy(vocabulary.encode_text(text, f"text {text[:30]!r}").astype("int64"))
    if len(tokens) < 2:
        raise UserError(f"--explain needs two characters or more: {text!r} leaves nothing to predict.")
    steps = _steps(model, tokens.to(next(model.parameters()).device))
    names = [visible(name) for name in vocabulary.tokens(range(len(vocabulary)))]
    count = len(tokens) - 1
    blocks = [
        _block(steps, range(start, min(start + STEPS, count)), tokens.tolist(), names)
        for start in range(0, count, STEPS)
    ]
    total = float(steps["loss"].sum())
    summary = f"sum of the losses {total:.4f} nats, mean {total / count:.4f}"
    return "\n".join([*("\n".join(block) + "\n" for block in blocks), summary])


def visible(unit: str) -> str:
    """Returns a unit with visible white space: ␣ for spaces, ↵ for newlines."""
    return unit.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥").replace("\r", "␍")


@torch.inference_mode()
def _steps(model: LanguageModel, tokens: Tensor) -> dict[str, Tensor]:
    """Reads all characters but the last; every value is `(steps, …)` or `(steps,)`."""
    model.eval()
    hidden, _ = model(tokens[None, :-1])
    scores = torch.nn.functional.linear(hidden[0], model.head.weight, model.head.bias)
    logs = scores.log_softmax(-1)
    loss = -logs.gather(1, tokens[1:, None])[:, 0]
    inputs = model.embed(tokens[:-1])
    return {"input": inputs, "hidden": hidden[0], "scores": scores, "softmax": logs.exp(), "loss": loss}


def _block(steps: dict[str, Tensor], columns: range, tokens: Sequence[int], names: Sequence[str]) -> list[str]:
    """Returns the lines of one table."""
    lines = [
        _row("step", [str(step + 1) for step in columns]),
        _row("reads", [names[tokens[step]] for step in columns]),
    ]
    for title, values, elements in (
        ("input x", steps["input"], names),
        ("hidden h", steps["hidden"], None),
        ("scores o", steps["scores"], names),
        ("softmax ŷ", steps["softmax"], names),
    ):
        lines += ["", *_vector(title, values[list(columns)], elements)]
    lines += [
        "",
        _row("target y", [names[tokens[step + 1]] for step in columns]),
        _row("loss", [f"{float(steps['loss'][step]):.4f}" for step in columns]),
    ]
    return lines


def _vector(title: str, values: Tensor, names: Sequence[str] | None) -> list[str]:
    """Returns one line per element of vectors `(steps, features)`, at most `MAX_ROWS`; `names` are those of the
    elements, where there are as many."""
    features = values.shape[1]
    if names is None or len(names) != features:
        names = [str(i + 1) for i in range(features)]
    lines = []
    for i in range(min(features, MAX_ROWS)):
        numbers = [float(value) for value in values[:, i]]
        digits = 0 if title == "input x" and all(number in (0.0, 1.0) for number in numbers) else 4
        label = f"{title if i == 0 else '':<{LABEL - 2}}{names[i]:>2}"
        lines.append(_row(label, [f"{number:.{digits}f}" for number in numbers]))
    if features > MAX_ROWS:
        lines.append(f"{'':<{LABEL - 2}} … {features - MAX_ROWS} more")
    return lines


def _row(label: str, cells: Sequence[str]) -> str:
    return (f"{label:<{LABEL}}" + "".join(f"{cell:>{CELL}}" for cell in cells)).rstrip()
