"""How scores are called, written and compared."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A score as a reader meets it; `unit` follows the number, `about` is one sentence for a learner."""

    label: str
    about: str = ""
    unit: str = ""
    higher_is_better: bool = True
    digits: int = 1

    def text(self, value: float | None) -> str:
        """Returns the value as printed everywhere, ``–`` where there is none."""
        return "–" if value is None else f"{value:.{self.digits}f}{self.unit}"

    def better(self, value: float, than: float) -> bool:
        """Returns whether `value` is the better score."""
        return value > than if self.higher_is_better else value < than


PERCENT = "\N{NO-BREAK SPACE}%"
NAMED = {
    "bleu": Metric(
        "BLEU",
        "BLEU counts the runs of one to four words that the outputs share with their references and lowers the "
        "score when the outputs are too short. 0 is worst, 100 best.",
    ),
    "chrf": Metric(
        "chrF",
        "chrF compares runs of characters instead of words, so a word with a nearly right ending still earns "
        "credit. 0 is worst, 100 best.",
    ),
    "exact_match": Metric(
        "Exact match", "The share of outputs that equal their reference, character by character.", PERCENT
    ),
    "accuracy": Metric("Accuracy", "The share of examples with the right answer.", PERCENT),
    "mse": Metric(
        "Mean squared error", "The mean of the squared distance from the target; lower is better.", "", False, 4
    ),
    "perplexity": Metric(
        "Perplexity",
        "Between how many equally likely words the model hesitates at each step; lower is better.",
        higher_is_better=False,
    ),
    "loss": Metric(
        "Loss", "Cross-entropy: the mean of −log p of what comes next, in nats; lower is better.", "", False, 3
    ),
    "bits_per_character": Metric(
        "Bits per character",
        "The loss in bits: what the best code that knows the model needs for a character; lower is better.",
        "",
        False,
        3,
    ),
}


def metric(name: str) -> Metric:
    """Returns the metric as known to readers, or one made from its name."""
    return NAMED.get(name) or Metric(name.replace("_", " ").capitalize())
