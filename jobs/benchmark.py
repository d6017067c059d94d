"""How fast the package is, next to the plainest PyTorch that does the same.

    python jobs/benchmark.py recurrence training            some of them
    python jobs/benchmark.py all --quick --check            in under a minute; exit code 1 if a goal is missed
    python jobs/benchmark.py all --json FILE --markdown FILE

A benchmark is a function from `quick` to figures and a line in `BENCHMARKS`.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

JOBS = Path(__file__).resolve().parent
# This folder comes last: its evaluate.py must not hide the library of that name.
sys.path[:] = [str(JOBS.parent / "platform"), *(path for path in sys.path if Path(path) != JOBS), str(JOBS)]

from measure import Benchmark, Figure, main, ratio, take_turns
from recurrence import recurrence
from unrolled.config.translation import Model
from unrolled.config.translation import TranslationConfig as Config
from unrolled.config_file import load_config
from unrolled.data.batching import Batch, collate, plan
from unrolled.data.vocabulary import BEGIN, END, PAD, SPECIAL, UNKNOWN
from unrolled.decoding import Beam, Greedy, Sample, Strategy, decode
from unrolled.models import EncoderDecoder, build_translator
from unrolled.training.comm import Alone
from unrolled.training.gradients import GradientBuffer
from unrolled.training.optimizer import build_optimizer

CONFIG = JOBS.parent / "configs" / "translation" / "multi30k.yaml"


# Training: one optimizer step of the translator against a plain loop --------------------------------------


def training(quick: bool) -> Iterator[Figure]:
    """Tokens a second of the step of `training/loop.py` and of a loop as one writes it by hand, on equal batches."""
    config = load_config(CONFIG)
    batches = caption_batches(config, 400 if quick else config.training.batch_tokens, count=8)
    seconds = take_turns(
        {"ours": our_step(config, batches), "plain": plain_step(config, batches)}, 5 if quick else 3 * len(batches)
    )
    # Tokens are the same on both sides, so rates compare as seconds do, the other way round.
    yield ratio(
        "training/translation/tokens-per-second",
        seconds["plain"],
        seconds["ours"],
        goal=1.0,
        better="higher",
        baseline="plain loop",
    )


def caption_batches(config: Config, batch_tokens: int, count: int) -> list[Batch]:
    """Random tokens with lengths like those of Multi30k's captions: about 14 a side, the two sides alike."""
    generator = np.random.default_rng(1)
    common = generator.normal(14, 4, size=(4000, 1))
    lengths = np.clip(common + generator.normal(0, 1.5, size=(4000, 2)), 4, 40).astype(int)
    batches = []
    for indices in plan(lengths, batch_tokens=batch_tokens, max_length=100, seed=1, epoch=0)[:count]:
        sides = [
            # `lengths` count the end symbol, which collate adds.
            [generator.integers(len(SPECIAL), config.data.vocabulary.size, size=lengths[i, side] - 1) for i in indices]
            for side in (0, 1)
        ]
        batches.append(collate(*sides))
    return batches


def translator(config: Config) -> EncoderDecoder:
    """The config's model, untrained."""
    return build_translator(config.model, config.data.vocabulary.size, config.data.vocabulary.size)


def our_step(config: Config, batches: Sequence[Batch]) -> Callable[[], None]:
    """What the training loop does with a batch; each call takes the next one."""
    model = translator(config).train()
    optimizer = build_optimizer(model, config.training.optimizer)
    gradients = GradientBuffer(model, extra=1)
    coming = itertools.cycle(batches)

    def run() -> None:
        batch = next(coming)
        gradients.zero()
        memory = model.encode(batch.inputs, batch.input_mask)
        smoothing = config.training.label_smoothing
        loss = model.loss(memory, batch.before, batch.after, batch.target_mask, smoothing) / batch.target_mask.sum()
        torch.autograd.backward(loss)
        gradients.sum_over_workers(Alone(), [loss.detach()])
        gradients.clip(config.training.clipping)
        optimizer.step()

    return run


