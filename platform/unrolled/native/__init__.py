"""Compiled code for CPUs with a C compiler; without one, everything works in torch's operations, only slower.

torch passes over the memory once per operation of a step, and its matrix products start anew at every step. These C
files keep each thread's part of the recurrent matrices packed, and apply element-wise operations while the values are
in the cache. They are compiled for this processor on first use, which takes a few seconds, and stored in the cache
folder.

- `scan.c` (with packed_matmul.h, packed_matmul_amx.h, cells.h, scan_loop.h): whole scans, forward and backward;
- `vocabulary.c`: cross-entropy and sampling over a vocabulary, and dropout;
- `ranking.c` (with packed_matmul.h, packed_matmul_amx.h): logits of a vocabulary and the largest of them;
- `attention.c`: attention of one query per row.
"""

from unrolled.native.bindings import (
    Ranking,
    additive_backward,
    additive_backward_keys,
    additive_backward_query,
    additive_scores,
    attention_backward_scores,
    attention_backward_states,
    attention_forward,
    attention_supported,
    cross_entropy,
    dropout,
    exp_2x,
    ranking_supported,
    run_scan,
    sample_rows,
    scan_supported,
)
from unrolled.native.build import cost_without

__all__ = [
    "Ranking",
    "additive_backward",
    "additive_backward_keys",
    "additive_backward_query",
    "additive_scores",
    "attention_backward_scores",
    "attention_backward_states",
    "attention_forward",
    "attention_supported",
    "cost_without",
    "cross_entropy",
    "dropout",
    "exp_2x",
    "ranking_supported",
    "run_scan",
    "sample_rows",
    "scan_supported",
]
