"""Validation: loss under teacher forcing, and scores of what the model really writes."""

from __future__ import annotations

import math

import torch
from torch import nn

from unrolled.config import Config
from unrolled.data.batching import plan
from unrolled.data.corpus import Corpus
from unrolled.decoding import Greedy
from unrolled.tasks import Task
from unrolled.training.comm import Comm


def validate(
    task: Task, model: nn.Module, corpus: Corpus, config: Config, comm: Comm, device: torch.device
) -> dict[str, float]:
    """Returns `loss` (nats a token, without label smoothing), `perplexity`, and every metric of the evaluation on
    greedy outputs. The workers share the split; all get the same numbers."""
    model.eval()
    loss = _loss(task, model, corpus, config, comm, device)
    inputs, references = corpus.texts()
    mine = range(comm.rank, len(inputs), comm.size)
    outputs = task.predict(model, [inputs[i] for i in mine], Greedy(config.decoding.max_length))
    everyone = comm.gather(outputs)
    predictions = [everyone[i % comm.size][i // comm.size] for i in range(len(inputs))]
    scores = task.score(predictions, references)
    perplexity = math.exp(min(loss, 700.0))
    return {"loss": loss, "perplexity": perplexity} | {name: scores[name] for name in config.evaluation.metrics}


@torch.inference_mode()
def _loss(task: Task, model: nn.Module, corpus: Corpus, config: Config, comm: Comm, device: torch.device) -> float:
    total = torch.zeros(2, dtype=torch.float64, device=device)
    longest = int(corpus.lengths.max())
    for indices in plan(corpus.lengths, batch_tokens=config.training.batch_tokens, max_length=longest, seed=0, epoch=0):
        mine = indices[comm.rank :: comm.size]
        if len(mine):
            total[0] += task.loss(model, task.batch(corpus, mine).to(device)).double()
            total[1] += int(corpus.lengths[mine, 1].sum())
    comm.all_reduce(total)
    return float(total[0] / total[1])
