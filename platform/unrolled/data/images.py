"""Photographs: reading, random views, and those of a split as they are stored.

Photographs as people have them: bytes, files and addresses, in whatever form, as RGB pictures; or why not.

What a network sees of a photograph: all of it, or a part that is drawn at random.

Files as data sets keep them: photographs in the folders where they are wont to be, JSON, and lines of text.

Photographs of a split as they are stored, whatever is known about them: captions, or questions.
"""

from __future__ import annotations

import hashlib
import io
import json
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from unrolled.data.scenes import scenes
from unrolled.errors import UserError, listing

MAX_PIXELS = 100_000_000
"""Pixels of a picture that is still opened: a few kilobytes can hold billions, which would fill the memory."""
URL_PREFIXES = ("http://", "https://")
"""How the name of a picture begins that is fetched."""
FETCHED_BYTES = 50 * 2**20
FETCH_SECONDS = 20.0


class UnreadableImage(ValueError):
    """A picture that cannot be had; the message is a sentence without the picture's name."""


def read_image(source: bytes | str | Path, least: int = 0) -> Image.Image:
    """Opens a picture as RGB, turned as its EXIF orientation says.

    Grey, palette, 16-bit and CMYK pictures are converted; what is transparent becomes white; of an animation, the first
    frame is taken.

    Args:
        source: the encoded bytes, a file, or an address that begins with http:// or https://.
        least: pixels of the shorter side that are enough: a large JPEG is then decoded at a half, quarter or eighth of
            its size, which takes as much less time. 0: all pixels.

    Raises:
        UnreadableImage: not a picture, a truncated one, too large a one, or no such file.
    """
    if isinstance(source, str) and source.startswith(URL_PREFIXES):
        source = fetch(source)
    try:
        opened = Image.open(io.BytesIO(source) if isinstance(source, bytes) else Path(source))
        with opened as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImage(f"{image.width:,} × {image.height:,} pixels, more than {MAX_PIXELS:,}")
            if least:
                image.draft(None, (least, least))
            image.load()
            return _rgb(_turned(image))
    except UnreadableImage:
        raise
    except FileNotFoundError:
        raise UnreadableImage("no such file") from None
    except Exception as error:  # decoders of broken files raise every kind
        raise UnreadableImage(_reason(error, source)) from None


def image_size(source: bytes | Path) -> tuple[int, int]:
    """Returns width and height of the picture that `read_image` gives, without decoding it.

    Raises:
        UnreadableImage: not a picture, or no such file.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            width, height = image.size
            return (height, width) if image.getexif().get(ExifTags.Base.Orientation, 1) >= 5 else (width, height)
    except FileNotFoundError:
        raise UnreadableImage("no such file") from None
    except Exception as error:  # decoders of broken files raise every kind
        raise UnreadableImage(_reason(error, source)) from None


def fetch(address: str) -> bytes:
    """Returns what an http address holds.

    Raises:
        UnreadableImage: no answer within `FETCH_SECONDS`, a refusal, or more than `FETCHED_BYTES`.
    """
    request = urllib.request.Request(address, headers={"User-Agent": "unrolled"})
    try:
        with urllib.request.urlopen(request, timeout=FETCH_SECONDS) as answer:
            found: bytes = answer.read(FETCHED_BYTES + 1)
    except urllib.error.HTTPError as error:
        raise UnreadableImage(f"the server answers {error.code} {error.reason}") from None
    except (OSError, ValueError) as error:
        raise UnreadableImage(f"cannot be fetched ({getattr(error, 'reason', None) or error})") from None
    if len(found) > FETCHED_BYTES:
        raise UnreadableImage(f"is larger than {FETCHED_BYTES // 2**20} MiB")
    return found


def _reason(error: Exception, source: bytes | str | Path) -> str:
    if isinstance(error, UnidentifiedImageError):
        empty = not source if isinstance(source, bytes) else Path(source).stat().st_size == 0
        return "is empty" if empty else "is not a picture"
    if isinstance(error, Image.DecompressionBombError):
        return f"has more than {MAX_PIXELS:,} pixels"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read ({error.strerror})"
    return f"cannot be decoded ({' '.join(str(error).split()) or type(error).__name__})"


def _turned(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # broken EXIF data: the picture itself is whole
        return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _eight_bit(image).convert("RGB")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        seen = image.convert("RGBA")
        white = Image.new("RGBA", seen.size, "white")
        return Image.alpha_composite(white, seen).convert("RGB")
    return image.convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    """Numbers of 16 bits lose their lower half; others, which have no known white, are stretched to their range."""
    values = np.asarray(image, dtype=np.float64)
    if image.mode.startswith("I;16") or (image.mode == "I" and values.min() >= 0 and 255 < values.max() <= 65_535):
        return Image.fromarray((values / 257).round().astype(np.uint8))
    low, high = (float(values.min()), float(values.max())) if np.isfinite(values).all() else (0.0, 0.0)
    if image.mode == "I" and low >= 0 and high <= 255:
        low, high = 0.0, 255.0
    span = (high - low) or 1.0
    return Image.fromarray(((np.nan_to_num(values) - low) / span * 255).clip(0, 255).round().astype(np.uint8))


# Pillow warns of large pictures on the console; `LARGEST` decides here.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


CROP = 7 / 8
"""Sides of a random part, as a share of the photograph's: 224 of 256 pixels (Krizhevsky et al. 2012)."""


