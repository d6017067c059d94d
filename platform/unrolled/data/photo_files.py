"""Files as data sets keep them: photographs in the folders where they are wont to be, JSON, and lines of text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unrolled.errors import UserError, listing

IMAGE_FOLDERS = ("images", "Images", "Flicker8k_Dataset", "flickr30k-images", "flickr30k_images")
LOOKED_FOR = 20
"""Photographs of which one must be in a folder that is taken for theirs."""


def photo_paths(source: str, images: str | None, names: Sequence[str], part: str = "") -> list[Path]:
    """Returns the paths of photographs, in the folder that has them.

    Args:
        source: the folder of the data set.
        images: the folder of the photographs; None: it is looked for in `source`.
        part: may name a folder in it.

    Raises:
        UserError: there is none of the first photographs.
    """
    folder = Path(source).expanduser()
    folders = [Path(images).expanduser()] if images else [folder, *(folder / name for name in IMAGE_FOLDERS)]
    folders = [place for known in folders for place in ((known / part, known) if part else (known,))]
    for known in folders:
        if any((known / name).is_file() for name in names[:LOOKED_FOR]):
            return [known / name for name in names]
    there = listing(known for known in folders if known.is_dir()) if any(map(Path.is_dir, folders)) else folders[0]
    raise UserError(f"data.images: there is no photograph {names[0]} in {there}; name the folder that has it.")


def read_json(file: Path) -> Any:
    """Returns the content of a JSON file; raises `UserError` where it has none."""
    try:
        return json.loads(file.read_bytes())
    except json.JSONDecodeError as error:
        raise UserError(f"{file}, line {error.lineno}: is not JSON ({error.msg}).") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error}).") from None


def read_lines(file: Path) -> list[str]:
    """Returns the lines of a text file; raises `UserError` where it cannot be read."""
    try:
        return file.read_bytes().decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error}).") from None