def plain_step(config: Config, batches: Sequence[Batch]) -> Callable[[], None]:
    """The same step with nothing but `torch.nn` and `torch.optim`."""
    model = PlainTranslator(config.model, config.data.vocabulary.size).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=config.training.optimizer.learning_rate)
    coming = itertools.cycle(batches)

    def run() -> None:
        batch = next(coming)
        optimizer.zero_grad()
        loss = model.loss(batch, config.training.label_smoothing)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), config.training.clipping.threshold)
        optimizer.step()
        loss.item()  # as anybody does who shows it

    return run


class PlainTranslator(nn.Module):
    """The default translator (GRU, `general` attention, tied output) written with `torch.nn` alone."""

    def __init__(self, config: Model, vocabulary: int) -> None:
        super().__init__()
        encoder, decoder = config.encoder, config.decoder
        self.dropout_in, self.dropout_out = encoder.dropout, decoder.dropout
        self.reading = nn.Embedding(vocabulary, encoder.embedding)
        self.writing = nn.Embedding(vocabulary, decoder.embedding)
        self.encoder = nn.GRU(encoder.embedding, encoder.hidden, batch_first=True, bidirectional=True)
        self.decoder = nn.GRU(decoder.embedding, decoder.hidden, batch_first=True)
        memory = 2 * encoder.hidden
        self.bridge = nn.Linear(memory, decoder.hidden)
        self.key = nn.Linear(memory, decoder.hidden, bias=False)
        self.readout = nn.Linear(decoder.hidden + memory, decoder.embedding)
        self.output = nn.Linear(decoder.embedding, vocabulary)
        self.output.weight = self.writing.weight

    def loss(self, batch: Batch, smoothing: float) -> Tensor:
        """Mean cross-entropy of the target tokens, over the full logits `(batch · time, vocabulary)`."""
        embedded = functional.dropout(self.reading(batch.inputs), self.dropout_in, self.training)
        lengths = batch.input_mask.sum(1)
        packed, last = self.encoder(pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False))
        states, _ = pad_packed_sequence(packed, batch_first=True)
        states = functional.dropout(states, self.dropout_in, self.training)
        first = torch.tanh(self.bridge(torch.cat([last[0], last[1]], dim=-1)))
        embedded = functional.dropout(self.writing(batch.before), self.dropout_out, self.training)
        hidden, _ = self.decoder(embedded, first[None].contiguous())
        scores = hidden @ self.key(states).transpose(1, 2) / hidden.shape[-1] ** 0.5
        weights = scores.masked_fill(~batch.input_mask[:, None], float("-inf")).softmax(-1)
        outputs = torch.tanh(self.readout(torch.cat([hidden, weights @ states], dim=-1)))
        logits = self.output(functional.dropout(outputs, self.dropout_out, self.training))
        targets = batch.after.masked_fill(~batch.target_mask, PAD)
        return functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=PAD, label_smoothing=smoothing
        )


# Decoding: beam search and sampling against greedy --------------------------------------------------------


def decoding(quick: bool) -> Iterator[Figure]:
    """Seconds a sentence of an untrained translator; nothing may end early, so all take as many steps."""
    config = load_config(CONFIG)
    model = translator(config).eval()
    inputs = torch.randint(len(SPECIAL), config.data.vocabulary.size, (16 if quick else config.decoding.batch, 14))
    strategies: dict[str, Strategy] = {"greedy": Greedy(), "beam-5": Beam(size=5), "sampling": Sample()}

    def search(strategy: Strategy) -> Callable[[], object]:
        return lambda: decode(
            model,
            memory,
            strategy,
            begin=BEGIN,
            end=END,
            max_length=15,
            forbidden=(PAD, BEGIN, END, UNKNOWN),
        )

    with torch.inference_mode():
        memory = model.encode(inputs, torch.ones_like(inputs, dtype=torch.bool))
        seconds = take_turns({name: search(strategy) for name, strategy in strategies.items()}, 5 if quick else 21)
    for name, goal in (("beam-5", 5.0), ("sampling", 1.5)):
        yield ratio(
            f"decoding/{name}", seconds[name], seconds["greedy"], goal=goal, better="lower", baseline="greedy search"
        )


BENCHMARKS: dict[str, Benchmark] = {
    "recurrence": recurrence,
    "training": training,
    "decoding": decoding,
}

if __name__ == "__main__":
    sys.exit(main(BENCHMARKS, sys.argv[1:]))
