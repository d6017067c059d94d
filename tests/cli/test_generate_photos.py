"""`unrolled generate` with photographs: files, folders, addresses, and attention as a picture."""

from __future__ import annotations

import http.server
import threading
from functools import partial

import pytest
from PIL import Image

from captioning_runs import BROKEN, captioner, photographs
from unrolled.cli import main


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run, and photographs in `photos/train`."""
    place = tmp_path_factory.mktemp("generate")
    captioner(place)
    captioner(place / "blind", conditioning="first")
    photos = photographs(place / "photos", ("train",))
    (photos / "train" / BROKEN).rename(place / BROKEN)
    return place


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Says nothing."""


@pytest.fixture(scope="module")
def address(place):
    """Of a server of the photographs."""
    handler = partial(Quiet, directory=place / "photos" / "train")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def said(capsys, *words):
    """Returns exit code, output and error."""
    code = main(["generate", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_files_folders_and_addresses(place, address, capsys):
    photos = place / "photos" / "train"
    code, alone, _ = said(capsys, place / "gallery", photos / "03.png")
    assert code == 0 and len(alone.splitlines()) == 1 and "\t" not in alone
    code, out, _ = said(capsys, place / "gallery", f"{address}/03.png", photos)
    lines = [line.split("\t") for line in out.splitlines()]
    assert code == 0 and [name for name, _ in lines] == [
        f"{address}/03.png",
        *(str(photos / f"{number:02}.png") for number in range(23)),
    ]
    assert lines[0][1] == lines[4][1] == alone.strip()


def test_an_ensemble_of_equals_says_what_one_says(place, capsys):
    photo = place / "photos" / "train" / "05.png"
    alone = said(capsys, place / "gallery", photo, "--decode", "greedy")
    both = said(capsys, place / "gallery", photo, "--decode", "greedy", "--ensemble", place / "gallery")
    assert alone == both and alone[0] == 0


def test_runs_that_see_photographs_differently_are_no_ensemble(place, capsys):
    photo, blind = place / "photos" / "train" / "05.png", place / "blind" / "gallery"
    code, out, err = said(capsys, place / "gallery", photo, "--ensemble", blind)
    assert code == 2 and out == "" and len(err.splitlines()) == 1
    assert f"{blind} and {place / 'gallery'} cannot answer together" in err
    assert "the one reads the mean of its positions as small sees it at 56 × 56 pixels, the other its 7 × 7" in err


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("photos/none.png", "no such file."),
        (BROKEN, "cannot be decoded"),
        ("photos/train/metadata.csv", "is not a picture."),
        ("photos", "the folder has no pictures (.bmp"),
        ("http://missing.png", "the server answers 404"),
        ("http://127.0.0.1:9/a.png", "cannot be fetched"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(name, reason, place, address, capsys):
    given = f"{address}/none.png" if name == "http://missing.png" else name
    given = given if given.startswith("http") else str(place / given)
    code, out, err = said(capsys, place / "gallery", given)
    assert code == 2 and out == ""
    assert len(err.splitlines()) == 1 and given in err and reason in err


def test_attention_becomes_a_picture(place, capsys):
    photo, strip = place / "photos" / "train" / "00.png", place / "made" / "strip.png"
    assert said(capsys, place / "gallery", photo, "--attention", strip)[0] == 0
    with Image.open(strip) as one:
        width, height = one.size
    assert said(capsys, place / "gallery", photo, photo, "--attention", strip)[0] == 0
    with Image.open(strip) as two:
        assert two.size == (width, 2 * height)


def test_attention_that_is_not_there_is_refused(place, capsys):
    photo = place / "photos" / "train" / "00.png"
    code, _, err = said(capsys, place / "blind" / "gallery", photo, "--attention", place / "a.png")
    assert code == 2 and "has no attention" in err
    code, _, err = said(capsys, place / "gallery", photo, "--attention", place / "a.txt")
    assert code == 2 and "ends with .png" in err
