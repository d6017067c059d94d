"""The cache of prepared data: folders named by their content, each made once."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from unrolled.files import writing


def cache_folder() -> Path:
    """Returns `$UNROLLED_CACHE`, or `~/.cache/unrolled`."""
    return Path(os.environ.get("UNROLLED_CACHE") or "~/.cache/unrolled").expanduser()


def made_once(fingerprint: str, build: Callable[[Path], None]) -> Path:
    """Returns the cache's folder of that name; where there is none, `build` fills a folder beside it first, which is
    then renamed, so that a folder that exists is whole. Of several processes one builds and the others wait.

    Raises:
        UserError: the cache cannot be written.
    """
    folder = cache_folder() / fingerprint
    with writing(folder.parent):
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
