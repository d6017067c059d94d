"""The evaluation report in a real browser."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from evaluation_report_samples import CONFIG, HOSTILE, partial, some_history, some_outputs, some_results, write
from unrolled.cli import main
from unrolled.reports.evaluation_report import write_report


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A full report; example 3 holds hostile text in every place."""
    results, outputs = some_results(), some_outputs(240)
    outputs[3] |= {
        "input": HOSTILE,
        "reference": HOSTILE,
        "outputs": dict.fromkeys(results["strategies"], HOSTILE),
    }
    results["run"] = results["strategies"]["beam"]["settings"]["name"] = results["command"] = HOSTILE
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(results, outputs, some_history(), CONFIG, path)
    return path


@pytest.fixture
def page(browser: Any, report: Path) -> Any:
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "light"}]}
    )
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get_log("performance")
    browser.get_log("browser")
    browser.get(report.as_uri())
    return browser


def indices(page: Any) -> list[int]:
    labels = page.execute_script("return [...document.querySelectorAll('#list .input small')].map(n => n.textContent)")
    return [int(label.removeprefix("#")) for label in labels]


def set_value(page: Any, name: str, value: str) -> None:
    page.execute_script(
        "const n = document.getElementById(arguments[0]); n.value = arguments[1]; n.dispatchEvent(new Event('input'))",
        name,
        value,
    )


def click(page: Any, name: str) -> None:
    page.execute_script("document.getElementById(arguments[0]).click()", name)


def wait_until(page: Any, condition: Callable[[], bool]) -> None:
    wait = import_module("selenium.webdriver.support.wait").WebDriverWait(page, 10, poll_frequency=0.05)
    wait.until(lambda _: condition())


def emulate_width(page: Any, width: int) -> None:
    metrics = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 640}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def test_page_opens_without_network_or_errors(page: Any, report: Path) -> None:
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    assert {url for url in asked if not url.startswith("data:")} == {report.as_uri()}
    assert page.execute_script("return performance.getEntriesByType('resource').map(r => r.name)") == []
    assert page.get_log("browser") == []


def test_all_charts_are_drawn(page: Any) -> None:
    count = "return [...document.querySelectorAll('[data-chart]')].map(n => n.querySelectorAll('svg .trace').length)"
    wait_until(page, lambda: all(page.execute_script(count)))  # plotly draws on after the page has loaded
    assert len(page.execute_script(count)) == 7
    labels = page.execute_script(
        "return [...document.querySelectorAll('[data-chart]')].map(n => n.getAttribute('aria-label'))"
    )
    assert all(labels)


def test_hostile_text_is_shown_as_text(page: Any) -> None:
    set_value(page, "search", "onerror")
    shown = page.find_element("css selector", "#list li")
    assert shown.find_element("css selector", ".input").text.endswith(HOSTILE)
    assert shown.text.count(HOSTILE) == 3  # input, reference and the output of all three
    assert page.find_element("css selector", ".kicker b").text == HOSTILE
    assert page.find_element("css selector", ".copy code").text == HOSTILE
    assert page.execute_script("return document.querySelectorAll('img, main script').length") == 0
    assert page.title != "owned"


def test_config_is_shown_as_written(page: Any) -> None:
    assert page.find_element("css selector", "details pre").get_attribute("textContent") == CONFIG


def test_search_narrows_the_list(page: Any) -> None:
    everything = page.find_element("id", "count").text
    assert everything == "240 of 240 examples"
    set_value(page, "search", "GUITAR lake")
    inputs = [node.text for node in page.find_elements("css selector", "#list .input")]
    assert inputs and all("guitar" in text and "lake" in text for text in inputs)
    set_value(page, "search", "no such words")
    assert "No example matches" in page.find_element("id", "list").text


def test_sorting_and_paging(page: Any) -> None:
    assert indices(page) == list(range(10))
    click(page, "next")
    assert indices(page) == list(range(10, 20))
    set_value(page, "sort", "worst")
    set_value(page, "score-of", "1")  # sampling is the second of the run
    scores = {row["index"]: row["sentence_scores"]["sample"] for row in some_outputs(240)}
    assert [scores[i] for i in indices(page)] == sorted(scores.values())[:10]
    set_value(page, "sort", "longest")
    lengths = [len(node.text) for node in page.find_elements("css selector", "#list .input span")]
    assert lengths == sorted(lengths, reverse=True)


def test_filter_of_disagreements_and_missing_words(page: Any) -> None:
    click(page, "disagree")
    answers = page.execute_script(
        "return [...document.querySelectorAll('#list li')].map(li =>"
        "[...li.querySelectorAll('.answers > div:not(.reference) dd:not(.score)')].map(n => n.innerText))"
    )
    assert answers and all(len(set(texts)) > 1 for texts in answers)
    missing = page.find_element("css selector", "#list del")
    assert not missing.is_displayed()
    click(page, "missing")
    assert missing.is_displayed()


