"""The report of a sweep in a real browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_evaluation_report_browser import CONTRASTS, column, emulate_width, header_scopes, poor_contrasts, wait_until

from evaluation_report_samples import HOSTILE
from sweep_samples import CONFIG, all_diverged, bare, one_trial, some_sweep, two_objectives
from unrolled.reports.sweep_report import write_report

DRAWN = "return [...document.querySelectorAll('[data-chart]')].map(n => n.querySelectorAll('svg .trace, .hm').length)"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A full report with hostile text wherever a sweep has names."""
    sweep = some_sweep(40)
    cells = sweep["space"]["model.cell"]["values"]
    cells[cells.index("mut1")] = HOSTILE
    for one in sweep["trials"]:
        one["name"] += HOSTILE
        if one["parameters"]["model.cell"] == "mut1":
            one["parameters"]["model.cell"] = HOSTILE
        if one["reason"]:
            one["reason"] += HOSTILE
    sweep |= {"name": HOSTILE, "command": HOSTILE, "best": HOSTILE, "best_config": CONFIG + HOSTILE}
    path = tmp_path_factory.mktemp("sweep") / "report.html"
    write_report(sweep, path)
    return path


@pytest.fixture
def page(browser: Any, report: Path) -> Any:
    features = [{"name": "prefers-color-scheme", "value": "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get_log("performance")
    browser.get_log("browser")
    browser.get(report.as_uri())
    return browser


def test_it_opens_without_network_and_draws_every_chart(page: Any, report: Path) -> None:
    wait_until(page, lambda: all(page.execute_script(DRAWN)))
    # Importance, parallel, 4 of categories, 3 of ranges, pairs, curves, history, divergence, 4 of gradients, speed.
    assert len(page.execute_script(DRAWN)) == 18
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    assert {url for url in asked if not url.startswith("data:")} == {report.as_uri()}
    assert page.get_log("browser") == []
    labels = page.execute_script("return [...document.querySelectorAll('[data-chart]')].map(n => n.ariaLabel)")
    assert all(labels)


def test_hostile_names_are_shown_as_text(page: Any) -> None:
    wait_until(page, lambda: all(page.execute_script(DRAWN)))
    assert page.find_element("css selector", ".kicker b").text == HOSTILE
    assert page.find_element("css selector", "#provenance .copy code").text == HOSTILE
    assert page.execute_script("return document.querySelectorAll('main img, main script').length") == 0
    assert page.title != "owned"
    ticks = page.execute_script("return [...document.querySelectorAll('#values .ytick text')].map(n => n.textContent)")
    assert any(tick.startswith(HOSTILE[:20]) for tick in ticks)


def test_the_config_is_copied_as_written(page: Any) -> None:
    box = page.find_element("css selector", "#winner .copy")
    assert box.find_element("tag name", "code").get_attribute("textContent") == CONFIG + HOSTILE
    button = box.find_element("tag name", "button")
    page.execute_script("arguments[0].click()", button)
    wait_until(page, lambda: button.text in ("Copied", "Selected"))


def shown(page: Any, place: int) -> list[str]:
    return column(page, "#points tbody tr", place)


def test_the_table_is_short_until_asked_and_sorts_whole(page: Any) -> None:
    buttons = page.find_elements("css selector", "#points [data-sort]")
    assert len(shown(page, 0)) == 12
    page.execute_script("arguments[0].click()", buttons[2])  # loss at the common step, largest first
    largest = [float(value) for value in shown(page, 2)]
    assert largest == sorted(largest, reverse=True)
    more = page.find_element("css selector", "[data-shortens]")
    assert more.text == "Show all 40"
    page.execute_script("arguments[0].click()", more)
    everything = [float(value) for value in shown(page, 2) if value]
    assert everything == sorted(everything, reverse=True) and everything[:12] == largest
    assert len(shown(page, 0)) == 40 and more.text == "Show the first"


def test_another_table_of_pairs_can_be_chosen(page: Any) -> None:
    wait_until(page, lambda: all(page.execute_script(DRAWN)))
    select = page.find_element("css selector", "#pairs [data-chooses]")
    texts = "return [...document.querySelectorAll('#pairs .annotation-text')].map(n => n.textContent)"
    before = page.execute_script(texts)
    page.execute_script("arguments[0].value = 'pairs-2'; arguments[0].dispatchEvent(new Event('input'))", select)
    wait_until(page, lambda: page.execute_script(texts) != before)
    assert [one.text for one in select.find_elements("tag name", "option")] == [
        "Mean loss at step 100",
        "Best loss at step 100",
        "Mean loss at the end",
        "Best loss at the end",
    ]


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_is_wider_than_the_page(page: Any, width: int) -> None:
    emulate_width(page, width)
    page.get(page.current_url)  # a refresh can be cut off by the end of the load before it
    page.execute_script("for (const box of document.querySelectorAll('details')) box.open = true")
    wait_until(page, lambda: all(page.execute_script(DRAWN)))
    assert page.execute_script("return document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(page: Any, scheme: str) -> None:
    assert poor_contrasts(page, scheme) == []


def test_table_headers_have_a_scope(page: Any) -> None:
    assert header_scopes(page) == {"col", "row"}


@pytest.mark.parametrize(
    "make", [two_objectives, all_diverged, one_trial, bare, lambda: some_sweep(14, seeds=3, asha=False)]
)
def test_sparse_sweeps_have_no_errors(browser: Any, tmp_path: Path, make: Any) -> None:
    page = tmp_path / "report.html"
    write_report(make(), page)
    emulate_width(browser, 390)
    browser.get_log("browser")
    browser.get(page.as_uri())
    wait_until(browser, lambda: all(browser.execute_script(DRAWN)))
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    assert browser.execute_script(CONTRASTS) == []
