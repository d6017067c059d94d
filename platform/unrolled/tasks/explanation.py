"""A character model's computation step by step, as on the lecture's slide: what it reads, feels, scores and loses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unrolled.data.symbols import Symbols
from unrolled.errors import UserError
from unrolled.models import LanguageModel

COLUMNS = 100
LABEL, CELL = 12, 8
"""Characters of a row's name, and of a number."""
STEPS = (COLUMNS - LABEL) // CELL
"""Steps that stand side by side."""
MOST = 10
"""Rows of a vector that are shown."""


def explain(model: LanguageModel, symbols: Symbols, text: str) -> str:
    """Returns a table with a column a step: input, hidden vector, output scores (logits), softmax, target and loss.

    Raises:
        UserError: the units are not characters, or the text has less than two.
    """
    if not symbols.characters:
        raise UserError("--explain shows models of characters; this one reads words or parts of words.")
    numbers = torch.from_numpy(symbols.encode(text, f"text {text[:30]!r}").astype("int64"))
    if len(numbers) < 2:
        raise UserError(f"--explain needs two characters or more: {text!r} leaves nothing to predict.")
    device = next(model.parameters()).device
    steps = _steps(model, numbers.to(device))
    names = [_visible(name) for name in symbols.names]
    blocks = [
        _block(steps, range(start, min(start + STEPS, len(numbers) - 1)), numbers.tolist(), names)
        for start in range(0, len(numbers) - 1, STEPS)
    ]
    total = float(steps["loss"].sum())
    mean = total / (len(numbers) - 1)
    return "\n".join(
        [*("\n".join(block) + "\n" for block in blocks), f"sum of the losses {total:.4f} nats, mean {mean:.4f}"]
    )


@torch.inference_mode()
def _steps(model: LanguageModel, numbers: Tensor) -> dict[str, Tensor]:
    """Reads all characters but the last; every value is `(steps, …)` or `(steps,)`."""
    model.eval()
    hidden, _ = model(numbers[None, :-1])
    scores = torch.nn.functional.linear(hidden[0], model.head.weight, model.head.bias)
    logs = scores.log_softmax(-1)
    loss = -logs.gather(1, numbers[1:, None])[:, 0]
    inputs = model.embed(numbers[:-1])
    return {"input": inputs, "hidden": hidden[0], "scores": scores, "softmax": logs.exp(), "loss": loss}


def _block(steps: dict[str, Tensor], places: range, numbers: Sequence[int], names: Sequence[str]) -> list[str]:
    chosen = list(places)
    lines = [
        _row("step", [str(place + 1) for place in chosen]),
        _row("reads", [names[numbers[place]] for place in chosen]),
    ]
    for title, values, of in (
        ("input x", steps["input"], names),
        ("hidden h", steps["hidden"], None),
        ("scores o", steps["scores"], names),
        ("softmax ŷ", steps["softmax"], names),
    ):
        lines += ["", *_vector(title, values[chosen], of)]
    lines += [
        "",
        _row("target y", [names[numbers[place + 1]] for place in chosen]),
        _row("loss", [f"{float(steps['loss'][place]):.4f}" for place in chosen]),
    ]
    return lines


def _vector(title: str, values: Tensor, names: Sequence[str] | None) -> list[str]:
    """Rows of `values` `(steps, features)`, at most `MOST` of them."""
    features = values.shape[1]
    named = names is not None and len(names) == features
    lines = []
    for place in range(min(features, MOST)):
        name = names[place] if named and names is not None else str(place + 1)
        numbers = [float(value) for value in values[:, place]]
        whole = all(number in (0.0, 1.0) for number in numbers)
        label = f"{title if place == 0 else '':<{LABEL - 2}}{name:>2}"
        lines.append(
            _row(label, [f"{number:.0f}" if whole and title == "input x" else f"{number:.4f}" for number in numbers])
        )
    if features > MOST:
        lines.append(f"{'':<{LABEL - 2}} … {features - MOST} more")
    return lines


def _row(label: str, cells: Sequence[str]) -> str:
    return (f"{label:<{LABEL}}" + "".join(f"{cell:>{CELL}}" for cell in cells)).rstrip()


def _visible(character: str) -> str:
    return {" ": "␣", "\n": "↵", "\t": "⇥"}.get(character, character)
