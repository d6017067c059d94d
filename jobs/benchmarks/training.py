"""Training against the matrix products alone, against a loop written by hand, and on one worker against two."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
import torch.multiprocessing
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from measure import Figure, ratio, take_turns
from unrolled.config.load import load_config
from unrolled.config.translation import TranslationConfig, TranslationModel
from unrolled.data.batching import Batch, collate, plan
from unrolled.data.tokenizer import PAD, SPECIAL
from unrolled.models import EncoderDecoder, build_translator
from unrolled.recurrence import CELLS
from unrolled.tasks import WindowLoss
from unrolled.training.distributed import Comm, ProcessGroup, SingleWorker
from unrolled.training.train_step import TrainStep, WorkerBatch

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "translation" / "multi30k.yaml"
LSTM = [
    *("model.encoder.cell=lstm", "model.encoder.hidden=256", "model.encoder.embedding=256"),
    *("model.decoder.cell=lstm", "model.decoder.hidden=512", "model.decoder.embedding=256"),
    *("model.tie_embeddings=true", "model.decoder.tie=false", "training.label_smoothing=0"),
]
"""Bidirectional LSTM 256 + 256, LSTM 512, `general` attention, 512 × 8,000 output: what other toolkits were given."""
GRU = [
    *("model.encoder.cell=gru", "model.encoder.hidden=256", "model.encoder.embedding=256"),
    *("model.decoder.cell=gru", "model.decoder.hidden=256", "model.decoder.embedding=256"),
    *("model.decoder.tie=true", "training.label_smoothing=0"),
]
MODELS = {"lstm512": LSTM, "gru256": GRU}
FED = "model.decoder.attention.input_feeding=true"


def training(quick: bool) -> Iterator[Figure]:
    """Seconds of an update on captions of random tokens, as many tokens a batch as the name says."""
    for name, overrides in MODELS.items():
        for tokens in (400,) if quick else (1500, 4000):
            if tokens == 1500 or name == "lstm512":
                yield from _one_worker(
                    f"training/{name}/{tokens}", [*overrides, f"training.batch_tokens={tokens}"], quick
                )
    tokens = 400 if quick else 4000
    yield from _two_workers(f"training/lstm512/{tokens}", [*LSTM, f"training.batch_tokens={tokens}"], quick)


def _one_worker(name: str, overrides: Sequence[str], quick: bool) -> Iterator[Figure]:
    config, fed = configured(*overrides), configured(*overrides, FED)
    batches = caption_batches(config, config.training.batch_tokens, count=8)
    work = {
        "ours": our_step(config, batches),
        "fed": our_step(fed, batches),
        "plain": plain_step(config, batches),
        "gemms": products(config, batches),
    }
    if torch.cpu._is_amx_tile_supported():
        work["half"] = our_step(configured(*overrides, "training.precision=bfloat16"), batches)
    for function in work.values():
        for _ in batches:
            function()  # libraries choose their kernels by shape, once
    seconds = take_turns(work, 3 if quick else 2 * len(batches))
    yield ratio(
        f"{name}/gemm-share", seconds["gemms"], seconds["ours"], goal=0.75, better="higher", baseline="products alone"
    )
    yield ratio(f"{name}/loop", seconds["plain"], seconds["ours"], goal=1.3, better="higher", baseline="plain loop")
    if "half" in seconds:
        yield ratio(f"{name}/bf16", seconds["plain"], seconds["half"], goal=3.0, better="higher", baseline="plain loop")
    if name.startswith("training/lstm512"):
        more = sum(flops(fed.model, batch) for batch in batches) / sum(flops(config.model, batch) for batch in batches)
        yield ratio(
            f"{name}/input-feeding",
            [more * one for one in seconds["ours"]],
            seconds["fed"],
            goal=0.85,
            better="higher",
            baseline="unfed, per FLOP",
        )


def configured(*overrides: str) -> TranslationConfig:
    """The config of Multi30k with overrides, in float32 unless they say otherwise."""
    config = load_config(CONFIG, ["training.precision=float32", *overrides])
    assert isinstance(config, TranslationConfig)
    return config


def caption_batches(config: TranslationConfig, batch_tokens: int, count: int) -> list[Batch]:
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


def translator(config: TranslationConfig) -> EncoderDecoder:
    """The config's model, untrained."""
    return build_translator(config.model, config.data.vocabulary.size, config.data.vocabulary.size)


