"""Images of every format, valid and broken."""

from __future__ import annotations

import http.server
import threading

import numpy as np
import pytest
from PIL import Image

from pictures import RED, encoded
from unrolled.data import images
from unrolled.data.images import UnreadableImage, read_image


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "WEBP"])
def test_kinds(kind):
    picture = read_image(encoded(Image.new("RGB", (20, 10), RED), kind))
    assert (picture.mode, picture.size) == ("RGB", (20, 10))
    assert np.abs(np.array(picture, dtype=int) - RED).max() < 12


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "RGBA", "LA", "I;16", "I", "F"])
def test_modes_become_rgb(mode):
    whole = Image.new("L", (8, 8), 0).convert(mode) if mode not in ("I;16", "I", "F") else Image.new(mode, (8, 8), 0)
    kind = {"CMYK": "JPEG", "F": "TIFF", "I": "TIFF"}.get(mode, "PNG")
    picture = read_image(encoded(whole, kind))
    assert picture.mode == "RGB"
    assert np.array(picture).max() < 4


def test_sixteen_bits_keep_their_brightness():
    grey = Image.fromarray(np.full((4, 4), 32_896, dtype=np.uint16))
    assert np.array(read_image(encoded(grey))).tolist() == np.full((4, 4, 3), 128).tolist()


def test_transparency_is_white():
    assert read_image(encoded(Image.new("RGBA", (3, 3), (0, 0, 0, 0)))).getpixel((1, 1)) == (255, 255, 255)


def test_exif_rotation():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    assert read_image(encoded(Image.new("RGB", (20, 10), RED), "JPEG", exif=exif)).size == (10, 20)


def test_large_jpegs_are_read_at_reduced_size():
    photo = encoded(Image.new("RGB", (1600, 1200), RED), "JPEG")
    assert read_image(photo, min_side=224).size == (400, 300)
    assert read_image(photo).size == (1600, 1200)


def test_broken_images_are_reported(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    photo = encoded(Image.fromarray(noise), "JPEG")
    cases = {
        b"": "is empty",
        b"no picture at all": "is not a picture",
        photo[: len(photo) // 2]: "truncated",
        tmp_path / "absent.jpg": "no such file",
    }
    for source, words in cases.items():
        with pytest.raises(UnreadableImage, match=words):
            read_image(source)


def test_decompression_bombs_are_refused(monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 5_000)
    with pytest.raises(UnreadableImage, match=r"100 × 100 pixels, more than 5,000"):
        read_image(encoded(Image.new("RGB", (100, 100))))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "red.png").write_bytes(encoded(Image.new("RGB", (6, 4), RED)))

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *given):
            super().__init__(*given, directory=str(folder))

        def log_message(self, *words):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def test_addresses(server, monkeypatch):
    assert read_image(f"{server}/red.png").size == (6, 4)
    with pytest.raises(UnreadableImage, match="answers 404"):
        read_image(f"{server}/blue.png")
    with pytest.raises(UnreadableImage, match="cannot be fetched"):
        read_image("http://127.0.0.1:9/red.png")
    monkeypatch.setattr(images, "FETCHED_BYTES", 10)
    with pytest.raises(UnreadableImage, match="larger than"):
        read_image(f"{server}/red.png")
