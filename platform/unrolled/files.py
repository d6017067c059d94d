"""Files: atomic writing, and the cache of prepared data.

Writing files: whole or not at all, and one sentence where the disk refuses.

The cache of prepared data: folders named by their content, each made once.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from unrolled.errors import RunFailed, UserError


@contextmanager
def explain_write_errors(
    path: Path, kind: type[UserError] | type[RunFailed] = UserError, then: str = ""
) -> Iterator[None]:
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


def write_atomic(path: Path, text: str, errors: str = "strict") -> None:
    """Makes or replaces a file, whole or not at all; `errors` says what becomes of a character that UTF-8 lacks."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8", errors=errors, newline="\n")
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a JSONL file without its damaged lines; empty if there is no file."""
    return [row for row in iterate_json_lines(path) if row is not None] if path.is_file() else []


def iterate_json_lines(path: Path) -> Iterator[Any]:
    """Yields the value of each line of a JSONL file, `None` for a damaged one.

    A last line without its newline, as a killed process leaves it, is left out unless it is complete.
    """
    *lines, last = path.read_bytes().split(b"\n")
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:
            yield None
    with suppress(ValueError):
        yield json.loads(last)


def cache_folder() -> Path:
    """Returns `$UNROLLED_CACHE`, or `~/.cache/unrolled`."""
    return Path(os.environ.get("UNROLLED_CACHE") or "~/.cache/unrolled").expanduser()


def build_cached(fingerprint: str, build: Callable[[Path], None]) -> Path:
    """Returns the cache's folder of that name; where there is none, `build` fills a folder beside it first, which is
    then renamed, so that a folder that exists is whole. Of several processes one builds and the others wait.

    Raises:
        UserError: the cache cannot be written.
    """
    folder = cache_folder() / fingerprint
    with explain_write_errors(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                building = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
                try:
                    build(building)
                    building.rename(folder)
                finally:
                    shutil.rmtree(building, ignore_errors=True)
    return folder
