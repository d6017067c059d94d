"""The gallery of a captioner's report in a real browser."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from test_evaluation_report_browser import emulate_width, poor_contrasts, wait_until

from evaluation_report_samples import CONFIG, HOSTILE, some_results
from unrolled.reports.evaluation_report import write_report
from unrolled.reports.gallery import embed_photos

WORDS = ["▁a", "▁dog", "</s>"]
RIGHT, TAB = "\ue014", "\ue004"


def press(page: Any, key: str) -> None:
    """Presses a key where the focus is."""
    import_module("selenium.webdriver").ActionChains(page).send_keys(key).perform()


def captioned(count: int) -> list[dict[str, Any]]:
    """Rows of outputs.jsonl: the first 36 are shown; of word k of row i, field i + k of 49 was looked at."""
    rows: list[dict[str, Any]] = []
    for index in range(count):
        text = HOSTILE if index == 1 else f"a dog number {index}"
        row: dict[str, Any] = {
            "index": index,
            "input": f"validation:{index} {text}.jpg",
            "reference": text,
            "references": [f"{text} as person {person} sees it, running over a wide meadow" for person in range(5)],
            "outputs": {"greedy": text, "sample": f"a cat {index}", "beam": text},
            "sentence_scores": {"greedy": 50.0, "sample": 20.0, "beam": 50.0},
        }
        if index < 36:
            weights = [[0.6 if field == index + k else 0.4 / 48 for field in range(49)] for k in range(len(WORDS))]
            row["shown"] = {
                "as": ("best", "worst", "random")[index // 12],
                "place": index % 12,
                "scores": dict.fromkeys(row["outputs"], 1.5),
            }
            row["attention"] = {
                "strategy": "beam",
                "input": [str(field) for field in range(49)],
                "output": WORDS,
                "weights": weights,
            }
        rows.append(row)
    return rows


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thousand photographs that compress badly."""
    results = some_results() | {"task": "captioning", "unreadable": {HOSTILE: "is not a picture"}}
    for row in results["strategies"].values():
        row["by_length"] = []
    photos = {index: Image.effect_noise((640, 480), 90).convert("RGB") for index in range(36)}
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(results, captioned(1000), [], CONFIG, path, embed_photos(photos))
    return path


@pytest.fixture
def page(browser: Any, report: Path) -> Any:
    light = [{"name": "prefers-color-scheme", "value": "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": light})
    emulate_width(browser, 1280)
    browser.get_log("performance")
    browser.get_log("browser")
    browser.get(report.as_uri())
    return browser


def test_page_is_small_and_opens_without_network_or_errors(page: Any, report: Path) -> None:
    assert report.stat().st_size < 6_000_000
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    assert {url for url in asked if not url.startswith("data:")} == {report.as_uri()}
    assert page.get_log("browser") == [] and page.title != "owned"


def test_every_photograph_is_drawn_and_has_words_for_who_cannot_see_it(page: Any) -> None:
    script = "return [...document.querySelectorAll('.gallery img')].map(n => [n.complete && n.naturalWidth, n.alt])"
    wait_until(page, lambda: all(width == 224 for width, _ in page.execute_script(script)))
    found = page.execute_script(script)
    assert len(found) == 36 and found[2][1] == "The photograph that people describe so: a dog number 2 as person 0 " + (
        "sees it, running over a wide meadow"
    )
    assert found[1][1].startswith(f"The photograph that people describe so: {HOSTILE}")
    assert page.execute_script("return document.querySelectorAll('#gallery legend').length") == 36
    assert page.execute_script("return document.querySelectorAll('main script').length") == 0


def test_arrow_keys_walk_through_the_words(page: Any) -> None:
    card = page.find_element("css selector", ".gallery > li:nth-child(4)")
    rects = card.find_elements("css selector", ".photo rect")
    veil = "return [arguments[0].querySelector('svg').style.opacity, arguments[0].querySelector('p').textContent]"
    assert page.execute_script(veil, card)[1] == "" and len(rects) == 49

    def darkness() -> list[float]:
        found: list[float] = page.execute_script("return arguments[0].map(n => Number(n.style.fillOpacity))", rects)
        return found

    focused = card.find_element("css selector", "input")
    page.execute_script("arguments[0].focus()", focused)
    for expected, word in ((3, "a"), (4, "dog"), (5, "(end)")):
        press(page, RIGHT)
        opacity, told = page.execute_script(veil, card)
        assert (
            opacity == "1" and told.startswith(f"“{word}”: mostly upper") and told.endswith("60 % in one of 49 fields")
        )
        seen = darkness()
        assert seen.index(min(seen)) == expected and min(seen) == 0
    press(page, RIGHT)  # around to the whole photograph
    assert page.execute_script(veil, card) == ["0", ""]


def test_one_tab_leads_to_the_next_photograph(page: Any) -> None:
    first = page.find_element("css selector", ".gallery [data-attention='0'] input")
    page.execute_script("arguments[0].focus()", first)
    press(page, TAB)
    assert page.switch_to.active_element.get_attribute("name") == "attention-1"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(page: Any, scheme: str) -> None:
    page.execute_script("document.querySelectorAll('.words label:nth-of-type(2) input').forEach(n => n.click())")
    assert poor_contrasts(page, scheme) == []


@pytest.mark.parametrize("width", [320, 400, 1280])
def test_no_sideways_scroll_of_the_page(page: Any, width: int) -> None:
    emulate_width(page, width)
    page.get(page.current_url)  # a refresh can be cut off by the end of the load before it
    assert page.execute_script("return document.documentElement.scrollWidth") <= width


def test_references_stand_in_the_list_of_all_examples(page: Any) -> None:
    references = page.find_elements("css selector", "#list li:nth-child(3) .reference dd")
    assert len(references) == 5 and references[4].text.startswith("a dog number 2 as person 4")
    assert page.execute_script("return document.querySelectorAll('#list ins, #extremes *').length") == 0