class _Captions:
    """As much of a task as an update asks for."""

    def __init__(self, config: TranslationConfig) -> None:
        self.smoothing = config.training.label_smoothing

    def losses(self, model: EncoderDecoder, part: Batch, state: Any) -> Iterator[WindowLoss]:
        memory = model.encode(part.inputs, part.input_mask)
        yield WindowLoss(
            model.loss(memory, part.decoder_inputs, part.targets, part.target_mask, self.smoothing), state, last=True
        )


def our_step(config: TranslationConfig, batches: Sequence[Batch], comm: Comm | None = None) -> Callable[[], None]:
    """An update as the training loop makes it; each call takes the next batch."""
    model, comm = translator(config).train(), comm or SingleWorker()
    update = TrainStep(_Captions(config), model, config, comm, torch.device("cpu"))  # type: ignore[arg-type]
    coming = itertools.cycle(_share(batch, comm) for batch in batches)

    def run() -> None:
        update(next(coming), 0, 0.0, [0.0, 0.0], norms_by_layer=False)

    return run


def _share(batch: Batch, comm: Comm) -> WorkerBatch:
    mine = {name: tensor[comm.rank :: comm.size] for name, tensor in vars(batch).items()}
    return WorkerBatch([Batch(**mine)], int(batch.target_mask.sum()))


def plain_step(config: TranslationConfig, batches: Sequence[Batch]) -> Callable[[], None]:
    """The same update with nothing but `torch.nn` and `torch.optim`."""
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
    """The translator (LSTM or GRU, `general` attention) written with `torch.nn` alone."""

    def __init__(self, config: TranslationModel, vocabulary: int) -> None:
        super().__init__()
        encoder, decoder = config.encoder, config.decoder
        kind = {"lstm": nn.LSTM, "gru": nn.GRU}[decoder.cell]
        self.dropout_in, self.dropout_out = encoder.dropout, decoder.dropout
        self.reading = nn.Embedding(vocabulary, encoder.embedding)
        self.writing = self.reading if config.tie_embeddings else nn.Embedding(vocabulary, decoder.embedding)
        self.encoder = kind(encoder.embedding, encoder.hidden, batch_first=True, bidirectional=True)
        self.decoder = kind(decoder.embedding, decoder.hidden, batch_first=True)
        memory, output = 2 * encoder.hidden, decoder.embedding if decoder.tie else decoder.hidden
        self.bridges = nn.ModuleList(nn.Linear(memory, decoder.hidden) for _ in range(2 if kind is nn.LSTM else 1))
        self.key = nn.Linear(memory, decoder.hidden, bias=False)
        self.readout = nn.Linear(decoder.hidden + memory, output)
        self.output = nn.Linear(output, vocabulary)
        if decoder.tie:
            self.output.weight = self.writing.weight

    def loss(self, batch: Batch, smoothing: float) -> Tensor:
        """Mean cross-entropy of the target tokens, over the full logits `(batch · time, vocabulary)`."""
        embedded = functional.dropout(self.reading(batch.inputs), self.dropout_in, self.training)
        lengths = batch.input_mask.sum(1)
        packed, last = self.encoder(pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False))
        states, _ = pad_packed_sequence(packed, batch_first=True)
        states = functional.dropout(states, self.dropout_in, self.training)
        ends = last[0] if isinstance(last, tuple) else last
        summary = torch.cat([ends[0], ends[1]], dim=-1)
        first = tuple(torch.tanh(bridge(summary))[None].contiguous() for bridge in self.bridges)
        embedded = functional.dropout(self.writing(batch.decoder_inputs), self.dropout_out, self.training)
        hidden, _ = self.decoder(embedded, first if len(first) > 1 else first[0])
        scores = hidden @ self.key(states).transpose(1, 2) / hidden.shape[-1] ** 0.5
        weights = scores.masked_fill(~batch.input_mask[:, None], float("-inf")).softmax(-1)
        outputs = torch.tanh(self.readout(torch.cat([hidden, weights @ states], dim=-1)))
        logits = self.output(functional.dropout(outputs, self.dropout_out, self.training))
        targets = batch.targets.masked_fill(~batch.target_mask, PAD)
        return functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=PAD, label_smoothing=smoothing
        )


# The matrix products of an update -------------------------------------------------------------------------


@dataclass(frozen=True)
class Gemm:
    """`times` products of (rows, depth) and (depth, columns); or one for each of several numbers of rows."""

    rows: int | tuple[int, ...]
    depth: int
    columns: int
    times: int = 1

    @property
    def steps(self) -> tuple[int, ...]:
        """The rows of each product."""
        return (self.rows,) * self.times if isinstance(self.rows, int) else self.rows

    @property
    def flops(self) -> int:
        return 2 * sum(self.steps) * self.depth * self.columns


