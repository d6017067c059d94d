"""Compiled code for CPUs, where there is a C compiler; nothing is lost without one but speed.

torch takes a pass over the memory for every operation of a step, and its matrix products begin anew at every step. The
C files here keep each thread's part of the recurrent matrices packed, and compute what is element by element while it
is at hand. They are compiled for this processor when they are first needed, which takes a few seconds, and kept in the
cache folder.

- `scan.c` (with product.h, product_half.h, cells.h, scan_loop.h): whole scans over time, forward and back;
- `vocabulary.c` (with topk.h): the loss over a vocabulary, its best entries, draws from it, and dropout;
- `attention.c` (with reduce.h): attention of one query a row;
- `bags_of_words.c` (with reduce.h): texts as bags of words;
- `adam.c`: a step of Adam, and the norm of gradients;
- `ranking.c` (with topk.h, product.h, product_half.h, product_dot.h): a product with a vocabulary, and its best
  entries.
"""

from unrolled.native.adam import can_descend, descend, norm
from unrolled.native.attention import (
    additive_back,
    additive_keys,
    additive_queries,
    additive_scores,
    can_look,
    look,
    look_back,
    powers,
    seen_back,
    squashed,
)
from unrolled.native.bags_of_words import bags, text_scores
from unrolled.native.scan import applies, run
from unrolled.native.vocabulary import Ranking, cross_entropy, dropout, logsumexp, ranking_supported, sample_rows, topk

__all__ = [
    "Ranking",
    "additive_back",
    "additive_keys",
    "additive_queries",
    "additive_scores",
    "applies",
    "bags",
    "can_descend",
    "can_look",
    "cross_entropy",
    "descend",
    "dropout",
    "logsumexp",
    "look",
    "look_back",
    "norm",
    "powers",
    "ranking_supported",
    "run",
    "sample_rows",
    "seen_back",
    "squashed",
    "text_scores",
    "topk",
]
