"""Made-up outputs with references, for tests of metrics."""

from __future__ import annotations

import random

TEXT = "a the dog cat man's runs, through snow; with “red” hats (two) Straßen & 3.5 km 'quick' walk."


def corpus(sentences: int, kept: float = 0.8, seed: int = 7, system: int = 0) -> tuple[list[str], list[str]]:
    """Returns predictions, some of them cut short or empty, and references.

    `kept` of the predicted words are right; which ones, `system` decides; the references are those of the seed.
    """
    writer, vocabulary = random.Random(seed), TEXT.split()
    references = [writer.choices(vocabulary, k=writer.randint(4, 20)) for _ in range(sentences)]
    guesser = random.Random(1000 * seed + system)
    predictions = []
    for words in references:
        guesses = [word if guesser.random() < kept else guesser.choice(vocabulary) for word in words]
        predictions.append(" ".join(guesses[: guesser.choice([0, 3, 100, 100, 100, 100])]))
    return predictions, [" ".join(words) for words in references]
