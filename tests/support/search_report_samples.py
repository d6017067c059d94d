"""A made-up evaluation of many strategies, with all that results.json and outputs.jsonl can hold of them."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np

from evaluation_report_samples import some_outputs, some_results, strategy
from unrolled.metrics import compact_letter_display, holm_correction

BEAMS = {1: 35.1, 2: 37.4, 5: 38.2, 10: 38.4, 20: 37.9}
MODEL_SCORES = {1: -0.552, 2: -0.519, 5: -0.497, 10: -0.486, 20: -0.478}
TEMPERATURES = {0.3: 34.3, 0.5: 32.9, 0.7: 30.6, 1.0: 24.8}
WORDS = {"never": 310, "1–9 times": 420, "10–99 times": 1160, "100–999 times": 2280, "1000+ times": 7900}
COMMON = {"min_length": 1, "max_length": 100, "length_factor": None, "no_repeat": 0}


def searched_results() -> dict[str, Any]:
    """Twelve strategies: greedy, five beams, four temperatures of five samples, MBR and the best of samples."""
    rows = {"greedy": strategy(35.1, 61.1, 5.7, 730.0, COMMON)}
    for size, bleu in BEAMS.items():
        settings = COMMON | {"size": size, "length_penalty": 1.0}
        rows[f"beam:size={size}"] = strategy(bleu, bleu + 24.6, bleu / 6.4, 700 / size, settings)
        rows[f"beam:size={size}"]["model_score"] = MODEL_SCORES[size]
    for temperature, bleu in TEMPERATURES.items():
        row = strategy(bleu, bleu + 26.3, bleu / 7, 140.0, COMMON | {"temperature": temperature, "samples": 5})
        mean = {"bleu": bleu - 0.2, "chrf": bleu + 26.1, "exact_match": bleu / 7}
        row["samples"] = {"count": 5, "mean": mean, "deviation": dict.fromkeys(mean, 0.1 + temperature / 2)}
        rows[f"sample:temperature={temperature},samples=5"] = row
    rows["mbr:samples=20"] = strategy(38.1, 63.4, 4.9, 31.0, COMMON | {"temperature": 1.0, "samples": 20})
    rows["best:samples=20"] = strategy(34.6, 60.2, 5.1, 33.0, COMMON | {"temperature": 1.0, "samples": 20})
    for place, (name, row) in enumerate(rows.items()):
        warm = row["settings"].get("temperature", 0.0)
        row |= {"kind": name.partition(":")[0], "distinct_1": 11.2 + 5 * warm, "distinct_2": 38.4 + 12 * warm}
        row["length_ratio"] = 1.01 - 0.006 * place
    results = some_results() | {"strategies": rows, "comparisons": {}, "by_frequency": {}}
    results["command"] = f"unrolled evaluate runs/multi30k --split test --decode {','.join(rows)}"
    for name in ("bleu", "chrf", "exact_match"):
        _compare(results, name)
    for name, row in rows.items():
        results["by_frequency"][name] = [
            {"label": label, "words": words, "f1": row["bleu"] / 60 * (0.2 + 0.22 * place)}
            for place, (label, words) in enumerate(WORDS.items())
        ]
    return results


def _compare(results: dict[str, Any], name: str) -> None:
    rows = results["strategies"]
    scores = np.array([row[name] for row in rows.values()])
    p = np.maximum(np.exp(-5.5 * np.abs(scores[:, None] - scores)), 1e-4)
    corrected = holm_correction(p)
    results["comparisons"][name] = {"systems": list(rows), "p": p.tolist(), "corrected": corrected.tolist()}
    for row, letters in zip(rows.values(), compact_letter_display(corrected <= 0.05, scores), strict=True):
        row.setdefault("letters", {})[name] = letters


def searched_outputs(count: int) -> list[dict[str, Any]]:
    """Outputs of the same strategies; beams have n-best lists, the first six examples their attention."""
    rng = random.Random(5)
    rows = some_outputs(count)
    for row in rows:
        texts = row["outputs"]
        names = list(searched_results()["strategies"]) if row is rows[0] else list(rows[0]["outputs"])
        chosen = {name: texts[_like(name, rng)] for name in names}
        scores = {text: row["sentence_scores"][which] for which, text in texts.items()}
        row["outputs"] = chosen
        row["sentence_scores"] = {name: scores[text] for name, text in chosen.items()}
        row["nbest"] = {
            name: [
                {"text": text, "score": -0.4 - 0.13 * place}
                for place, text in enumerate((chosen[name], f"Ja. {row['reference']}", f"Nun. {row['reference']}"))
            ]
            for name in names
            if name.startswith("beam") and name != "beam:size=1"
        }
    for row in rows[:6]:
        row["attention"] = _attention(row)
    return rows


def _like(name: str, rng: random.Random) -> str:
    """Returns which of the three known outputs a strategy gives this time."""
    if name.startswith("sample"):
        return rng.choice(("greedy", "sample", "sample"))
    return "greedy" if name == "greedy" else rng.choice(("beam", "beam", "beam", "greedy"))


def _attention(row: dict[str, Any]) -> dict[str, Any]:
    read = [*row["input"].removesuffix(".").split(), ".", "</s>"]
    written = [*row["outputs"]["beam:size=10"].removesuffix(".").split(), ".", "</s>"]
    weights = []
    for place in range(len(written)):
        middle = place * (len(read) - 1) / (len(written) - 1)
        line = [math.exp(-((other - middle) ** 2)) for other in range(len(read))]
        weights.append([round(weight / sum(line), 3) for weight in line])
    return {"strategy": "beam:size=10", "input": read, "output": written, "weights": weights}
