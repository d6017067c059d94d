"""Many comparisons at once: Holm's correction, and letters that say which systems differ."""

from __future__ import annotations

import string
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from unrolled.errors import UserError

LETTERS = string.ascii_letters + "αβγδεζηθικλμνξοπρστυφχψω"


def holm(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the p-values of all pairs, corrected for their number (Holm 1979).

    The smallest is multiplied by the number of pairs, the next by one less, and so on; none becomes smaller than
    one before it or larger than 1.  A pair whose corrected p is at most 5 % differs; the chance that any pair is
    called different wrongly is then 5 % in all.

    Args:
        p_values: `(systems, systems)`, symmetric.

    Returns:
        `(systems, systems)`, symmetric, 1 on the diagonal.
    """
    rows, columns = np.triu_indices(len(p_values), k=1)
    pairs = p_values[rows, columns]
    order = np.argsort(pairs)
    factors = np.arange(len(pairs), 0, -1)
    corrected = np.ones_like(p_values, dtype=np.float64)
    ranked = np.minimum(np.maximum.accumulate(pairs[order] * factors), 1.0)
    corrected[rows[order], columns[order]] = corrected[columns[order], rows[order]] = ranked
    return corrected


def compact_letters(different: NDArray[np.bool_], merits: Sequence[float] | NDArray[np.float64]) -> list[str]:
    """Returns significance letters: systems that share a letter do not differ, those that share none do.

    Piepho, An Algorithm for a Letter-Based Representation of All-Pairwise Comparisons, 2004 (insert, absorb and
    sweep).  Letters go from the best system down: the best has an ``a``.

    Args:
        different: whether two systems differ significantly, `(systems, systems)`, symmetric.
        merits: the larger, the better, `(systems,)`.

    Raises:
        UserError: More letters are needed than there are.
    """
    order = [int(place) for place in np.argsort(-np.asarray(merits, dtype=np.float64), kind="stable")]
    groups = _swept(_alike(different))
    if len(groups) > len(LETTERS):
        raise UserError(f"{len(groups)} significance letters are needed; there are {len(LETTERS)}.")
    groups.sort(key=lambda group: [place for place, system in enumerate(order) if system in group])
    return [
        "".join(letter for letter, group in zip(LETTERS, groups, strict=False) if system in group)
        for system in range(len(order))
    ]


def _alike(different: NDArray[np.bool_]) -> list[frozenset[int]]:
    """Returns the largest groups of systems of which no two differ."""
    groups = [frozenset(range(len(different)))]
    for one, other in zip(*np.nonzero(np.triu(different, k=1)), strict=True):
        parted: set[frozenset[int]] = set()
        for group in groups:
            parted |= {group - {int(one)}, group - {int(other)}} if {one, other} <= group else {group}
        groups = [group for group in parted if not any(group < wider for wider in parted)]
    return groups


def _swept(groups: list[frozenset[int]]) -> list[frozenset[int]]:
    """Returns the groups without those whose pairs, and whose systems, stand together in others too."""
    kept = sorted(groups, key=lambda group: (len(group), sorted(group)))
    for group in list(kept):
        others = [other for other in kept if other is not group]
        if all(any({one, other} <= wider for wider in others) for one in group for other in group):
            kept = others
    return kept
