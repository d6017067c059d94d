"""What workers did of a split, each its share, put together again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def interleaved(shares: Sequence[list[T]]) -> list[T]:
    """Puts what was dealt out in turn back into its order."""
    total = sum(map(len, shares))
    return [shares[i % len(shares)][i // len(shares)] for i in range(total)]
