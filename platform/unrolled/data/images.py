"""Images: reading, random views, and the photographs of a split as they are stored."""

from __future__ import annotations

import hashlib
import io
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from unrolled.data.builtin_scenes import Scene, scenes
from unrolled.errors import UserError, listing

MAX_PIXELS = 100_000_000
"""Larger images are refused: a file of a few kilobytes can hold billions of pixels, which would fill the memory."""
URL_PREFIXES = ("http://", "https://")
FETCHED_BYTES = 50 * 2**20
FETCH_SECONDS = 20.0

# Pillow warns of large images on the console; `MAX_PIXELS` decides here.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class UnreadableImage(ValueError):
    """An image that cannot be read; the message is a sentence without the image's name."""


def read_image(source: bytes | str | Path, min_side: int = 0) -> Image.Image:
    """Opens an image as RGB, upright by its EXIF orientation.

    Grey, palette, 16-bit and CMYK images are converted; transparent pixels become white; of an animation, the first
    frame is taken.

    Args:
        source: the encoded bytes, a file, or an address that begins with http:// or https://.
        min_side: sufficient pixels of the shorter side; a large JPEG is then decoded at a half, quarter or eighth of
            its size, which is faster by as much. 0: all pixels.

    Raises:
        UnreadableImage: not an image, a truncated one, too large a one, or no such file.
    """
    if isinstance(source, str) and source.startswith(URL_PREFIXES):
        source = fetch(source)
    try:
        opened = Image.open(io.BytesIO(source) if isinstance(source, bytes) else Path(source))
        with opened as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImage(f"{image.width:,} × {image.height:,} pixels, more than {MAX_PIXELS:,}")
            if min_side:
                image.draft(None, (min_side, min_side))
            image.load()
            return _rgb(_upright(image))
    except UnreadableImage:
        raise
    except FileNotFoundError:
        raise UnreadableImage("no such file") from None
    except Exception as error:  # decoders of broken files raise every kind
        raise UnreadableImage(_reason(error, source)) from None


def image_size(source: bytes | Path) -> tuple[int, int]:
    """Returns width and height of the image that `read_image` returns, without decoding it; raises `UnreadableImage`
    where it is not an image or there is no such file."""
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            width, height = image.size
            return (height, width) if image.getexif().get(ExifTags.Base.Orientation, 1) >= 5 else (width, height)
    except FileNotFoundError:
        raise UnreadableImage("no such file") from None
    except Exception as error:  # decoders of broken files raise every kind
        raise UnreadableImage(_reason(error, source)) from None


def fetch(address: str) -> bytes:
    """Returns the content of an http address; raises `UnreadableImage` without an answer in `FETCH_SECONDS`, at a
    refusal, or at more than `FETCHED_BYTES`."""
    request = urllib.request.Request(address, headers={"User-Agent": "unrolled"})
    try:
        with urllib.request.urlopen(request, timeout=FETCH_SECONDS) as response:
            content: bytes = response.read(FETCHED_BYTES + 1)
    except urllib.error.HTTPError as error:
        raise UnreadableImage(f"the server answers {error.code} {error.reason}") from None
    except (OSError, ValueError) as error:
        raise UnreadableImage(f"cannot be fetched ({getattr(error, 'reason', None) or error})") from None
    if len(content) > FETCHED_BYTES:
        raise UnreadableImage(f"is larger than {FETCHED_BYTES // 2**20} MiB")
    return content


def _reason(error: Exception, source: bytes | str | Path) -> str:
    if isinstance(error, UnidentifiedImageError):
        empty = not source if isinstance(source, bytes) else Path(source).stat().st_size == 0
        return "is empty" if empty else "is not a picture"
    if isinstance(error, Image.DecompressionBombError):
        return f"has more than {MAX_PIXELS:,} pixels"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read ({error.strerror})"
    return f"cannot be decoded ({' '.join(str(error).split()) or type(error).__name__})"


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # broken EXIF data: the image itself is readable
        return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _eight_bit(image).convert("RGB")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    """Converts 16-bit values by their upper half; stretches others, which have no known white, to their range."""
    values = np.asarray(image, dtype=np.float64)
    if image.mode.startswith("I;16") or (image.mode == "I" and values.min() >= 0 and 255 < values.max() <= 65_535):
        return Image.fromarray((values / 257).round().astype(np.uint8))
    low, high = (float(values.min()), float(values.max())) if np.isfinite(values).all() else (0.0, 0.0)
    if image.mode == "I" and low >= 0 and high <= 255:
        low, high = 0.0, 255.0
    span = (high - low) or 1.0
    return Image.fromarray(((np.nan_to_num(values) - low) / span * 255).clip(0, 255).round().astype(np.uint8))


