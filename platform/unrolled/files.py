"""Files: atomic writing, errors of the disk, JSONL rows, and the cache of prepared data."""

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
    path: Path, error_class: type[UserError] | type[RunFailed] = UserError, consequence: str = ""
) -> Iterator[None]:
    """While open, raises an operating system's error in writing `path` as one sentence.

    Args:
        error_class: of the exception that is raised.
        consequence: end of the sentence.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if isinstance(error, (FileExistsError, NotADirectoryError)):
            place = Path(error.filename or path)
            reason = f"{next((each for each in (place, *place.parents) if each.is_file()), place)} is not a folder"
        raise error_class(f"{path}: cannot be written ({reason}){consequence}.") from None


def write_atomic(path: Path, text: str, errors: str = "strict") -> None:
    """Creates or replaces a file completely or not at all.

    Args:
        errors: treatment of characters that UTF-8 cannot encode, as in `str.encode`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8", errors=errors, newline="\n")
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
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
    """Returns the cache folder of that name, and builds it if it does not exist.

    `build` fills a temporary folder, which is then renamed, so that an existing folder is complete. Of several
    processes, one builds and the others wait.

    Raises:
        UserError: the cache cannot be written.
    """
    folder = cache_folder() / fingerprint
    with explain_write_errors(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
                try:
                    build(partial)
                    partial.rename(folder)
                finally:
                    shutil.rmtree(partial, ignore_errors=True)
    return folder
