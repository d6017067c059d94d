"""Search: what beams cost beside greedy search, beside matrix products alone, and beside a beam for one sentence."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from measure import Figure, ratio, take_turns
from training import LSTM, Gemm, configured, translator
from unrolled import native
from unrolled.data.tokenizer import BEGIN, END, PAD, SPECIAL, UNKNOWN
from unrolled.decoding import Beam, Greedy, Sample, Strategy, decode
from unrolled.errors import UserError
from unrolled.evaluation import EnsembleMember, Predictor
from unrolled.models import EncoderDecoder, EncoderOutput
from unrolled.recurrence import state as nest
from unrolled.training.run_dir import choose_checkpoint, open_run

ROWS = 320
"""Of a step: 320 sentences by greedy search, 64 by a beam of 5, 32 by one of 10."""
STEPS = 15
NEVER = (PAD, BEGIN, END, UNKNOWN)
RUN = Path("runs/multi30k")


def decoding(quick: bool) -> Iterator[Figure]:
    """Seconds for as many sentences, all with as many rows a step."""
    with torch.inference_mode():
        yield from _of_equal_length(quick)
        yield from _trained(quick)


def _of_equal_length(quick: bool) -> Iterator[Figure]:
    """An untrained translator of which nothing may end early: every sentence takes `STEPS` steps."""
    config = configured(*LSTM)
    model = translator(config).eval()
    rows = 20 if quick else ROWS
    inputs = torch.randint(len(SPECIAL), config.data.vocabulary.size, (rows, 14))
    memory = model.encode(inputs, torch.ones_like(inputs, dtype=torch.bool))
    alone = max(1, rows // 40)
    work: dict[str, Callable[[], object]] = {
        "greedy": lambda: search(model, memory, Greedy(), rows),
        "sampling": lambda: search(model, memory, Sample(), rows),
        "beam-5": lambda: search(model, memory, Beam(5), rows // 5),
        "beam-10": lambda: search(model, memory, Beam(10), rows // 10),
        "one-by-one": lambda: [plain_beam(model, one, 5, STEPS) for one in _single(memory, alone)],
        "gemms": _products(model, rows),
    }
    if native.ranking_supported("bfloat16"):
        work["bfloat16"] = lambda: search(model, memory, Beam(5, precision="bfloat16"), rows // 5)
    seconds = take_turns(work, 3 if quick else 11)
    seconds["one-by-one"] = [each * rows / alone for each in seconds["one-by-one"]]
    # A beam takes `size` rows from its second step on.
    seconds["gemms"] = [each * (1 + 5 * (STEPS - 1)) / STEPS for each in seconds["gemms"]]
    beam = seconds["beam-5"]
    greedy = {"baseline": "greedy search", "better": "lower"}
    yield ratio("decoding/sampling", seconds["sampling"], seconds["greedy"], goal=1.5, **greedy)
    yield ratio("decoding/beam-5", beam, seconds["greedy"], goal=None, **greedy)
    yield ratio("decoding/beam-10", seconds["beam-10"], seconds["greedy"], goal=None, **greedy)
    yield ratio("decoding/gemm-share", seconds["gemms"], beam, goal=0.6, better="higher", baseline="products alone")
    one = "one at a time"
    yield ratio("decoding/batched", seconds["one-by-one"], beam, goal=None, better="higher", baseline=one)
    if "bfloat16" in seconds:
        against = {"better": "higher", "baseline": "float32"}
        yield ratio("decoding/bfloat16", beam, seconds["bfloat16"], goal=None, **against)  # type: ignore[arg-type]


def search(model: EncoderDecoder, memory: EncoderOutput, strategy: Strategy, batch: int) -> list[list[int]]:
    """Decodes all sentences of a memory, `batch` at a time, `STEPS` tokens each."""
    found = []
    for part in torch.arange(len(memory)).split(batch):
        given = {"begin": BEGIN, "end": END, "max_length": STEPS, "forbidden": NEVER}
        found += decode(model, memory.select(part), strategy, **given).tokens
    return found


def plain_beam(model: EncoderDecoder, memory: EncoderOutput, size: int, steps: int) -> list[int]:
    """Beam search as it is written first: one sentence, torch's operations, `steps` tokens of which none may end it."""
    state, last = model.start(memory), torch.tensor([BEGIN])
    sums, written = torch.zeros(1), torch.empty(1, 0, dtype=torch.long)
    for _ in range(steps):
        logits, state = model.step(last, state, memory)
        logs = logits.log_softmax(1)
        logs[:, list(NEVER)] = -float("inf")
        sums, places = (sums[:, None] + logs).flatten().topk(size)
        parents, last = places // logs.shape[1], places % logs.shape[1]
        state = nest.select(state, parents)
        written = torch.cat([written[parents], last[:, None]], dim=1)
    best: list[int] = written[0].tolist()
    return best


def _single(memory: EncoderOutput, count: int) -> Iterator[EncoderOutput]:
    for i in range(count):
        yield memory.select(torch.tensor([i]))


def step_products(model: EncoderDecoder, rows: int) -> list[Gemm]:
    """The products of one step with weights."""
    layers = [cell for (cell,) in model.decoder.stack.cells()]
    weights: list[Tensor] = [weight for cell in layers for weight in (cell.weight_input, cell.weight_hidden)]
    weights += [model.decoder.readout.weight, model.head.weight]
    return [Gemm(rows, weight.shape[1], weight.shape[0]) for weight in weights]


def _products(model: EncoderDecoder, rows: int) -> Callable[[], None]:
    made = []
    for gemm in step_products(model, rows):
        left, right = torch.randn(gemm.rows, gemm.depth), torch.randn(gemm.columns, gemm.depth)
        made.append((left, right.t(), torch.empty(gemm.rows, gemm.columns)))

    def run() -> None:
        for _ in range(STEPS):
            for left, right, into in made:
                torch.mm(left, right, out=into)

    return run


def _trained(quick: bool) -> Iterator[Figure]:
    """The test split by the run of Multi30k, from text to text, where there is that run: sentences end as they do."""
    try:
        run = open_run(RUN)
        config = run.config(["decoding.precision=float32"])
        trained = Predictor([EnsembleMember(run, config, choose_checkpoint(run, "best"))])
        inputs = trained.task.texts("test")[0][: 2 * ROWS if quick else None]  # type: ignore[union-attr]
    except UserError as error:
        print(f"decoding: nothing of a trained model, as there is none in {RUN} ({error})", file=sys.stderr)
        return

    def search_all(strategy: Strategy, batch: int) -> Callable[[], object]:
        decoding = config.decoding.model_copy(update={"batch": batch})
        task = type(trained.task)(config.model_copy(update={"decoding": decoding}), run.vocabulary)
        limits = {"length_factor": task.decoding.length_factor, "length_offset": task.decoding.length_offset}
        return lambda: task.predict(trained.model, inputs, replace(strategy, **limits))  # type: ignore[union-attr]

    work = {
        "greedy": search_all(Greedy(), ROWS),
        "beam-5": search_all(Beam(5), ROWS // 5),
        "beam-10": search_all(Beam(10), ROWS // 10),
    }
    seconds = take_turns(work, 3 if quick else 7)
    for name, goal in (("beam-5", 4.0), ("beam-10", 7.5)):
        yield ratio(
            f"decoding/trained/{name}",
            seconds[name],
            seconds["greedy"],
            goal=goal,
            better="lower",
            baseline="greedy search",
        )
