"""Writing files: whole or not at all, and one sentence where the disk refuses."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unrolled.errors import RunFailed, UserError


@contextmanager
def writing(path: Path, kind: type[UserError] | type[RunFailed] = UserError, then: str = "") -> Iterator[None]:
    """While open, what the operating system has against writing `path` becomes one sentence of that kind.

    Args:
        then: how the sentence ends, such as what is kept.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if isinstance(error, (FileExistsError, NotADirectoryError)):
            place = Path(error.filename or path)
            reason = f"{next((one for one in (place, *place.parents) if one.is_file()), place)} is not a folder"
        raise kind(f"{path}: cannot be written ({reason}){then}.") from None


def write_whole(path: Path, text: str, errors: str = "strict") -> None:
    """Makes or replaces a file, whole or not at all; `errors` says what becomes of a character that UTF-8 lacks."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8", errors=errors, newline="\n")
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
