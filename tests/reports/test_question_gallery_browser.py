"""The gallery of a report on questions about photographs in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from test_evaluation_report_browser import emulate_width, poor_contrasts

from evaluation_report_samples import CONFIG, HOSTILE, some_results
from unrolled.reports.gallery import attention_data, question_gallery
from unrolled.reports.page import write_page
from unrolled.tasks import Choice, GalleryItem, MetricResults

GRID = [0.5 if field == 3 else 0.5 / 8 for field in range(9)]
# One in a corner, one that begins at the right edge, one as large as the photograph, one in its middle.
BOXES = [(0.0, 0.0, 0.1, 0.1), (0.92, 0.5, 0.08, 0.2), (0.0, 0.0, 1.0, 1.0), (0.4, 0.4, 0.2, 0.2)]


def told() -> list[GalleryItem]:
    """Questions with candidates in words: the first is answered rightly, of the second text is hostile."""
    texts = (["a lamp", "two chairs", "a garbage bin", "red"], [HOSTILE, "a " + "very " * 30 + "long one", "no", "7"])
    shown = []
    for text, chosen in zip(texts, (1, 2), strict=True):
        options = [
            Choice(one, 0.7 if place == chosen else 0.1, place == 1, place == chosen, None)
            for place, one in enumerate(text)
        ]
        question = "What is on the left?" if text[0] == "a lamp" else HOSTILE
        shown.append(GalleryItem("Right and sure", "photo", question, text[1], options, text[chosen], GRID))
    return shown


def pointed() -> list[GalleryItem]:
    """A question whose right region is chosen, and one whose is not."""
    return [
        GalleryItem("Drawn at random", "photo", "Which region shows the bus?", "region 1", options(chosen))
        for chosen in (0, 3)
    ]


def options(chosen: int) -> list[Choice]:
    return [
        Choice(f"region {place + 1}", 0.7 if place == chosen else 0.1, place == 0, place == chosen, box)
        for place, box in enumerate(BOXES)
    ]


def write(path: Path, shown: list[GalleryItem], photo: Image.Image) -> Path:
    gallery = question_gallery(shown, lambda name, least: photo, 224)
    write_page(
        path,
        "metrics.html.j2",
        {"training": []},
        results=some_results() | {"task": "question_answering"},
        headline="Multiple choice 50 %.",
        summary="Measured on 4 targets.",
        cards=[],
        scores=[],
        findings=MetricResults({"multiple_choice": 50.0}, 4, gallery=shown),
        gallery=gallery,
        attention=attention_data(gallery),
        facts={"Made": "today"},
        config_yaml=CONFIG,
    )
    return path


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, photo = tmp_path_factory.mktemp("questions"), Image.effect_noise((640, 480), 90).convert("RGB")
    return {
        name: write(folder / name, made(), photo) for name, made in (("told.html", told), ("pointed.html", pointed))
    }


def visit(browser: Any, path: Path, width: int = 1280) -> Any:
    light = [{"name": "prefers-color-scheme", "value": "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": light})
    emulate_width(browser, width)
    browser.get_log("browser")
    browser.get(path.as_uri())
    return browser


def test_candidates_say_in_words_which_is_right_and_which_was_chosen(browser: Any, reports: dict[str, Path]) -> None:
    page = visit(browser, reports["told.html"])
    rows = page.execute_script(
        "return [...document.querySelectorAll('.options li')].map(row => [...row.querySelectorAll('[role=img]')]"
        ".map(n => n.ariaLabel))"
    )
    chosen, right = "the model’s choice", "right"
    assert rows == [[], [chosen, right], [], [], [], [right], [chosen], []]
    assert page.title != "owned" and page.get_log("browser") == []
    note = page.find_element("css selector", "#gallery .note").text
    assert "✓ marks the right one" in note and "Attention" in note and "box" not in note


def test_where_it_looked_is_shown_on_demand(browser: Any, reports: dict[str, Path]) -> None:
    page = visit(browser, reports["told.html"])
    card = page.find_element("css selector", ".gallery > li")
    state = (
        "return [arguments[0].querySelector('svg').style.opacity, arguments[0].querySelector('.words p').textContent,"
        "[...arguments[0].querySelectorAll('rect')].map(n => Number(n.style.fillOpacity))]"
    )
    whole, looked = card.find_elements("css selector", ".words input")
    page.execute_script("arguments[0].click()", looked)
    opacity, told, darkness = page.execute_script(state, card)
    assert (opacity, told) == ("1", "Mostly middle left, 50 % in one of 9 fields")
    assert darkness.index(min(darkness)) == 3 and min(darkness) == 0
    page.execute_script("arguments[0].click()", whole)
    assert page.execute_script(state, card)[:2] == ["0", ""]


def test_boxes_lie_where_they_are_said_to_and_have_the_numbers_of_the_candidates(
    browser: Any, reports: dict[str, Path]
) -> None:
    page = visit(browser, reports["pointed.html"])
    found = page.execute_script(
        "return [...document.querySelectorAll('.gallery > li')].map(card => {"
        "const whole = card.querySelector('.photo').getBoundingClientRect();"
        "const marks = [...card.querySelectorAll('.options .mark')].map(n => n.textContent);"
        "return [marks, [...card.querySelectorAll('.region')].map(n => { const own = n.getBoundingClientRect();"
        "const label = n.querySelector('b').getBoundingClientRect(), style = getComputedStyle(n);"
        "return { text: n.textContent, line: style.borderTopStyle, thick: parseFloat(style.borderTopWidth),"
        "box: [(own.left - whole.left) / whole.width, (own.top - whole.top) / whole.height, own.width / whole.width,"
        "own.height / whole.height], seen: label.left >= whole.left && label.right <= whole.right &&"
        "label.top >= whole.top && label.bottom <= whole.bottom }; })]; })"
    )
    for (marks, regions), chosen in zip(found, (0, 3), strict=True):
        assert marks == ["1", "2", "3", "4"]
        assert [one["text"] for one in regions] == ["1 ✓", "2", "3", "4"]
        assert all(one["seen"] for one in regions)
        for one, box in zip(regions, BOXES, strict=True):
            assert one["box"] == pytest.approx(box, abs=0.02)
        # Told apart without colours: the right one is dashed, the chosen one thick.
        assert [one["line"] for one in regions] == ["dashed", "solid", "solid", "solid"]
        assert [one["thick"] for one in regions].index(max(one["thick"] for one in regions)) == chosen
    note = page.find_element("css selector", "#gallery .note").text
    assert "thick" in note and "dashed" in note and "Attention" not in note


@pytest.mark.parametrize("name", ["told.html", "pointed.html"])
def test_text_has_contrast_and_fits(browser: Any, reports: dict[str, Path], name: str) -> None:
    for width in (320, 400, 1280):
        page = visit(browser, reports[name], width)
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
    assert poor_contrasts(page, "light") == [] == poor_contrasts(page, "dark")