CROP = 7 / 8
"""Sides of a random view relative to those of the photograph: 224 of 256 pixels (Krizhevsky et al. 2012)."""


class View(NamedTuple):
    """A random part of a photograph.

    Attributes:
        left, top: its offset as a fraction of the largest possible one, 0 … 1.
        mirrored: whether left and right are exchanged.
    """

    left: float
    top: float
    mirrored: bool


def random_view(seed: int, epoch: int, row: int) -> View:
    """Draws the view of photograph `row` in an epoch, from these numbers alone: any number of workers and a resumed run
    draw the same."""
    left, top, side = np.random.default_rng([seed, epoch, row]).random(3)
    return View(float(left), float(top), side < 0.5)


def random_view_index(seed: int, epoch: int, row: int, num_views: int) -> int:
    """Draws which of the stored views of photograph `row` is used in an epoch, as `random_view` does."""
    return int(np.random.default_rng([seed, epoch, row]).integers(num_views))


def read_pixels(source: bytes | Path, size: int, view: View | None) -> Tensor:
    """Reads a photograph or a view of it, as of `to_pixels`; raises as `read_image`."""
    return to_pixels(read_image(source, size if view is None else int(size / CROP)), size, view)


def to_pixels(image: Image.Image, size: int, view: View | None = None) -> Tensor:
    """Returns an image or a view of it as uint8 `(size, size, 3)`, resized to a square without regard to its aspect
    ratio: nothing at the border is lost, and a grid position is the same fraction of every image."""
    box = None
    if view is not None:
        width, height = CROP * image.width, CROP * image.height
        left, top = view.left * (image.width - width), view.top * (image.height - height)
        box = left, top, left + width, top + height
    if box is not None or image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    if view is not None and view.mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return torch.from_numpy(np.array(image))


Item = TypeVar("Item")
EncodedPhoto = bytes | Path
"""An encoded photograph, or the path of its file, which need not exist."""


@dataclass(frozen=True)
class PhotoSet:
    """The photographs of one split, each once, encoded.

    Attributes:
        images: `[i]` is an `EncodedPhoto`.
        names: of the photographs, such as file names.
        dropped: one sentence per reason for which rows were left out.
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


class LazyPhotos(Sequence[EncodedPhoto]):
    """Photographs that are made on access, each by `make` of one of `items`."""

    def __init__(self, items: Sequence[Item], make: Callable[[Item], EncodedPhoto]) -> None:
        self._items, self._make = items, make

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> EncodedPhoto:  # type: ignore[override]
        return self._make(self._items[index])


def select_photos(images: Sequence[EncodedPhoto], rows: Sequence[int]) -> LazyPhotos:
    """Returns some photographs of a sequence, by row."""
    return LazyPhotos(rows, images.__getitem__)


def scene_photos(split: str) -> LazyPhotos:
    """Returns the images of a split of `scenes`."""
    return LazyPhotos(scenes()[split], Scene.png)


IMAGE_FOLDERS = ("images", "Images", "Flicker8k_Dataset", "flickr30k-images", "flickr30k_images")
PROBED = 20
"""A folder of photographs has at least one of this many first ones."""


def photo_paths(source: str, images: str | None, names: Sequence[str], subfolder: str = "") -> list[Path]:
    """Returns the paths of photographs, in the folder that has them.

    Args:
        source: the folder of the data set.
        images: the folder of the photographs; None: it is searched in `source`.
        subfolder: of these folders, where there is one.

    Raises:
        UserError: none of the first photographs exists.
    """
    root = Path(source).expanduser()
    folders = [Path(images).expanduser()] if images else [root, *(root / name for name in IMAGE_FOLDERS)]
    folders = [place for folder in folders for place in ((folder / subfolder, folder) if subfolder else (folder,))]
    for folder in folders:
        if any((folder / name).is_file() for name in names[:PROBED]):
            return [folder / name for name in names]
    existing = [folder for folder in folders if folder.is_dir()]
    place = listing(existing) if existing else folders[0]
    raise UserError(f"data.images: there is no photograph {names[0]} in {place}; name the folder that has it.")


def quantity(items: Sequence[str], noun: str) -> str:
    """Returns a number of things, such as "2 photographs"."""
    return f"{len(items):,} {noun}{'s' if len(items) > 1 else ''}"


def examples(names: Sequence[str], most: int = 3) -> str:
    """Returns the first names, such as "a.jpg, b.jpg, c.jpg, …"."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
