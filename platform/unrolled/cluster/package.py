"""The zip file of a folder that travels with a job."""

from __future__ import annotations

import os
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from unrolled.errors import UserError

LIMIT = 100 * 2**20
"""Bytes of files in a package: Ray keeps packages in the head's memory."""

EXCLUDED = (
    ".git",
    ".hg",
    ".svn",
    ".venv",
    "venv",
    "node_modules",
    "__pycache__",
    "*.pyc",
    "*.egg-info",
    ".*_cache",
    ".cache",
    ".hypothesis",
    ".ipynb_checkpoints",
    ".DS_Store",
    "runs",
)
"""Names that stay behind, wherever in the folder they are."""


def pack(folder: Path, target: Path, excluded: Sequence[str] = ()) -> int:
    """Writes the files under `folder` into the zip file `target`; returns how many.

    Equal files give an equal package, so that a cluster which has it need not get it again.

    Args:
        folder: links in it are followed to files, not into folders.
        target: must lie outside of `folder`.
        excluded: patterns of names or of paths below `folder`, besides `EXCLUDED`.

    Raises:
        UserError: the files are larger than `LIMIT` together; names the largest places.
    """
    files = sorted(_files(folder, (*EXCLUDED, *excluded)))
    _check_size(folder, files)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as package:
        for name in files:
            path = folder / name
            entry = zipfile.ZipInfo(name)  # dated 1980, whatever the file's date
            entry.external_attr = (path.stat().st_mode & 0xFFFF) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            package.writestr(entry, path.read_bytes())
    return len(files)


def _files(folder: Path, excluded: Sequence[str]) -> Iterator[str]:
    """Yields the files to pack as paths below `folder`, with forward slashes."""

    def stays(path: PurePosixPath) -> bool:
        return any(fnmatch(path.name, pattern) or fnmatch(str(path), pattern.strip("/")) for pattern in excluded)

    for place, folders, names in os.walk(folder):
        here = PurePosixPath(Path(place).relative_to(folder).as_posix())
        folders[:] = [name for name in folders if not stays(here / name)]
        yield from (str(here / name) for name in names if not stays(here / name) and (Path(place) / name).is_file())


def _check_size(folder: Path, files: Sequence[str]) -> None:
    sizes = Counter[str]()
    for name in files:
        sizes[_place(name)] += (folder / name).stat().st_size
    total = sum(sizes.values())
    if total > LIMIT:
        largest = ", ".join(f"{place} ({_mebibytes(size)})" for place, size in sizes.most_common(5))
        raise UserError(
            f"{folder} has {_mebibytes(total)} of files, and a job carries at most {_mebibytes(LIMIT)}. "
            f"Largest: {largest}. Submit from a smaller folder, or keep data where the cluster reads it."
        )


def _place(name: str) -> str:
    """Returns where a file counts: its folder, two levels deep at most, or itself at the top."""
    parts = PurePosixPath(name).parts
    return "/".join(parts[:-1][:2]) + "/" if len(parts) > 1 else name


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
