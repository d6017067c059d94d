"""Errors for users: one sentence that names the place and what is accepted there."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Input of the user that cannot be used; the message is a complete explanation.

    The command line prints it without a traceback and ends with exit code 2.
    """


class RunFailed(Exception):
    """Work that began and failed, such as workers that died too often; exit code 1."""


class Diverged(RunFailed):
    """Loss or gradients of a training are no longer finite."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns ``" Did you mean 'x'?"`` for the closest of `known`, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


def listing(words: Iterable[object]) -> str:
    """Returns the words as text: ``a, b or c``."""
    texts = [str(word) for word in words]
    return texts[0] if len(texts) == 1 else ", ".join(texts[:-1]) + " or " + texts[-1] if texts else "nothing"
