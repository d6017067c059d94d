"""A made-up evaluation, as realistic as it need be, with texts that try to break the page."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

from unrolled.reports.evaluation_report import write_report

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> & 'quotes' </script>"
CONFIG = (
    "task: translation\ndata:\n  source: bentrevett/multi30k  # <b>not bold</b>\nmodel:\n  decoder:\n    cell: lstm\n"
)


def strategy(bleu: float, chrf: float, exact: float, speed: float, settings: dict[str, Any]) -> dict[str, Any]:
    lengths = ((1, 8, 120), (9, 12, 410), (13, 16, 320), (17, 24, 150))
    return {
        "bleu": bleu,
        "chrf": chrf,
        "exact_match": exact,
        "intervals": {
            "bleu": [bleu - 1.2, bleu + 1.2],
            "chrf": [chrf - 0.9, chrf + 0.9],
            "exact_match": [max(0.0, exact - 1.1), exact + 1.2],
        },
        "length_ratio": 0.98,
        "signatures": {
            "bleu": "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.5.1",
            "chrf": "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.5.1",
        },
        "settings": settings,
        "seconds": 1000 / speed,
        "sentences_per_second": speed,
        "by_length": [
            {
                "from": low,
                "to": high,
                "examples": n,
                "bleu": bleu + 6 - 3.4 * i,
                "exact_match": exact * (4 - i) / 3,
            }
            for i, (low, high, n) in enumerate(lengths)
        ],
    }


def some_results() -> dict[str, Any]:
    return {
        "run": "multi30k",
        "task": "translation",
        "split": "test",
        "examples": 1000,
        "headline": "bleu",
        "checkpoint": "step-1200",
        "created": "2026-11-24T05:00:00+00:00",
        "command": "unrolled evaluate runs/multi30k --split test --decode greedy,sample,beam",
        "version": "0.1.0",
        "device": "cpu",
        "workers": 2,
        "parameters": 7_400_000,
        "data": {"source": "bentrevett/multi30k", "input": "en", "target": "de"},
        "strategies": {
            "greedy": strategy(35.1, 61.2, 4.1, 344.0, {"max_length": 100}),
            "sample": strategy(28.8, 55.4, 2.2, 331.0, {"temperature": 1.0, "top_k": None, "seed": 1}),
            "beam": strategy(36.2, 61.9, 4.6, 112.0, {"size": 5, "length_penalty": 1.0}),
        },
    }


PEOPLE = {
    "A dog": "Ein Hund",
    "A young woman": "Eine junge Frau",
    "A man in a red shirt": "Ein Mann in rotem Hemd",
}
DEEDS = {"runs": "rennt", "is playing guitar": "spielt Gitarre", "jumps": "springt", "is sitting": "sitzt"}
PLACES = {
    "in the snow": "im Schnee",
    "on a busy street": "auf einer belebten Straße",
    "near a lake": "an einem See",
}


def some_outputs(count: int) -> list[dict[str, Any]]:
    rng = random.Random(7)
    rows = []
    for index in range(count):
        parts = [rng.choice(list(words.items())) for words in (PEOPLE, DEEDS, PLACES)]
        reference = [german for _, german in parts]
        beam, greedy, sample = list(reference), list(reference), list(reference)
        if rng.random() < 0.6:
            greedy[1] = rng.choice(list(DEEDS.values()))
        if rng.random() < 0.3:
            beam[2] = rng.choice(list(PLACES.values()))
        sample[rng.randrange(3)] = rng.choice(["Ein Kind", "im Park", "steht", "eine Straße entlang"])
        texts = {"greedy": greedy, "sample": sample, "beam": beam}
        rows.append(
            {
                "index": index,
                "input": " ".join(english for english, _ in parts) + ".",
                "reference": " ".join(reference) + ".",
                "outputs": {name: " ".join(words) + "." for name, words in texts.items()},
                "sentence_scores": {
                    name: 100.0 if words == reference else round(rng.uniform(20, 90), 1)
                    for name, words in texts.items()
                },
            }
        )
    return rows


def some_history(steps: int = 1200) -> list[dict[str, Any]]:
    rng = random.Random(3)
    rows: list[dict[str, Any]] = []
    for step in range(50, steps + 1, 50):
        loss = 1.4 + 4.4 * math.exp(-step / 330)
        clipped = min(1.0, max(0.0, 0.85 * math.exp(-step / 500) + rng.uniform(-0.1, 0.1)))
        common = {"step": step, "epoch": step / 230, "seconds": step / 4}
        rows.append(
            {"kind": "train", **common, "loss": loss + rng.uniform(-0.15, 0.1), "clipped": clipped}
            | {"gradient_norm": (0.8 + 3 * math.exp(-step / 400)) * rng.uniform(0.7, 1.7)}
            | {"learning_rate": 1e-3 * min(step / 200, (1300 - step) / 1100), "tokens_per_second": 3100.0}
        )
        if step % 100 == 0:
            bleu = 37 * (1 - math.exp(-step / 380)) - (0.8 if step == steps else 0)
            best = step != steps
            rows.append(
                {
                    "kind": "validation",
                    **common,
                    "loss": loss + 0.25,
                    "perplexity": math.exp(loss),
                    "bleu": bleu,
                }
                | {"exact_match": bleu / 9, "best": best}
            )
    return rows


def write(tmp_path: Path, results: dict[str, Any], outputs: Any = None, history: Any = None) -> str:
    path = tmp_path / "evaluation" / "report.html"
    write_report(results, some_outputs(4) if outputs is None else outputs, history or [], CONFIG, path)
    return path.read_text(encoding="utf-8")


def partial(results: dict[str, Any]) -> None:
    """A metric that one strategy lacks, and a strategy with another name."""
    del results["strategies"]["greedy"]["chrf"], results["strategies"]["sample"]["by_length"]
    results["strategies"]["beam of 10"] = {"bleu": 36.4, "exact_match": float("nan")}