def test_dark_mode_changes_page_and_charts(page: Any) -> None:
    look = (
        "return [getComputedStyle(document.body).backgroundColor,"
        "getComputedStyle(document.querySelector('[data-chart] .xtick text')).fill]"
    )
    light_page, light_text = page.execute_script(look)
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    wait_until(page, lambda: page.execute_script(look)[1] != light_text)
    assert page.execute_script(look)[0] != light_page


@pytest.mark.parametrize("width", [320, 390, 768])
def test_no_sideways_scroll_of_the_page(page: Any, width: int) -> None:
    emulate_width(page, width)
    page.get(page.current_url)  # a refresh can be cut off by the end of the load before it
    set_value(page, "search", "onerror")
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    scrolls = "const box = document.querySelector('.scroll'); return box.scrollWidth > box.clientWidth"
    assert width > 640 or page.execute_script(scrolls)  # the table moves inside its box


CONTRASTS = """
const channel = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const luminance = (c) => { const [r, g, b] = c.match(/[\\d.]+/g).map(Number).map(channel);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const behind = (n) => { for (; n; n = n.parentElement) {
  const c = getComputedStyle(n).backgroundColor; if (!/^rgba.*, 0\\)$/.test(c)) return c; }
  return 'rgb(255, 255, 255)'; };
const poor = [];
for (const node of document.querySelectorAll('main *:not(svg *)')) {
  if (![...node.childNodes].some((c) => c.nodeType === 3 && c.textContent.trim()) || node.disabled) continue;
  const [a, b] = [luminance(getComputedStyle(node).color), luminance(behind(node))].sort((x, y) => y - x);
  if ((a + 0.05) / (b + 0.05) < 4.5) poor.push(node.outerHTML.slice(0, 90));
}
return poor;
"""


def poor_contrasts(page: Any, scheme: str) -> list[str]:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    poor: list[str] = page.execute_script(CONTRASTS)
    return poor


def header_scopes(page: Any) -> set[str]:
    return set(page.execute_script("return [...document.querySelectorAll('th')].map(n => n.scope)"))


def column(page: Any, rows: str, place: int) -> list[str]:
    """What a column of the shown `rows`, a selector, holds to be sorted by."""
    values: list[str] = page.execute_script(
        "return [...document.querySelectorAll(arguments[0])].filter(row => row.offsetParent).map(row =>"
        "row.cells[arguments[1]].dataset.value ?? row.cells[arguments[1]].textContent)",
        rows,
        place,
    )
    return values


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(page: Any, scheme: str) -> None:
    assert poor_contrasts(page, scheme) == []


def test_table_headers_have_a_scope(page: Any) -> None:
    assert header_scopes(page) == {"col", "row"}


def test_copy_buttons_answer(page: Any) -> None:
    button = page.find_element("css selector", "[data-copy]")
    page.execute_script("arguments[0].click()", button)
    wait_until(page, lambda: button.text in ("Copied", "Selected"))


def test_sparse_report_has_no_errors(browser: Any, tmp_path: Path) -> None:
    results = some_results()
    partial(results)
    outputs = [{"index": 0, "input": "A.", "reference": None, "outputs": {"beam of 10": "Ein."}}]
    write(tmp_path, results, outputs, [{"kind": "train", "step": 50, "loss": 5.0}])
    browser.get_log("browser")
    browser.get((tmp_path / "evaluation" / "report.html").as_uri())
    assert browser.get_log("browser") == []
    assert browser.find_element("css selector", "#list dd").text == "Ein."


def test_the_page_of_a_language_model(browser: Any, tmp_path: Path) -> None:
    """Samples side by side, charts drawn, hostile text as text, nothing wider than a phone."""
    text = f"{HOSTILE}\n" * 40
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    (tmp_path / "text.yaml").write_text(
        f"task: language_modeling\nstorage: {tmp_path}\nname: run\ndata: {{source: {tmp_path / 'text.txt'}}}\n"
        "model: {hidden: 16}\ntraining: {lanes: 2, truncate: 20, epochs: 1, log_every: 5}\n"
        f"evaluation: {{prime: {json.dumps(HOSTILE)}}}\n",
        encoding="utf-8",
    )
    assert main(["train", str(tmp_path / "text.yaml"), "--local"]) == 0
    assert main(["evaluate", str(tmp_path / "run"), "--split", "validation", "--local"]) == 0
    emulate_width(browser, 390)
    browser.get_log("browser")
    browser.get((tmp_path / "run" / "evaluation" / "validation" / "report.html").as_uri())
    count = "return [...document.querySelectorAll('[data-chart]')].map(n => n.querySelectorAll('svg .trace').length)"
    wait_until(browser, lambda: all(browser.execute_script(count)))
    assert len(browser.execute_script(count)) == 3
    assert browser.get_log("browser") == [] and browser.title != "owned"
    samples = [node.text for node in browser.find_elements("css selector", "pre.sample")]
    assert len(samples) == 3 and all(sample.startswith(HOSTILE) for sample in samples)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    assert browser.execute_script(CONTRASTS) == []