def gemms(model: TranslationModel, batch: Batch) -> list[Gemm]:
    """The forward products of real tokens; recurrent ones a step at a time."""
    encoder, decoder = model.encoder, model.decoder
    reads, writes, rows = int(batch.input_mask.sum()), int(batch.target_mask.sum()), len(batch.inputs)
    memory, output = 2 * encoder.hidden, decoder.embedding if decoder.tie else decoder.hidden
    fed = output if decoder.attention.input_feeding else 0
    enc, dec = (CELLS[half.cell].num_gates * half.hidden for half in (encoder, decoder))
    positions = round(reads / rows)
    return [
        *[Gemm(reads, encoder.embedding, enc), Gemm(rows, encoder.hidden, enc, round(reads / rows))] * 2,
        Gemm(reads, memory, decoder.hidden),
        Gemm(writes, decoder.embedding + fed, dec),
        Gemm(rows, decoder.hidden, dec, round(writes / rows)),
        Gemm(writes, decoder.hidden, positions),  # scores
        Gemm(writes, positions, memory),  # contexts
        Gemm(writes, decoder.hidden + memory, output),
        Gemm(writes, output, 8000),
    ]


def flops(model: TranslationModel, batch: Batch) -> int:
    """Of both passes: three times those of the forward pass."""
    return 3 * sum(gemm.flops for gemm in gemms(model, batch))


def products(config: TranslationConfig, batches: Sequence[Batch]) -> Callable[[], None]:
    """The products of an update and nothing else: of each the forward one, and the two of its derivative."""
    made = [[both_passes(gemm) for gemm in gemms(config.model, batch)] for batch in batches]
    coming = itertools.cycle(made)

    def run() -> None:
        for multiply in next(coming):
            multiply()

    return run


def both_passes(gemm: Gemm, kind: torch.dtype = torch.float32, *, into_rows: bool = True) -> Callable[[], None]:
    """The forward product, and the two of its derivative, or where the rows are data and have none, one.

    Every matrix lies as it is multiplied: some libraries take twice as long for one that has to be turned.
    """

    def matrix(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns).to(kind)

    most, total = max(gemm.steps), sum(gemm.steps)
    x, weight = matrix(most, gemm.depth), matrix(gemm.depth, gemm.columns)
    errors, turned = matrix(most, gemm.columns), matrix(gemm.columns, gemm.depth)
    all_x, all_errors = matrix(gemm.depth, total), matrix(total, gemm.columns)

    def run() -> None:
        for rows in gemm.steps:
            torch.mm(x[:rows], weight)
        for rows in gemm.steps if into_rows else ():
            torch.mm(errors[:rows], turned)
        torch.mm(all_x, all_errors)  # of all steps at once

    return run


# Workers --------------------------------------------------------------------------------------------------


def _two_workers(name: str, overrides: Sequence[str], quick: bool) -> Iterator[Figure]:
    config = configured(*overrides)
    batches = caption_batches(config, config.training.batch_tokens, count=8)
    given = torch.get_num_threads()

    def on(threads: int, step: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            torch.set_num_threads(threads)
            step()

        return run

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    pipes = [torch.multiprocessing.get_context("spawn").Pipe() for _ in range(2)]
    workers = torch.multiprocessing.spawn(
        _work, (list(overrides), port, [there for _, there in pipes]), nprocs=2, join=False
    )
    ends = [here for here, _ in pipes]

    def together() -> None:
        for end in ends:
            end.send(True)
        for end in ends:
            end.recv()

    work = {"two": together, "one": on(1, our_step(config, batches)), "threads": on(2, our_step(config, batches))}
    seconds = take_turns(work, 3 if quick else 2 * len(batches))
    for end in ends:
        end.send(False)
    assert workers is not None
    workers.join(10)
    torch.set_num_threads(given)
    for baseline, goal in (("one", 1.8), ("threads", 1.0)):
        text = "1 thread" if baseline == "one" else "2 threads"
        yield ratio(
            f"{name}/workers-{baseline}", seconds[baseline], seconds["two"], goal=goal, better="higher", baseline=text
        )


def _work(rank: int, overrides: list[str], port: int, pipes: list[Connection]) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    config = configured(*overrides)
    step = our_step(config, caption_batches(config, config.training.batch_tokens, count=8), ProcessGroup())
    while pipes[rank].recv():
        step()
        pipes[rank].send(None)
    os._exit(0)
