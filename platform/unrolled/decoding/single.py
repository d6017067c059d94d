"""Greedy and sampling: one hypothesis a sentence, grown token by token until all have ended."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from unrolled.decoding import sampling
from unrolled.decoding.interface import M
from unrolled.decoding.problem import Problem, check
from unrolled.decoding.strategies import Sample
from unrolled.recurrence import state as nest

Choose = Callable[[Tensor, Tensor, int], Tensor]
"""Picks tokens `(rows,)`, given log-probabilities `(rows, vocabulary)`, sentences `(rows,)` and the step."""


def greedy(problem: Problem[M]) -> tuple[Tensor, Tensor]:
    """Takes the most probable token at every step, the first of equals; returns what `grow` does."""
    return grow(problem, lambda log_probabilities, _sentences, _step: log_probabilities.argmax(1))


def sample(problem: Problem[M], strategy: Sample, sentence_ids: list[int]) -> tuple[Tensor, Tensor]:
    """Draws every token with the next number of its sentence's own stream; returns what `grow` does."""
    device = problem.limits.device
    uniforms = sampling.uniforms(strategy.seed, sentence_ids, int(problem.limits.max())).to(device)

    def choose(log_probabilities: Tensor, sentences: Tensor, step: int) -> Tensor:
        weights = sampling.sharpen(log_probabilities, strategy.temperature)
        weights = sampling.truncate(weights, strategy.top_k, strategy.top_p)
        return sampling.draw(weights, uniforms[sentences, step])

    return grow(problem, choose)


def grow(problem: Problem[M], choose: Choose) -> tuple[Tensor, Tensor]:
    """Grows one hypothesis a sentence; a row leaves the batch at the step that ends it.

    Returns:
        Tokens `(n, length)`, filled up with the end token, and the sums of their log-probabilities `(n,)`,
        the end token's included.
    """
    state, memory, limits = problem.state, problem.memory, problem.limits
    sentences = torch.arange(len(limits), device=limits.device)
    tokens = torch.full((len(limits), int(limits.max())), problem.end, device=limits.device)
    scores = torch.zeros(len(limits), dtype=torch.float64, device=limits.device)
    last = torch.full_like(sentences, problem.begin)
    for step in range(tokens.shape[1]):
        log_probabilities, state = problem.step(last, state, memory)
        check(log_probabilities.amax(1), sentences, step + 1)
        last = choose(log_probabilities, sentences, step)
        tokens[sentences, step] = last
        scores[sentences] += log_probabilities.gather(1, last[:, None])[:, 0].double()
        going = ((last != problem.end) & (limits > step + 1)).nonzero()[:, 0]
        if len(going) == 0:
            break
        if len(going) < len(last):
            state, memory = nest.select(state, going), memory.select(going)
            sentences, limits, last = sentences[going], limits[going], last[going]
    return tokens, scores
