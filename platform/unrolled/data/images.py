"""Photographs as people have them: bytes, files and addresses, in whatever form, as RGB pictures; or why not."""

from __future__ import annotations

import io
import urllib.error
import urllib.request
import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

LARGEST = 100_000_000
"""Pixels of a picture that is still opened: a few kilobytes can hold billions, which would fill the memory."""
ADDRESSES = ("http://", "https://")
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
    if isinstance(source, str) and source.startswith(ADDRESSES):
        source = fetch(source)
    try:
        opened = Image.open(io.BytesIO(source) if isinstance(source, bytes) else Path(source))
        with opened as image:
            if image.width * image.height > LARGEST:
                raise UnreadableImage(f"{image.width:,} × {image.height:,} pixels, more than {LARGEST:,}")
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
        return f"has more than {LARGEST:,} pixels"
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