class View(NamedTuple):
    """A part of a photograph.

    Attributes:
        left, top: where it begins, as shares of what is left over, 0 … 1.
        mirrored: left and right change places.
    """

    left: float
    top: float
    mirrored: bool


def random_view(seed: int, epoch: int, row: int) -> View:
    """Draws what is seen of photograph `row` in an epoch; nothing else decides it, so that any number of workers and a
    resumed run see the same."""
    left, top, side = np.random.default_rng([seed, epoch, row]).random(3)
    return View(float(left), float(top), side < 0.5)


def random_view_index(seed: int, epoch: int, row: int, views: int) -> int:
    """Draws which of the views that are kept of photograph `row` is seen in an epoch, as `drawn_view` does."""
    return int(np.random.default_rng([seed, epoch, row]).integers(views))


def required_side(size: int, view: View | None) -> int:
    """Returns how many pixels a side a photograph needs for a view of `size`."""
    return size if view is None else int(size / CROP)


def to_pixels(image: Image.Image, size: int, view: View | None = None) -> Tensor:
    """Returns the pixels of a picture or of a view of it, `(size, size, 3)`, 0 … 255 as bytes, squeezed to a square:
    nothing at the border is lost, and a position of a grid is the same share of every picture."""
    if view is None:
        if image.size != (size, size):
            image = image.resize((size, size), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(image))
    width, height = CROP * image.width, CROP * image.height
    left, top = view.left * (image.width - width), view.top * (image.height - height)
    image = image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
    if view.mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return torch.from_numpy(np.array(image))


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


NAMED = 3
"""Examples that a sentence on what is left out names."""
EncodedPhoto = bytes | Path
"""An encoded photograph, or the path of its file, which need not exist."""


@dataclass(frozen=True)
class PhotoSet:
    """Those of one split, each once. They stay encoded, and are read when they are asked for.

    Attributes:
        images: `[i]` gives the encoded bytes, or the path of a file, which need not exist.
        names: of the photographs, such as a file's, one each.
        dropped: what was left out, a sentence each.
    """

    images: Sequence[EncodedPhoto]
    names: Sequence[str]
    dropped: list[str] = field(default_factory=list, kw_only=True)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def fingerprint(self) -> str:
        """Names the photographs, in order: by their bytes where they are in a table, else by name, size and date."""
        digest = hashlib.sha256(f"{len(self)}\n".encode())
        for part in self._identity():
            digest.update(len(part).to_bytes(8, "little") + part)
        return digest.hexdigest()[:20]

    def _identity(self) -> Iterator[bytes]:
        for name, image in zip(self.names, self.images, strict=True):
            if isinstance(image, bytes):
                yield image
            else:
                stat = image.stat() if image.is_file() else None
                yield f"{name}\n{stat and (stat.st_size, stat.st_mtime_ns)}".encode("utf-8", "surrogatepass")


class Selected(Sequence[EncodedPhoto]):
    """Some of the photographs of another sequence, by their rows."""

    def __init__(self, images: Sequence[EncodedPhoto], rows: Sequence[int]) -> None:
        self._images, self._rows = images, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> EncodedPhoto:  # type: ignore[override]
        return self._images[self._rows[place]]


class Concatenated(Sequence[EncodedPhoto]):
    """The photographs of several sequences, one after the other."""

    def __init__(self, parts: Sequence[Sequence[EncodedPhoto]]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __getitem__(self, place: int) -> EncodedPhoto:  # type: ignore[override]
        for part in self._parts:
            if place < len(part):
                return part[place]
            place -= len(part)
        raise IndexError(place)


class ScenePhotos(Sequence[bytes]):
    """The pictures of a split of `scenes`, drawn when they are asked for."""

    def __init__(self, split: str) -> None:
        self._scenes = scenes()[split]

    def __len__(self) -> int:
        return len(self._scenes)

    def __getitem__(self, place: int) -> bytes:  # type: ignore[override]
        return self._scenes[place].png()


def quantity(found: Sequence[str], noun: str) -> str:
    """Returns how many, such as "2 photographs"."""
    return f"{len(found):,} {noun}{'s' if len(found) > 1 else ''}"


def examples(names: Sequence[str]) -> str:
    """Returns the first names, such as "a.jpg, b.jpg, c.jpg, …"."""
    return ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
